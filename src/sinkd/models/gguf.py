"""Folders with a model in one GGUF file (llama.cpp), from which transformers reads weights, config and tokenizer."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import transformers
from transformers import PreTrainedModel

from sinkd.errors import SinkdError

OTHER_WEIGHTS = ("*.safetensors", "*.bin")


def gguf_file(folder: str | Path) -> dict[str, str]:
    """Return the keyword for transformers' `from_pretrained` that names a folder's GGUF file; {} for other folders.

    Raises:
        SinkdError: for several such files, or if the package gguf is missing.
    """
    files = sorted(Path(folder).glob("*.gguf"))
    if not files or any(path for kind in OTHER_WEIGHTS for path in Path(folder).glob(kind)):
        return {}
    if len(files) > 1:
        names = ", ".join(path.name for path in files)
        raise SinkdError(f"{folder} holds {len(files)} GGUF files ({names}); leave one, in a folder of its own")
    if find_spec("gguf") is None:
        raise SinkdError(f"{files[0]} needs the package gguf; install it with .venv/bin/pip install gguf")
    return {"gguf_file": files[0].name}


def dense() -> dict[str, Any]:
    """Return the keyword that makes transformers convert a GGUF file's weights to float32 while loading.

    Older versions always do.
    """
    config = getattr(transformers, "GgufConfig", None)
    return {} if config is None else {"quantization_config": config(dequantize=True)}


def forget_gguf(model: PreTrainedModel) -> None:
    """Let a model with converted weights be saved as any other."""
    model.hf_quantizer = None
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
