"""`sinkd download`: official data and published models, whole, to where the other commands look for them."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from sinkd.errors import SinkdError
from sinkd.exchange.checkpoints import BERT, PUBLISHED, fetch_model, fetch_published
from sinkd.exchange.corpora import GLUE, HOST, SUPERGLUE, Source
from sinkd.training.parser import ArgumentParser

# What there is to fetch: where it goes, and the names of its parts.
PLACES: dict[str, tuple[str, Mapping[str, object]]] = {
    "glue": ("datas/glue", GLUE),
    "superglue": ("datas/superglue", SUPERGLUE),
    "bert": ("models", BERT),
    "checkpoints": ("models/published", PUBLISHED),
}


def main(argv: Sequence[str]) -> None:
    """Parse a command line and run it."""
    parser = ArgumentParser(
        prog="sinkd download",
        description="Fetch data or models. What is there already, and whole, is left alone; a cut transfer goes on.",
    )
    parser.add_argument("what", choices=PLACES, help="GLUE, SuperGLUE, the BERT models, or the published checkpoints")
    parser.add_argument("--tasks", help="parts of it with commas, as in cola,rte (default: all)")
    parser.add_argument("--to", help="where it goes (default: datas/glue, datas/superglue, models or models/published)")
    parser.add_argument(
        "--mirror",
        default=os.environ.get("SINKD_MIRROR", HOST),
        help="another host with the same paths, for GLUE and SuperGLUE (default: $SINKD_MIRROR, or the official one)",
    )
    parser.add_argument("--dry_run", action="store_true", help="print what would be fetched, and stop")
    parser.add_argument("--traceback", action="store_true", help="show where in the code an error arose")
    given = parser.parse_args(argv)
    if not given.mirror.startswith(("http://", "https://")):
        raise SinkdError(f"--mirror {given.mirror} is no address; give one that begins with https:// or http://")
    place, parts = PLACES[given.what]
    folder = Path(given.to or place)
    chosen = _chosen(given.tasks, parts, given.what)
    if given.dry_run:
        for name in chosen:
            print("\n".join(_plan(given.what, name, folder, given.mirror)))
        return
    for name in chosen:
        print(_get(given.what, name, folder, given.mirror.rstrip("/")), flush=True)


def _chosen(text: str | None, parts: Mapping[str, object], what: str) -> list[str]:
    """The parts that a flag names, in any spelling."""
    if text is None:
        return list(parts)
    plain = {_plain(name): name for name in parts}
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if _plain(name) not in plain:
            raise SinkdError(f'--tasks names "{name}", which {what} has not; it has {", ".join(parts)}')
    return [plain[_plain(name)] for name in names]


def _plain(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "")


def _plan(what: str, name: str, folder: Path, mirror: str) -> list[str]:
    """Lines that say which address goes where."""
    if what in ("glue", "superglue"):
        source = _source(what, name)
        return [
            f"{mirror.rstrip('/')}/{archive.path} ({archive.size:,} bytes) -> {folder / source.folder}"
            for archive in source.archives
        ]
    if what == "bert":
        return [f"https://huggingface.co/{BERT[name]} -> {folder / name}"]
    return [f"{PUBLISHED[name].url} -> {folder / name}"]


def _source(what: str, name: str) -> Source:
    return (GLUE if what == "glue" else SUPERGLUE)[name]


def _get(what: str, name: str, folder: Path, mirror: str) -> str:
    """Fetch a part, and the line that says what is there now."""
    if what in ("glue", "superglue"):
        source = _source(what, name)
        rows = source.get(folder, mirror)
        return f"{folder / source.folder}: {', '.join(f'{file} {count:,} rows' for file, count in rows.items())}"
    if what == "bert":
        files = fetch_model(BERT[name], folder / name)
        return f"{folder / name}: {', '.join(path.name for path in files)}"
    models = fetch_published(name, folder / name)
    listed = ", ".join(str(path) for path in models)
    return f"{folder / name}: {listed or 'what was fetched lies there, and no config.json of a model is in it'}"
