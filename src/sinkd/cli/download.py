"""`sinkd download`: fetch official data and published models to where the other commands look for them."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from sinkd.errors import SinkdError
from sinkd.exchange.checkpoints import BERT, PUBLISHED
from sinkd.exchange.corpora import GLUE, HOST, SUPERGLUE
from sinkd.exchange.packages import MINILM, SMOLLM2
from sinkd.exchange.snippets import SNIPPETS
from sinkd.training.parser import ArgumentParser


class Part(Protocol):
    """Something that can be fetched."""

    def plan(self, root: Path, host: str) -> list[str]:
        """One line per address."""

    def fetch(self, root: Path, host: str) -> str:
        """Fetch what is missing, and describe the result in one line."""


# Collection -> its default folder, and its parts by name.
PLACES: dict[str, tuple[str, Mapping[str, Part]]] = {
    "glue": ("datas/glue", GLUE),
    "superglue": ("datas/superglue", SUPERGLUE),
    "bert": ("models", BERT),
    "checkpoints": ("models/published", PUBLISHED),
    "snippets": ("datas", {"snippets": SNIPPETS}),
    "minilm": ("models", {"minilm": MINILM}),
    "smollm2": ("models", {"smollm2": SMOLLM2}),
}


def parser() -> ArgumentParser:
    """The flags."""
    parser = ArgumentParser(
        prog="sinkd download",
        description="Fetch data or models. Complete files are not fetched again; an interrupted transfer resumes.",
    )
    parser.add_argument(
        "what",
        choices=PLACES,
        help="GLUE, SuperGLUE, the BERT models, the published checkpoints; or what the demos need: movie-review "
        "snippets, an encoder of six layers, a language model",
    )
    parser.add_argument("--tasks", help="parts to fetch, separated by commas: cola,rte (default: all)")
    parser.add_argument("--to", help="target folder (default: below datas or models, as the other commands expect)")
    parser.add_argument(
        "--mirror",
        help="another host with the same paths, for GLUE and SuperGLUE (default: $SINKD_MIRROR, or the official one)",
    )
    parser.add_argument("--dry_run", action="store_true", help="print what would be fetched, and stop")
    parser.add_argument("--traceback", action="store_true", help="show the traceback of an error")
    return parser


def main(argv: Sequence[str]) -> None:
    """Parse a command line and run it."""
    given = parser().parse_args(argv)
    mirror = given.mirror or os.environ.get("SINKD_MIRROR", HOST)
    if not mirror.startswith(("http://", "https://")):
        raise SinkdError(f"--mirror {mirror} is no address; give one that begins with https:// or http://")
    place, parts = PLACES[given.what]
    folder, host = Path(given.to or place), mirror.rstrip("/")
    for part in _chosen(given.tasks, parts, given.what):
        print("\n".join(part.plan(folder, host)) if given.dry_run else part.fetch(folder, host), flush=True)


def _chosen(text: str | None, parts: Mapping[str, Part], what: str) -> list[Part]:
    """The parts that `--tasks` names; ignores case, dashes and underscores."""
    if text is None:
        return list(parts.values())
    by_letters = {_letters(name): part for name, part in parts.items()}
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if _letters(name) not in by_letters:
            raise SinkdError(f'--tasks names "{name}", which {what} does not have; it has {", ".join(parts)}')
    return [by_letters[_letters(name)] for name in names]


def _letters(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "")
