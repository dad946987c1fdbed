"""Movie-review snippets as a small real task: few labels, much text without labels, and rows to evaluate on.

Each of 10,605 sentences from reviews has the mean of twenty people's ratings, from -4 to 4 (Hutto and Gilbert 2014).
They are in the source archive of `vaderSentiment`, under the MIT licence.
"""

import csv
import html
import io
import tempfile
from collections.abc import Sequence
from pathlib import Path
from random import Random

from sinkd.exchange.archive import unpack
from sinkd.exchange.packages import LIMIT, Package
from sinkd.training.checkpoint import write_text

TRAIN, MORE, DEV = TABLES = "train.csv", "more.txt", "dev.csv"
LABELLED, HELD_OUT = 1000, 2000
CLEAR = 0.5  # a rating nearer to 0 gives no label
RATINGS = "movieReviewSnippets_GroundTruth.txt"
LICENCE = "LICENSE.txt"

Row = tuple[str, str]  # text, label


def write_tables(rows: Sequence[Row], folder: Path) -> None:
    """Split labelled rows into `train.csv`, `more.txt` (without labels) and `dev.csv`, the same way each time.

    At most LABELLED rows keep their labels, a tenth of a smaller table, and HELD_OUT are held out, or a fifth.
    """
    shuffled = list(rows)
    Random(0).shuffle(shuffled)
    held_out, labelled = min(HELD_OUT, len(rows) // 5), min(LABELLED, len(rows) // 10)
    dev, train, more = shuffled[:held_out], shuffled[held_out:][:labelled], shuffled[held_out + labelled :]
    write_table(folder / TRAIN, train)
    write_text(folder / MORE, "".join(f"{' '.join(text.split())}\n" for text, _ in more))
    write_table(folder / DEV, dev)


def write_table(path: Path, rows: Sequence[Row]) -> None:
    """Write rows as a CSV table with the columns `text` and `label`."""
    table = io.StringIO()
    csv.writer(table, lineterminator="\n").writerows([("text", "label"), *rows])
    write_text(path, table.getvalue())


def read_ratings(path: Path) -> list[Row]:
    """Read each text with a clear rating, once; its label is the rating's sign."""
    labels: dict[str, str] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        _, rating, text = line.split("\t")
        if abs(float(rating)) >= CLEAR:
            label = "positive" if float(rating) > 0 else "negative"
            labels.setdefault(html.unescape(text).replace("''", '"'), label)
    return list(labels.items())


def _extract(archive: Path, folder: Path) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        outer = {"additional_resources/hutto_ICWSM_2014.tar.gz": "inner.tar.gz", LICENCE: LICENCE}
        top = SNIPPETS.file.removesuffix(".tar.gz")
        inner, licence = unpack(archive, Path(scratch), {f"{top}/{name}": to for name, to in outer.items()}, LIMIT)
        (ratings,) = unpack(inner, Path(scratch), {f"hutto_ICWSM_2014/{RATINGS}": RATINGS}, LIMIT)
        write_tables(read_ratings(ratings), folder)
        write_text(folder / LICENCE, licence.read_text(encoding="utf-8"))


SNIPPETS = Package(
    "snippets",
    "vaderSentiment==3.3.2",
    "vaderSentiment-3.3.2.tar.gz",
    "5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9",
    (*TABLES, LICENCE),
    _extract,
)
