"""Values of a JSON object, each checked as it is taken out; what does not fit is told with the path of its field."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from sinkd.errors import SinkdError
from sinkd.tasks.layout import label_word
from sinkd.tasks.records import excerpt

LARGEST = 2**31 - 1  # what an int32 column holds
MISSING = object()


class Fields:
    """A JSON object and where it stands in its line: `passage.questions[2]`, or "" for the line itself.

    Every method raises SinkdError, "field 'passage.questions[2].idx': found 'x', expected a whole number from 0", where
    the field is absent or holds something else.
    """

    def __init__(self, record: Mapping[str, Any], path: str = ""):
        self.record = record
        self.path = path

    def text(self, name: str, empty: bool = False) -> str:
        """A string that UTF-8 can write; one of spaces alone only where `empty` allows it."""
        value = self._get(name)
        expected = "text" if empty else "text that is not empty"
        if not isinstance(value, str) or not (empty or value.strip()):
            raise self.wrong(name, value, expected)
        try:
            value.encode("utf-8")
        except UnicodeEncodeError:  # half of a surrogate pair, which JSON can write and nothing can read
            raise self.wrong(name, value, "text of whole characters") from None
        return value

    def whole(self, name: str, low: int = 0, high: int = LARGEST) -> int:
        """A whole number within bounds."""
        value = self._get(name)
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            limit = f"from {low}" if high == LARGEST else f"from {low} to {high}"
            raise self.wrong(name, value, f"a whole number {limit}")
        return value

    def one_of(self, name: str, words: Mapping[str, int]) -> int:
        """The number of a word, in any case; JSON's true is "true", its 1 is "1"."""
        value = self._get(name)
        word = label_word(value).lower() if isinstance(value, str | int) else ""
        if word not in words:
            raise self.wrong(name, value, f"one of {', '.join(words)}")
        return words[word]

    def inside(self, name: str) -> Fields:
        """An object within this one."""
        value = self._get(name)
        if not isinstance(value, dict):
            raise self.wrong(name, value, "an object")
        return Fields(value, self._place(name))

    def items(self, name: str, least: int = 1) -> Iterator[Fields]:
        """The objects of a list that has at least `least` of them."""
        value = self._get(name)
        if not isinstance(value, list) or len(value) < least:
            raise self.wrong(name, value, "a list of objects" + " that is not empty" * (least > 0))
        for number, item in enumerate(value):
            if not isinstance(item, dict):
                raise self.wrong(f"{name}[{number}]", item, "an object")
            yield Fields(item, self._place(f"{name}[{number}]"))

    def has(self, name: str) -> bool:
        """Whether the field is there and holds something other than null."""
        return self.record.get(name) is not None

    def wrong(self, name: str, value: object, expected: str) -> SinkdError:
        """The error for a field: what it holds, and what was expected in its place."""
        found = "nothing" if value is MISSING else excerpt(value)
        return SinkdError(f"field {self._place(name)!r}: found {found}, expected {expected}")

    def _get(self, name: str) -> Any:
        return self.record.get(name, MISSING)

    def _place(self, name: str) -> str:
        return f"{self.path}.{name}" if self.path else name
