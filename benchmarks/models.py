"""Untrained language models, for whoever wants to try the commands before a pretrained model is at hand.

    python -m benchmarks.models models

writes `models/t5-teacher`, `t5-student`, `gpt-teacher` and `gpt-student` (T5 and GPT-Neo), with byte pairs learned from
COPA's training rows as their one tokenizer. They know no English: what they show is that the whole way runs.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Iterable
from pathlib import Path

from tokenizers import ByteLevelBPETokenizer
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    GPT2Config,
    GPTNeoConfig,
    PretrainedConfig,
    PreTrainedTokenizerFast,
    T5Config,
    set_seed,
)
from transformers.utils import logging as transformers_logging

from sinkd.estimate.shape import read_shape
from sinkd.report import Table, show
from sinkd.tasks import load_superglue

PAD, END = "<pad>", "</s>"
SHAPES = {"teacher": (256, 4), "student": (128, 2)}  # width, layers
KINDS = {"t5": "t5", "gpt": "gpt_neo"}
TEXTS = ("premise", "choice1", "choice2")


def write_model(
    folder: Path, kind: str, tokenizer: Path | PreTrainedTokenizerFast, width: int, layers: int, vocabulary: int
) -> str:
    """An untrained t5, gpt2 or gpt_neo with its tokenizer beside it; its folder.

    tokenizer: itself, or a folder with its files. width: of the hidden states, a multiple of 32.
    """
    set_seed(width)
    config = _config(kind, width, layers, vocabulary)
    family = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    family.from_config(config).save_pretrained(folder)
    if isinstance(tokenizer, Path):
        for file in tokenizer.iterdir():
            if file.suffix in (".model", ".json", ".txt") and "config" not in file.name:
                shutil.copy2(file, folder / file.name)
    else:
        tokenizer.save_pretrained(folder)
    return str(folder)


def _config(kind: str, width: int, layers: int, vocabulary: int) -> PretrainedConfig:
    """Models this small learn a few hundred rows only without dropout."""
    heads = width // 32
    if kind == "t5":
        shape = {"d_model": width, "d_kv": 32, "d_ff": 2 * width, "num_layers": layers, "num_heads": heads}
        return T5Config(**shape, vocab_size=vocabulary, dropout_rate=0.0, decoder_start_token_id=0)
    if kind == "gpt2":
        quiet = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
        shape = {"n_embd": width, "n_layer": layers, "n_head": heads, "n_positions": 512}
        return GPT2Config(**shape, **quiet, vocab_size=vocabulary)
    shape = {"hidden_size": width, "num_layers": layers, "num_heads": heads, "max_position_embeddings": 512}
    quiet = {"resid_dropout": 0.0, "embed_dropout": 0.0, "attention_dropout": 0.0}
    ends = {"bos_token_id": 1, "eos_token_id": 1, "pad_token_id": 0}
    return GPTNeoConfig(
        **shape, **quiet, **ends, vocab_size=vocabulary, attention_types=[[["global", "local"], layers // 2]]
    )


def train_tokenizer(texts: Iterable[str], vocabulary: int = 4000) -> PreTrainedTokenizerFast:
    """Byte pairs learned from texts, at most so many; padding is 0 and the end of sequence 1."""
    learned = ByteLevelBPETokenizer()
    learned.train_from_iterator(texts, vocabulary, min_frequency=2, show_progress=False, special_tokens=[PAD, END])
    names = ["input_ids", "attention_mask"]
    return PreTrainedTokenizerFast(
        tokenizer_object=learned._tokenizer, pad_token=PAD, eos_token=END, model_input_names=names
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the models' folders go")
    parser.add_argument("--data_dir", type=Path, help="the folder of COPA (default: datas/superglue, else the hub)")
    options = parser.parse_args()
    transformers_logging.disable_progress_bar()
    rows = load_superglue("copa", options.data_dir).read("train")
    tokenizer = train_tokenizer(text for name in TEXTS for text in rows[name])
    table = Table("untrained, with one tokenizer", ["folder", "model", "parameters", "vocabulary"])
    for name, kind in KINDS.items():
        for role, (width, layers) in SHAPES.items():
            path = options.folder / f"{name}-{role}"
            write_model(path, kind, tokenizer, width, layers, len(tokenizer))
            table.add(path, kind, f"{read_shape(str(path), 'the model').parameters:,}", len(tokenizer))
    show(table)


if __name__ == "__main__":
    main()
