"""Checked access to the fields of a JSON object; errors give the path of the field."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from sinkd.errors import SinkdError
from sinkd.tasks.file_formats import excerpt
from sinkd.tasks.layout import label_word

LARGEST = 2**31 - 1  # what an int32 column holds
MISSING = object()


class Fields:
    """A JSON object and its path within the line: `passage.questions[2]`, or "" for the line itself.

    Every method raises a SinkdError such as "field 'passage.questions[2].idx': found 'x', expected a whole number from
    0" if the field is absent or holds something else.
    """

    def __init__(self, record: Mapping[str, Any], path: str = ""):
        self.record = record
        self.path = path

    def text(self, name: str, empty: bool = False) -> str:
        """Return a string; only with `empty` may it be blank."""
        value = self._get(name)
        expected = "text" if empty else "text that is not empty"
        if not isinstance(value, str) or not (empty or value.strip()):
            raise self._wrong(name, value, expected)
        try:
            value.encode("utf-8")
        except UnicodeEncodeError:  # half a surrogate pair, which JSON can express and UTF-8 cannot
            raise self._wrong(name, value, "text of whole characters") from None
        return value

    def whole(self, name: str, low: int = 0, high: int = LARGEST) -> int:
        """Return a whole number from `low` to `high`."""
        value = self._get(name)
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            limit = f"from {low}" if high == LARGEST else f"from {low} to {high}"
            raise self._wrong(name, value, f"a whole number {limit}")
        return value

    def one_of(self, name: str, words: Mapping[str, int]) -> int:
        """Return the id of a word in any case; JSON's true counts as "true", its 1 as "1"."""
        value = self._get(name)
        word = label_word(value, name).lower() if isinstance(value, str | int) else ""
        if word not in words:
            raise self._wrong(name, value, f"one of {', '.join(words)}")
        return words[word]

    def inside(self, name: str) -> Fields:
        """Return a nested object."""
        value = self._get(name)
        if not isinstance(value, dict):
            raise self._wrong(name, value, "an object")
        return Fields(value, self._place(name))

    def items(self, name: str) -> Iterator[Fields]:
        """Yield the objects of a list, which must not be empty."""
        value = self._get(name)
        if not isinstance(value, list) or not value:
            raise self._wrong(name, value, "a list of objects that is not empty")
        for number, item in enumerate(value):
            if not isinstance(item, dict):
                raise self._wrong(f"{name}[{number}]", item, "an object")
            yield Fields(item, self._place(f"{name}[{number}]"))

    def has(self, name: str) -> bool:
        """Return whether the field is present and not null."""
        return self.record.get(name) is not None

    def _wrong(self, name: str, value: object, expected: str) -> SinkdError:
        found = "nothing" if value is MISSING else excerpt(value)
        return SinkdError(f"field {self._place(name)!r}: found {found}, expected {expected}")

    def _get(self, name: str) -> Any:
        return self.record.get(name, MISSING)

    def _place(self, name: str) -> str:
        return f"{self.path}.{name}" if self.path else name
