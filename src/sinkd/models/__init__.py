"""Who teaches and who learns: loading encoders and language models, and making students out of layers."""

from sinkd.models.encoder import find_checkpoint, load_encoder, load_tokenizer, shared_tokenizer
from sinkd.models.fresh import train_tokenizer, write_encoder
from sinkd.models.language import cut_head, decoder_start, load_language_model, shared_vocabulary
from sinkd.models.student import choose_layers, copy_layers, depth, keep_layers, stack

__all__ = [
    "choose_layers",
    "copy_layers",
    "cut_head",
    "decoder_start",
    "depth",
    "find_checkpoint",
    "keep_layers",
    "load_encoder",
    "load_language_model",
    "load_tokenizer",
    "shared_tokenizer",
    "shared_vocabulary",
    "stack",
    "train_tokenizer",
    "write_encoder",
]
