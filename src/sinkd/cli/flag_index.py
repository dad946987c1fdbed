"""The flags of all commands as data, so that help, completion and wrong flags need not wait for torch.

`python -m sinkd.cli.flag_index` writes `flags.json`; a test keeps it in step.
"""

import importlib
import json
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from sinkd.errors import SinkdError
from sinkd.training.parser import ArgumentParser, Flag, FlagParser

SHELLS = ("bash", "zsh")
INDEX = Path(__file__).with_name("flags.json")


def check(command: str, argv: Sequence[str], description: str) -> None:
    """Print the help that a command line asks for, or refuse its flags, before anything large is imported."""
    # A program that has imported torch may have added terms.
    index = build([command]) if "torch" in sys.modules else json.loads(INDEX.read_text(encoding="utf-8"))
    parser = FlagParser(**_described(index, command, description))
    try:
        parser.typed(argv)
    except SinkdError:
        if index["versions"]["transformers"] == version("transformers"):
            raise  # another version has other flags: the command itself reads them


def completion(shells: Sequence[str], commands: Mapping[str, str]) -> str:
    """A script that completes `sinkd` in a shell: `source <(sinkd --completion bash)`."""
    import shtab

    if len(shells) != 1 or shells[0] not in SHELLS:
        raise SinkdError(f"--completion takes a shell: {' or '.join(SHELLS)}")
    index = json.loads(INDEX.read_text(encoding="utf-8"))
    root = ArgumentParser(prog="sinkd")
    added = root.add_subparsers(parser_class=FlagParser)
    for command, text in commands.items():
        added.add_parser(command, help=text, **_described(index, command, text))
    return shtab.complete(root, shells[0])


def _described(index: Mapping[str, Any], command: str, description: str) -> dict[str, Any]:
    """The arguments of a command's `FlagParser`."""
    found = index["commands"][command]
    flags = [
        Flag(topic=topic, **(index["flags"][entry] if isinstance(entry, str) else entry))
        for topic, entries in found["topics"].items()
        for entry in entries
    ]
    text = found["description"] or description
    return {"flags": flags, "prog": f"sinkd {command}", "description": text, "terms": index["terms"]}


def build(commands: Sequence[str]) -> dict[str, Any]:
    """The index of these commands: a flag that several of them share stands in it once."""
    from sinkd.cli.export import ExportArguments
    from sinkd.training.arguments import DistillationArguments, FinetuneArguments, ModelArguments
    from sinkd.training.flag_topics import described, flag_parser, term_texts

    kinds = {
        "finetune": FinetuneArguments,
        "distill": DistillationArguments,
        "cache-teacher": DistillationArguments,
        "evaluate": ModelArguments,
        "predict": ModelArguments,
        "export": ExportArguments,
    }
    shared: dict[str, Any] = {}
    found: dict[str, Any] = {}
    for command in commands:
        if command in kinds:
            parser = flag_parser(kinds[command])
            flags = [*parser.flags.values()]
        else:
            parser = importlib.import_module(f"sinkd.cli.{command.replace('-', '_')}").parser()
            flags = described(parser)
        if command == "export":
            flags.insert(0, Flag("model", "The folder of a trained model.", "model", nargs="?", operand=True))
        topics: dict[str, list[Any]] = {}
        for flag in flags:
            entry = {
                k: v for k, v in flag._asdict().items() if k != "topic" and v not in (Flag._field_defaults.get(k), [])
            }
            same = shared.setdefault(flag.name, entry) == entry
            topics.setdefault(flag.topic, []).append(flag.name if same else entry)
        found[command] = {"description": parser.description, "topics": topics}
    return {
        "versions": {"transformers": version("transformers")},
        "terms": term_texts(),
        "flags": shared,
        "commands": found,
    }


def text() -> str:
    """The content of `flags.json`."""
    from sinkd.cli.main import COMMANDS

    parts = []
    for key, part in build([*COMMANDS]).items():  # a flag on each line
        rows = [f"{json.dumps(name)}: {json.dumps(row)}" for name, row in part.items()]
        parts.append(f"{json.dumps(key)}: {{\n" + ",\n".join(rows) + "\n}")
    return "{\n" + ",\n".join(parts) + "\n}\n"


if __name__ == "__main__":
    INDEX.write_text(text(), encoding="utf-8")
