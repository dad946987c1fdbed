"""Read flags from a command line or YAML file and check types and choices; errors suggest the nearest flag."""

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import field
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from sinkd.errors import SinkdError, first_sentence, unknown
from sinkd.training.flag_help import describe_topic, overview
from sinkd.training.unserved_flags import UNSERVED, served


def flag(default: Any, text: str, *aliases: str) -> Any:
    """Return a dataclass field for a flag with this default and help. The help's first sentence is its short form."""
    return field(default=default, metadata={"help": text, "aliases": list(aliases)})


def read_yaml(path: Path, example: str) -> Any:
    """The content of the `--config` file. Raises SinkdError if it does not exist or is not YAML."""
    if not path.is_file():
        raise SinkdError(f"--config names {path}, which does not exist; give a YAML file, as in {example}")
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except Exception as error:  # PyYAML fails in any way on a value with a wrong tag
        mark = getattr(error, "problem_mark", None)
        place = f"line {mark.line + 1}: {getattr(error, 'problem', '')}" if mark else first_sentence(error)
        raise SinkdError(f"{path} is not YAML ({place})") from error


class ArgumentParser(argparse.ArgumentParser):
    """argparse with one-sentence errors, without the usage, which would fill several screens."""

    def error(self, message: str) -> Any:
        """Raise SinkdError instead of leaving the program."""
        raise SinkdError(f"{message}; see --help")


class Flag(NamedTuple):
    """A flag as plain data. `nargs` is argparse's; `topic` is its place in the help, and `terms` use it."""

    name: str
    help: str
    topic: str = ""
    default: Any = None
    type: str = "str"
    nargs: Any = None
    choices: Sequence[str] | None = None
    aliases: Sequence[str] = ()
    terms: str = ""
    operand: bool = False


def _switch(text: str) -> bool:
    if text.lower() in ("yes", "true", "t", "y", "1"):
        return True
    if text.lower() in ("no", "false", "f", "n", "0"):
        return False
    raise argparse.ArgumentTypeError(f'"{text}" is neither true nor false')


TYPES: dict[str, Callable[[str], Any]] = {"str": str, "int": int, "float": float, "bool": _switch}


class FlagParser(ArgumentParser):
    """A command's flags, from their descriptions. It needs no library, so that help and errors are fast.

    Args:
        flags: In the order of the help.
        prog, description: As in argparse.
        terms: The terms of an objective, with a line about each.
    """

    def __init__(
        self,
        flags: Sequence[Flag],
        prog: str | None = None,
        description: str | None = None,
        terms: Mapping[str, str] | None = None,
    ):
        # No abbreviations: a new flag would change the meaning of older commands.
        super().__init__(
            prog=prog,
            description=description,
            allow_abbrev=False,
            add_help=False,
            argument_default=argparse.SUPPRESS,
        )
        self.flags = {flag.name: flag for flag in flags}
        self.terms = terms or {}
        for flag in flags:
            _add(self, flag)
        self.add_argument("-h", "--help", nargs="?", const="", action=_Help, help="show the flags, or those of a topic")
        self.add_argument("--help-all", "--help_all", nargs=0, const="all", action=_Help, help="show all flags")

    def typed(self, argv: Sequence[str]) -> dict[str, Any]:
        """The values on a command line, by field name, without defaults.

        Raises:
            SinkdError: for an unknown flag or term (names the nearest), a flag that is not served, or an invalid value.
        """
        namespace, others = self.parse_known_args([_underscored(word) for word in argv])
        if others:
            name = others[0].partition("=")[0]
            raise self._unknown(f'{self.prog} has no flag "{name}"', name, "--")
        given = vars(namespace)
        for part in given["distill_loss"].split("+") if "distill_loss" in given else []:
            term = part.partition(":")[0].strip()
            if term not in self.terms:
                raise unknown(f'"{term}" is no term of an objective', term, self.terms)
        return served(given, self._by_default)

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
        names = {alias.lstrip("-"): flag.name for flag in self.flags.values() for alias in flag.aliases}
        values = {}
        for key, value in settings.items():
            name = str(key).replace("-", "_")
            name = names.get(name, name)
            if name not in self.flags:
                raise self._unknown(f'{place} sets "{key}", which is not a flag', str(key))
            values[name] = _converted(self.flags[name], value, key, place)
        return served(values, self._by_default, place)

    @property
    def _by_default(self) -> dict[str, Any]:
        return {name: flag.default for name, flag in self.flags.items()}

    def _unknown(self, problem: str, name: str, dashes: str = "") -> SinkdError:
        shown = [flag for flag in self.flags.values() if flag.name not in UNSERVED]
        known = [dashes + word.lstrip("-") for flag in shown for word in (flag.name, *flag.aliases)]
        return unknown(problem, name, known, "see --help")


class _Help(argparse.Action):
    """Print the overview, a topic that is named, or everything, and leave."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: Any = None) -> None:
        flags = [flag for flag in parser.flags.values() if flag.topic]
        if values:
            print(describe_topic(flags, values, parser.terms))
        else:
            print(overview(flags, parser.prog, parser.description, parser.terms, everything=self.const == "all"))
        parser.exit()


def _add(parser: FlagParser, flag: Flag) -> None:
    names = [flag.name] if flag.operand else [f"--{flag.name}", *flag.aliases]
    how: dict[str, Any] = {"help": flag.help if flag.topic else argparse.SUPPRESS}
    if flag.nargs == 0:
        parser.add_argument(*names, action="store_true", **how)
        return
    if flag.nargs == "?" and not flag.operand:
        how["const"] = True
    parser.add_argument(*names, type=TYPES[flag.type], nargs=flag.nargs, choices=flag.choices, **how)
    if flag.default is True:
        parser.add_argument(f"--no_{flag.name}", action="store_false", dest=flag.name, help=how["help"])


def _underscored(word: str) -> str:
    """`--learning-rate=1e-4` as `--learning_rate=1e-4`."""
    name, equals, value = word.partition("=")
    return name[:2] + name[2:].replace("-", "_") + equals + value if name.startswith("--") else word


def _converted(flag: Flag, value: Any, key: str, place: str) -> Any:
    """A YAML value, read as on the command line: YAML reads 5e-5 as text, and a flag takes [0, 2, 4] as 0,2,4."""
    if value is None and flag.default is None:
        return None
    if isinstance(value, list) and (flag.nargs == "+" or isinstance(flag.default, list)):
        return value
    convert = TYPES[flag.type]
    text = ",".join(map(str, value)) if isinstance(value, list) and convert is str else str(value)
    try:
        if isinstance(value, dict):
            text = json.dumps(value)
        if value is None:
            raise ValueError("the value is missing")
        typed = convert(text)
    except (ValueError, TypeError, argparse.ArgumentTypeError) as error:
        raise SinkdError(f"{place} sets {key} to {value!r}, which does not fit: {error}") from error
    if flag.choices is not None and typed not in flag.choices:
        raise SinkdError(f"{place} sets {key} to {value!r}; it must be one of {', '.join(flag.choices)}")
    return typed
