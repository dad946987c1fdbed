"""The families of models, and students made of layers."""

from sinkd.models.choose_family import family_of, student_and_teachers
from sinkd.models.config import find_checkpoint
from sinkd.models.encoder import Encoder, load_encoder
from sinkd.models.family import Family
from sinkd.models.head import cut_head, decoder_start, shared_vocabulary
from sinkd.models.language_model import LanguageModel, load_language_model
from sinkd.models.prompted import PromptedClassifier
from sinkd.models.student import choose_layers, copy_layers, depth, keep_layers, stack
from sinkd.models.tokenizer import load_tokenizer, tokenizers_of

__all__ = [
    "Encoder",
    "Family",
    "LanguageModel",
    "PromptedClassifier",
    "choose_layers",
    "copy_layers",
    "cut_head",
    "decoder_start",
    "depth",
    "family_of",
    "find_checkpoint",
    "keep_layers",
    "load_encoder",
    "load_language_model",
    "load_tokenizer",
    "shared_vocabulary",
    "stack",
    "student_and_teachers",
    "tokenizers_of",
]
