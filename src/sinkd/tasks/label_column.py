"""What a user's column of labels holds: classes, or scores. Most rows decide, not one odd cell."""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Mapping

from sinkd.errors import SinkdError
from sinkd.tasks.file_formats import excerpt
from sinkd.tasks.layout import UNWRITABLE

# No label, in lower case: what pandas, R, spreadsheets and databases write, or read, for a missing value.
MISSING = frozenset(
    ("", "na", "n/a", "<na>", "#na", "#n/a", "#n/a n/a", "nan", "-nan", "none", "null", "nil", "nat", "\\n",
     "1.#ind", "-1.#ind", "1.#qnan", "-1.#qnan")
)  # fmt: skip
# Signs that stand for a missing label beside words and numbers; beside other signs ("+" and "-") they are classes.
SIGNS = frozenset(("-", "--", "?", "."))
# Numbers as people and spreadsheets write them, which float() does not read: 1,5  1.234,5  10%  $ 3
WRITTEN = re.compile(r"[-+]?[$€£]? ?\d+(?:[.,' \xa0\u202f]\d{3})*(?:[.,]\d+)? ?[%‰$€£]?")
LARGEST = 3.4028234663852886e38  # the type of a score is float32


def finite(word: str) -> float:
    """Return a number that float32 holds, or NaN for any other word."""
    try:
        value = float(word)
    except ValueError:
        return math.nan
    return value if abs(value) <= LARGEST else math.nan


def spellings(word: str) -> tuple[str, ...]:
    """Return the ways to write a label: a whole number also with .0, which pandas adds beside missing values."""
    value = finite(word)
    return (word, f"{int(value)}", f"{int(value)}.0") if value.is_integer() else (word,)


def present(word: str, column: str) -> str:
    """Return a label. Raises SinkdError for one that is missing, a list, or not on one line, as predictions are."""
    if UNWRITABLE.search(word):
        raise SinkdError(f"found label {excerpt(word)} in column {column!r}, expected it on one line, without tabs")
    written = word[:1] + word[-1:] in ("[]", "{}")  # a list or an object as Python and JSON write it
    if written or word.lower() in MISSING:
        found = f"found {excerpt(word)}, {'a list or object' if written else 'a missing label'}, in column {column!r}"
        raise SinkdError(f"{found}, expected one label, a word or a number (or this class named by --labels)")
    return word


def classes(counts: Mapping[str, int]) -> set[str]:
    """Return the labels that are classes: all but signs for a missing one."""
    words = set(counts)
    others = words - SIGNS
    return others if others and all(any(map(str.isalnum, word)) for word in others) else words


def numbers(counts: Mapping[str, int]) -> set[str]:
    """Return the labels that are numbers if most rows have one, else none; of 1 and 1.0, only 1."""
    found = {word for word in counts if not math.isnan(finite(word))}
    rows: Counter[bool] = Counter()
    for word in classes(counts):
        rows[word in found] += counts[word]
    twice = {word for word in found if word.endswith(".0") and word.removesuffix(".0") in found}
    return found - twice if rows[True] > rows[False] else set()


def written(counts: Mapping[str, int]) -> set[str]:
    """Return the labels that are numbers in a form that is not read, if most rows have a number in any form."""
    found = {word for word in counts if WRITTEN.fullmatch(word) and math.isnan(finite(word))}
    rows: Counter[bool] = Counter()
    for word in classes(counts):
        rows[word in found or not math.isnan(finite(word))] += counts[word]
    return found if rows[True] > rows[False] else set()


def lists(counts: Mapping[str, int]) -> set[str]:
    """Return the labels that list other labels of the column: "funny;sad" beside "funny" and "sad"."""
    parts = {word: [part.strip() for part in re.split("[;,|]", word)] for word in counts}
    return {word for word, found in parts.items() if len(found) > 1 and counts.keys() >= set(found)}


def alike(words: set[str]) -> list[str]:
    """Return the first labels that differ in capitals, width or signs that nobody sees alone; [] if there are none."""
    looks: dict[str, list[str]] = {}
    for word in sorted(words):
        seen = "".join(sign for sign in unicodedata.normalize("NFKC", word) if unicodedata.category(sign) != "Cf")
        looks.setdefault(" ".join(seen.casefold().split()), []).append(word)
    return next((same for same in looks.values() if len(same) > 1), [])


def in_order(words: set[str]) -> tuple[str, ...]:
    """Sort classes: as numbers if all are numbers, else as words."""
    if any(math.isnan(finite(word)) for word in words):
        return tuple(sorted(words))
    return tuple(sorted(words, key=lambda word: (finite(word), word)))
