"""Load a checkpoint's weights with transformers, and report what is wrong with a file in one sentence.

A `pytorch_model.bin` is a pickle, from which torch reads only tensors. Torch's error for other content suggests loading
it anyway, so that error is replaced.
"""

import pickle
import re
from pathlib import Path
from typing import Any

import transformers
from safetensors import SafetensorError
from transformers import PreTrainedModel

from sinkd.errors import SinkdError, first_sentence
from sinkd.models.config import gguf_file


def load_weights(kind: Any, folder: str, named: str, **keywords: Any) -> tuple[PreTrainedModel, list[str]]:
    """Load a float32 model from a folder or the hub.

    Args:
        kind: An auto class of transformers.
        named: How the user named the model, as in "--model_path models/bert".
        keywords: Those of `from_pretrained`.

    Returns:
        The model, and the names of its weights that the files lack.

    Raises:
        SinkdError: if the files cannot be read, contain more than tensors, or have shapes that differ from the
            config's.
    """
    # For mismatched shapes transformers would print a report, and name no weight in its error.
    keywords |= {"dtype": "float32", "output_loading_info": True, "ignore_mismatched_sizes": True}
    converted = gguf_file(folder)
    if converted:
        keywords |= converted
        if hasattr(transformers, "GgufConfig"):  # older versions always convert to float32 while loading
            keywords["quantization_config"] = transformers.GgufConfig(dequantize=True)
    try:
        model, found = kind.from_pretrained(folder, **keywords)
    except (pickle.UnpicklingError, EOFError) as error:
        asked = re.search(r"GLOBAL (\S+)", str(error))
        reason = (
            f"holds more than tensors (it asks for {asked[1]})" if asked else "is truncated, or holds more than tensors"
        )
        raise SinkdError(
            f"{named} is refused: its pytorch_model.bin {reason}, and opening such a file can run another's code; "
            "fetch it again, or ask for the weights as model.safetensors"
        ) from error
    except Exception as error:  # a config with a wrong value fails in any way
        raise SinkdError(f"{named} cannot be loaded: {_reason(error, Path(folder))}") from error
    for name, there, wanted in sorted(found["mismatched_keys"]):
        raise SinkdError(
            f"{named} does not fit its config: {name} has the shape {tuple(there)}, and {tuple(wanted)} is asked for"
        )
    if converted:
        model.hf_quantizer = None  # else it could not be saved as any other
        vars(model.config).pop("quantization_config", None)
    return model, sorted(found["missing_keys"])


def _reason(error: Exception, folder: Path) -> str:
    """The error's first sentence, with the file if it is truncated: neither torch nor the system name it."""
    files = [folder / name for name in ("model.safetensors", "pytorch_model.bin") if (folder / name).is_file()]
    nameless = not isinstance(error, OSError) or error.errno is not None
    if files and (isinstance(error, SafetensorError) or (nameless and files[0].suffix == ".bin")):
        return f"{files[0]} is truncated or damaged ({first_sentence(error)}); fetch it again"
    known = isinstance(error, OSError | ValueError | RuntimeError)
    return first_sentence(error) if known else f"{type(error).__name__}: {first_sentence(error)}"
