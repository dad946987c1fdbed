"""A command line over a recipe over defaults, read into the arguments of a run.

What a recipe or a sweep's file sets is held to the same types and choices as what is typed, and complaints name the
nearest flag.
"""

import argparse
import difflib
import json
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

import yaml
from transformers import HfArgumentParser

from sinkd.errors import SinkdError
from sinkd.training.arguments import TaskArguments

# What per_gpu_batch_size sets.
SIZES = {"per_device_train_batch_size", "per_device_eval_batch_size"}

ArgumentsT = TypeVar("ArgumentsT", bound=TaskArguments)


class ArgumentParser(argparse.ArgumentParser):
    """argparse whose complaints are one sentence: its usage would be several screens of flags."""

    def error(self, message: str) -> Any:
        raise SinkdError(f"{message}; see --help")


class _Parser(HfArgumentParser):
    """Flags from a dataclass, which names the nearest flag where one was mistyped."""

    error = ArgumentParser.error

    def nearest(self, name: str) -> str:
        known = [option.lstrip("-") for option, action in self._option_string_actions.items() if action.nargs != 0]
        close = difflib.get_close_matches(name, known, n=1)
        return f'; did you mean "{close[0]}"?' if close else ""


def parse_arguments(
    kind: type[ArgumentsT], argv: Sequence[str], prog: str, recipe: Path | None = None, **defaults: Any
) -> ArgumentsT:
    """Read a command line: flags over `--config` over `recipe` over `defaults` over the dataclass.

    Raises SinkdError for an unknown flag or key (naming the nearest), and for a value that does not fit.
    """
    # Abbreviations would make a flag that is added later change what an older command means.
    parser = _Parser(kind, prog=prog, allow_abbrev=False, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.set_defaults(**defaults)
    early = ArgumentParser(add_help=False, allow_abbrev=False)
    early.add_argument("--config")
    given, _ = early.parse_known_args(argv)
    for path in filter(None, [recipe, given.config]):
        _underlay(parser, _read_recipe(Path(path), parser))
    actions = [parser._option_string_actions.get(word.partition("=")[0]) for word in argv]
    _underlay(parser, {action.dest: action.default for action in filter(None, actions)})
    namespace, unknown = parser.parse_known_args(argv)
    if unknown:
        raise SinkdError(f'"{unknown[0]}" is no flag of {prog}{parser.nearest(unknown[0].lstrip("-"))}')
    values = {f.name: getattr(namespace, f.name) for f in fields(kind) if f.init and hasattr(namespace, f.name)}
    try:
        return kind(**values)
    except SinkdError:
        raise
    except (ValueError, TypeError) as error:  # what transformers refuses, in its own words
        raise SinkdError(str(error)) from error


def _underlay(parser: _Parser, settings: dict[str, Any]) -> None:
    """Make settings the parser's defaults: a size for training or evaluation wins over an earlier one for both."""
    both = parser.get_default("per_gpu_batch_size")
    if both is not None and SIZES & settings.keys():
        parser.set_defaults(per_gpu_batch_size=None, **dict.fromkeys(SIZES, both))
    parser.set_defaults(**settings)


def _read_recipe(path: Path, parser: _Parser) -> dict[str, Any]:
    if not path.is_file():
        raise SinkdError(f"--config names {path}, which does not exist; give a YAML file, as in recipes/glue/")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SinkdError(f"{path} is not YAML: {str(error).splitlines()[0]}") from error
    if not isinstance(content, dict):
        raise SinkdError(f"{path} must hold keys and values, as in recipes/glue/; it holds a {type(content).__name__}")
    return _settings(content, parser, str(path))


def _settings(content: Mapping[Any, Any], parser: _Parser, place: str) -> dict[str, Any]:
    settings = {}
    for key, value in content.items():
        action = parser._option_string_actions.get(f"--{key}")
        if action is None or action.nargs == 0:  # --help, and --no_... of a flag that is on
            raise SinkdError(f'{place} sets "{key}", which is no flag{parser.nearest(str(key))}')
        settings[action.dest] = _typed(action, value, key, place)
    return settings


def check_settings(kind: type[TaskArguments], settings: Mapping[Any, Any], place: str) -> dict[str, Any]:
    """Flags that a file at `place` sets, each under the name of its field and as its type.

    Raises SinkdError for an unknown key (naming the nearest), and for a value that does not fit.
    """
    return _settings(settings, _Parser(kind, allow_abbrev=False), place)


def words(settings: Mapping[str, Any]) -> list[str]:
    """Checked settings as they are typed on a command line; what is None is left out."""
    line: list[str] = []
    for name, value in settings.items():
        if isinstance(value, list):
            line += [f"--{name}", *map(str, value)]
        elif value is not None:
            text = json.dumps(value) if isinstance(value, dict) else str(value)
            line += [f"--{name}={text}"] if text.startswith("-") else [f"--{name}", text]
    return line


def _typed(action: argparse.Action, value: Any, key: str, place: str) -> Any:
    """What YAML read, as the command line would have read it: 5e-5 is text to YAML, [0, 2, 4] is 0,2,4 to a flag."""
    if value is None and action.default is None:
        return None
    if isinstance(value, list) and (action.nargs == "+" or isinstance(action.default, list)):
        return value
    convert = action.type if callable(action.type) else str
    if isinstance(value, list) and convert is str:
        text = ",".join(map(str, value))
    else:
        text = json.dumps(value) if isinstance(value, dict) else str(value)
    try:
        if value is None:
            raise ValueError("the value is missing")
        typed = convert(text)
    except (ValueError, TypeError, argparse.ArgumentTypeError) as error:
        raise SinkdError(f"{place} sets {key} to {value!r}, which does not fit: {error}") from error
    if action.choices is not None and typed not in action.choices:
        raise SinkdError(f"{place} sets {key} to {value!r}; it must be one of {', '.join(map(str, action.choices))}")
    return typed
