"""How a model reads a task: the settings, and what both families make of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from datasets import Dataset
from torch import nn
from transformers import PreTrainedModel

from sinkd.errors import SinkdError


@dataclass(frozen=True)
class Reading:
    """How a task's rows are read; each field is the flag of its name, and `seed` draws shots and wordings."""

    seed: int = 0
    max_train_rows: int | None = None
    max_dev_rows: int | None = None
    max_seq_length: int = 128
    unlabeled_file: str | None = None
    do_lower_case: bool = False
    tokenizer_name: str | None = None
    config_name: str | None = None
    template_name: str | None = None
    templates_dir: str | None = None
    max_length: int = 1024
    target_max_length: int = 256
    input_eos: bool = False
    pad_to_max_length: bool = False
    num_shots: int | None = None
    length_normalize: bool = False
    parallelize: bool = False

    @classmethod
    def of(cls, settings: Any) -> Reading:
        """The fields of these names of any settings; defaults where there are none."""
        given: dict[str, Any] = {f.name: getattr(settings, f.name) for f in fields(cls) if hasattr(settings, f.name)}
        return cls(**given)


def refuse_flags(settings: Any, defaults: Mapping[str, Any], why: str) -> None:
    """Raise SinkdError for a flag that is not at its default: flag -> default, and why it cannot be given."""
    for name, default in defaults.items():
        if getattr(settings, name, default) != default:
            raise SinkdError(f"--{name} {why}; leave it out")


def first(rows: Dataset, most: int | None) -> Dataset:
    """The first `most` rows; all of them for None."""
    return rows if most is None else rows.select(range(min(len(rows), most)))


def positions(model: PreTrainedModel) -> int | None:
    """How many tokens of a row a model can read; None where its config sets no limit.

    A position embedding with a padding index (RoBERTa's) counts positions from behind that index.
    """
    most = getattr(model.config, "max_position_embeddings", None)
    tokens = model.get_input_embeddings()
    for module in model.modules():
        if isinstance(module, nn.Embedding) and module is not tokens and module.num_embeddings == most:
            return most if module.padding_idx is None else most - module.padding_idx - 1
    return most


def refuse_long_rows(model: PreTrainedModel, sets: Iterable[Dataset], flag: str) -> None:
    """Raise SinkdError for rows that are longer than what the model reads.

    flag: what makes them shorter, with {} for the length that fits.
    """
    most = positions(model)
    if most is None:
        return
    for rows in sets:
        longest = max(rows.select_columns(["length"]).with_format("numpy")[:]["length"], default=0)
        if longest > most:
            longest_rows = f"rows of up to {longest} tokens do not fit the model, which reads {most}"
            raise SinkdError(f"{longest_rows}; give {flag.format(most)}")
