"""The help of a command: an overview by topic with a line for each flag, or one topic with whole texts and choices."""

import re
import shutil
import textwrap
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from sinkd.errors import unknown

# Topic -> its heading, in the order of the help. The overview leaves out MORE and the terms' own options.
MORE = "more"
TOPICS = {
    "flags": "",
    "task": "what to learn, and how to read it",
    "teacher": "whom to learn from",
    "student": "who learns",
    "model": "the model to use",
    "objective": "what the student minimises",
    "training": "how to train",
    "output": "what to write",
    "trainer": "the most used flags of transformers' Trainer",
    MORE: "the other flags",
}
COLUMN = 29  # --per_device_train_batch_size


def overview(
    flags: Sequence[Any], prog: str, description: str | None, terms: Mapping[str, str], everything: bool = False
) -> str:
    """A line for each flag, cut to the terminal's width."""
    width = shutil.get_terminal_size((100, 24)).columns
    operands = [f"[{flag.name}]" if flag.nargs == "?" else flag.name for flag in flags if flag.operand]
    lines = [
        f"usage: {' '.join([prog, *map(str.upper, operands)])} [FLAGS]",
        *([""] if description else []),
        *textwrap.wrap(description or "", width),
    ]
    topics = dict.fromkeys(flag.topic for flag in flags)
    for topic, group in groupby(flags, lambda flag: flag.topic):
        if topic == MORE and not everything:
            continue
        lines += ["", f"{topic}: {TOPICS[topic]}" if TOPICS[topic] else "flags:"]
        if topic == "objective":
            lines += textwrap.wrap(f"terms: {', '.join(terms)}", width, initial_indent="  ", subsequent_indent="    ")
        for flag in group:
            lines += _line(flag, width, len(topics) == 1) if everything or not flag.terms else []
    if len(topics) > 1:
        hint = f"--help TOPIC tells all about {', '.join(topics)}; --help-all lists all {len(flags)} flags"
        lines += ["", *textwrap.wrap(hint, width)]
    return "\n".join(lines)


def describe_topic(flags: Sequence[Any], topic: str, terms: Mapping[str, str]) -> str:
    """The flags of a topic with whole texts and choices; for the objective also its terms, with their own options.

    Raises:
        SinkdError: if no flag has this topic.
    """
    if topic not in {flag.topic for flag in flags}:
        raise unknown(f'"{topic}" is no topic of the help', topic, dict.fromkeys(flag.topic for flag in flags))
    lines = [f"{topic}: {TOPICS[topic]}"]
    if topic == "objective":
        for text, names in groupby(terms, lambda name: terms[name]):
            lines += ["", f"  {', '.join(names)}", *_wrapped(text)]
    for own, group in groupby((flag for flag in flags if flag.topic == topic), lambda flag: flag.terms):
        lines += ["", *([f"options of {own}:"] if own else [])]
        for flag in group:
            lines += [f"  {_name(flag)}{_default(flag)}", *_wrapped(_plain(flag.help))]
            if flag.choices:
                lines += _wrapped(f"one of {', '.join(flag.choices)}")
    return "\n".join(lines)


def _line(flag: Any, width: int, whole: bool) -> list[str]:
    """Name, text and default: the first sentence cut to a line, or the whole text and choices on several."""
    text, default = _plain(flag.help), _default(flag)
    start = f"  {_name(flag):{COLUMN}} "
    if whole:
        text += f" ({', '.join(flag.choices)})" if flag.choices else ""
        return textwrap.wrap(start + text + default, width, subsequent_indent=" " * (COLUMN + 3))
    short = re.split(r"(?<!\.)\.(?: |$)", text, maxsplit=1)[0]
    return [start + textwrap.shorten(short, max(20, width - len(start) - len(default)), placeholder=" …") + default]


def _name(flag: Any) -> str:
    return flag.name if flag.operand else flag.aliases[0] if flag.aliases else f"--{flag.name}"


def _default(flag: Any) -> str:
    """The default, if the text does not speak of it."""
    if flag.default is None or flag.default is False or flag.default == [] or "efault" in flag.help:
        return ""
    value = flag.default if isinstance(flag.default, list) else [flag.default]
    return f" [{' '.join(f'{item:g}' if isinstance(item, float) else str(item) for item in value)}]"


def _plain(text: str) -> str:
    return " ".join(text.replace("%%", "%").split())  # argparse formats %


def _wrapped(text: str) -> list[str]:
    width = min(100, shutil.get_terminal_size((100, 24)).columns)
    return textwrap.wrap(text, width, initial_indent="      ", subsequent_indent="      ")
