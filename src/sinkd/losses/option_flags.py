"""The options of a term: a frozen dataclass that defines its keywords, flags, help and card lines."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, ClassVar, Literal, NamedTuple, TypeVar, get_args, get_origin, get_type_hints

from ..errors import SinkdError

OptionsT = TypeVar("OptionsT", bound="Options")


@dataclass(frozen=True)
class Options:
    """Options of a term. Subclass it with one `option` per field; `__post_init__` may raise SinkdError."""

    prefix: ClassVar[str] = ""
    """Prefix of the flags; the term's name by default."""


def option(default: Any, text: str, *, flag: str | None = None) -> Any:
    """A field of `Options`, with its help.

    Its flag is `prefix_field`, as in `sinkhorn_cost`, or `flag`. Terms may share a flag if its type, default and help
    agree.
    """
    return field(default=default, metadata={"help": text, "flag": flag})


class Flag(NamedTuple):
    """An option's command-line flag; `field` is its name among the term's options."""

    field: str
    type: Any
    default: Any
    help: str


def flags_of(term: str, options: type[Options]) -> dict[str, Flag]:
    """The flags of a term by name, in the order of its options."""
    types = get_type_hints(options)
    found = {}
    for f in fields(options):
        if f.default is MISSING or "help" not in f.metadata:
            raise TypeError(f"{options.__name__}.{f.name} needs a default and a help text; declare it with option()")
        found[f.metadata["flag"] or f"{options.prefix or term}_{f.name}"] = Flag(
            f.name, types[f.name], f.default, f.metadata["help"]
        )
    return found


def read_options(term: str, options: type[OptionsT], given: Mapping[str, Any]) -> OptionsT:
    """The options of a term from keywords.

    Raises:
        SinkdError: for an unknown keyword, or a value out of range.
    """
    flags = {flag.field: flag for flag in flags_of(term, options).values()}
    for name, value in given.items():
        if name not in flags:
            known = f"its options are {', '.join(flags)}" if flags else "it has no options"
            raise SinkdError(f'the term {term} has no option "{name}"; {known}')
        choices = get_args(flags[name].type)
        if get_origin(flags[name].type) is Literal and value not in choices:
            raise SinkdError(f'{term}: {name} is "{value}"; it must be one of {", ".join(map(str, choices))}')
    return options(**given)
