"""Read flags from a command line or YAML file and check types and choices; errors suggest the nearest flag."""

import argparse
import difflib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from transformers import HfArgumentParser, TrainingArguments
from transformers.hf_argparser import HfArg

from sinkd.errors import SinkdError, first_sentence
from sinkd.training.unserved_flags import UNSERVED, served


def flag(default: Any, text: str, *aliases: str) -> Any:
    """Return a dataclass field for a flag with this default and help."""
    return HfArg(default=default, help=text, aliases=list(aliases) or None)


def read_yaml(path: Path, example: str) -> Any:
    """The content of the `--config` file. Raises SinkdError if it does not exist or is not YAML."""
    if not path.is_file():
        raise SinkdError(f"--config names {path}, which does not exist; give a YAML file, as in {example}")
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SinkdError(f"{path} is not YAML: {first_sentence(error)}") from error


class ArgumentParser(argparse.ArgumentParser):
    """argparse with one-sentence errors, without the usage, which would fill several screens."""

    def error(self, message: str) -> Any:
        """Raise SinkdError instead of leaving the program."""
        raise SinkdError(f"{message}; see --help")


class FlagParser(HfArgumentParser):
    """A command's flags, generated from the dataclass of its arguments; see also `unserved_flags`."""

    error = ArgumentParser.error

    def __init__(self, kind: type[TrainingArguments], prog: str | None = None):
        # No abbreviations: a new flag would change the meaning of older commands.
        super().__init__(kind, prog=prog, allow_abbrev=False)
        # A switch comes before its --no_... form, whose default is another.
        self._defaults_of = {action.dest: action.default for action in reversed(self._actions)}
        for action in self._actions:
            if action.dest in UNSERVED:
                action.help = argparse.SUPPRESS

    def typed(self, argv: Sequence[str]) -> dict[str, Any]:
        """The values on a command line, by field name, without defaults.

        Raises:
            SinkdError: for an unknown flag (names the nearest), one that is not served, or an invalid value.
        """
        untyped = object()
        namespace = argparse.Namespace(**dict.fromkeys((action.dest for action in self._actions), untyped))
        namespace, unknown = self.parse_known_args(argv, namespace)
        if unknown:
            raise SinkdError(f'"{unknown[0]}" is no flag of {self.prog}{self._nearest(unknown[0].lstrip("-"))}')
        given = {name: value for name, value in vars(namespace).items() if value is not untyped}
        return served(given, self._defaults_of)

    def read(self, path: Path) -> dict[str, Any]:
        """The values in a YAML file, by field name.

        Raises:
            SinkdError: for a missing file, invalid YAML, an unknown key (names the nearest), or an invalid value.
        """
        content = read_yaml(path, "recipes/glue/") or {}
        if not isinstance(content, dict):
            kind = type(content).__name__
            raise SinkdError(f"{path} must hold keys and values, as in recipes/glue/; it holds a {kind}")
        return self.checked(content, str(path))

    def checked(self, settings: Mapping[Any, Any], place: str) -> dict[str, Any]:
        """Settings from `place` by field name, with the types that the command line would give them.

        Raises:
            SinkdError: for an unknown key (names the nearest), one that is not served, or an invalid value.
        """
        values = {}
        for key, value in settings.items():
            action = self._option_string_actions.get(f"--{key}")
            if action is None or action.nargs == 0:  # --help, and the --no_... form of a switch
                raise SinkdError(f'{place} sets "{key}", which is no flag{self._nearest(str(key))}')
            values[action.dest] = _converted(action, value, key, place)
        return served(values, self._defaults_of, place)

    def _nearest(self, name: str) -> str:
        shown = [a for a in self._actions if a.nargs != 0 and a.dest not in UNSERVED]
        known = [option.lstrip("-") for action in shown for option in action.option_strings]
        close = difflib.get_close_matches(name, known, n=1)
        return f'; did you mean "{close[0]}"?' if close else ""


def _converted(action: argparse.Action, value: Any, key: str, place: str) -> Any:
    """A YAML value, read as on the command line: YAML reads 5e-5 as text, and a flag takes [0, 2, 4] as 0,2,4."""
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
