"""How a field of the arguments becomes a flag."""

from typing import Any

from transformers.hf_argparser import HfArg


def flag(default: Any, text: str, *aliases: str, **kwargs: Any) -> Any:
    """A dataclass field that is a flag, with a default and its line of help."""
    return HfArg(default=default, help=text, aliases=list(aliases) or None, **kwargs)
