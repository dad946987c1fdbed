"""Find a model's folder, with a config.json or with one GGUF file (llama.cpp), and load its config."""

from __future__ import annotations

import copy
import functools
import json
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

from transformers import AutoConfig, BertConfig, PretrainedConfig

from sinkd.errors import SinkdError, first_sentence
from sinkd.models.seal import SEAL, damaged

# Where the published system puts the best model of a run, inside the run's folder.
PUBLISHED_BEST = Path("checkpoints", "best_checkpoint")
OTHER_WEIGHTS = ("*.safetensors", "*.bin")


def find_checkpoint(path: str, flag: str) -> str:
    """Return the folder that holds a model: `path`, or the best checkpoint of a published run inside it.

    A model is a config.json with weights, or a GGUF file.

    A path that does not exist is a name on the hub, unless it looks like a path.

    Raises:
        SinkdError: if the folder does not exist, contains no model, or a file that changed after sinkd wrote it.
    """
    folder = Path(path).expanduser()
    if not folder.exists():
        if path.startswith((".", "/", "~")) or path.count("/") > 1 or path.endswith("/"):
            raise SinkdError(f"{flag} names {path}, which does not exist; give a model's folder or a name on the hub")
        return path
    tried = [folder, folder / PUBLISHED_BEST]
    for candidate in tried:
        if (candidate / "config.json").is_file() or gguf_file(candidate):
            if (broken := damaged(candidate, missing_ok=True)) is not None:
                raise SinkdError(
                    f"{flag} {path} is refused: {broken} is not as it was written; copy it again, or delete "
                    f"{candidate / SEAL} if you changed it"
                )
            return str(candidate)
    raise SinkdError(f"{flag} names {path}, which holds no model: no config.json in {tried[0]} or {tried[1]}")


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


def load_config(path: str, flag: str) -> PretrainedConfig:
    """Load the config of the model at `path`; SinkdError if that fails."""
    folder = find_checkpoint(path, flag)
    own = Path(folder, "config.json").is_file()
    try:
        if not own and (file := gguf_file(folder)):
            source = Path(folder, file["gguf_file"])
            return copy.deepcopy(_gguf_config(source, source.stat().st_mtime_ns))
        return untyped_bert(Path(folder)) or AutoConfig.from_pretrained(folder)
    except SinkdError:
        raise
    except Exception as error:  # a value that a config's class does not expect may fail in any way
        raise SinkdError(f"{flag} {path} cannot be loaded: {first_sentence(error)}") from error


@functools.lru_cache(maxsize=8)
def _gguf_config(path: Path, changed: int) -> PretrainedConfig:
    # transformers parses the whole header, vocabulary included, which takes seconds.
    return AutoConfig.from_pretrained(path.parent, gguf_file=path.name)


def untyped_bert(folder: Path) -> BertConfig | None:
    """Load a config that names no model type, as in BERT's first releases; None for any other."""
    path = folder / "config.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except (ValueError, RecursionError) as error:
        raise SinkdError(f"{path} is truncated or damaged ({first_sentence(error)}); fetch it again") from error
    if not isinstance(content, dict):
        raise SinkdError(f"{path} holds no JSON object, which a config is")
    # RoBERTa has one token type, DistilBERT none.
    is_bert = "model_type" not in content and content.get("type_vocab_size") == 2
    return BertConfig.from_dict(content) if is_bert else None


def override(config: PretrainedConfig, values: Mapping[str, object] | None, path: str) -> None:
    """Set values of the config at `path`, in place; SinkdError for a name that it does not have."""
    for key, value in (values or {}).items():
        if not hasattr(config, key):
            raise SinkdError(f'--config_overrides sets "{key}", which the config of {path} does not have')
        setattr(config, key, value)
