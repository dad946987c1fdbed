"""Sources of a task's rows: tables or JSON lines on disk, or a data set on the hub."""

from __future__ import annotations

import functools
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset, Features, Value, load_dataset

from sinkd.errors import SinkdError
from sinkd.tasks.arrow_cache import file_hash, key_of
from sinkd.tasks.fields import Fields
from sinkd.tasks.file_formats import FileFormat, Record, attempt, excerpt, records
from sinkd.tasks.label_column import finite, spellings
from sinkd.tasks.layout import Layout
from sinkd.tasks.superglue_rows import LineParser


@dataclass(frozen=True)
class Source(ABC):
    """Splits and their rows.

    Attributes:
        name: The task's name, for errors.
        files: Split -> file; empty for the hub.
    """

    name: str
    files: Mapping[str, Path]

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(self.files)

    @property
    def searched(self) -> Mapping[str, object]:
        """Split -> the places searched for its file."""
        return self.files

    def place(self, split: str) -> str:
        """The location of the split's rows, for messages."""
        return str(self._file(split))

    def fingerprint(self, split: str) -> str:
        """Return a hash of the split's content."""
        return file_hash(self._file(split))

    def labelled(self, split: str) -> bool:
        """Whether the split's rows have labels. A test file's labels, if any, are not read."""
        return not split.startswith("test")

    def key(self, split: str) -> object:
        """Everything that determines the split's rows."""
        return self.name, self.fingerprint(split), split == "test"

    @abstractmethod
    def features(self, split: str) -> Features:
        """The columns of rows."""

    @abstractmethod
    def rows(self, split: str) -> Iterator[Record | SinkdError | None]:
        """Yield the rows; an error for a bad row, and None for a row to leave out."""

    def _file(self, split: str) -> Path:
        if split not in self.searched:
            expected = ", ".join(self.searched)
            raise SinkdError(f"task {self.name} has no split {split!r}, expected one of {expected}")
        path = self.files.get(split)
        if path is None or not path.is_file():
            raise SinkdError(f"no {split} file for {self.name}: looked for {self.searched[split]}")
        return path


@dataclass(frozen=True)
class TableSource(Source):
    """Tables on disk, with one or two columns of text and a label; the split "unlabeled" has only text.

    Attributes:
        words: A label as written in files -> its id; empty for regression.
        score_range: Lowest and highest score of a regression with a fixed scale.
        unlabelled: Splits without labels, in addition to test splits.
    """

    layout: Layout
    words: Mapping[str, int]
    score_range: tuple[float, float] | None = None
    unlabelled: frozenset[str] = frozenset()

    def labelled(self, split: str) -> bool:
        return super().labelled(split) and split not in {"unlabeled", *self.unlabelled}

    def key(self, split: str) -> object:
        settings = (self.layout, dict(self.words), self.score_range, self.layout.format.of(self._file(split)))
        return self.fingerprint(split), settings, split == "unlabeled", self.labelled(split)

    def features(self, split: str) -> Features:
        types = dict.fromkeys(self.layout.names, "string")
        if self.labelled(split):
            types["label"] = "int64" if self.words else "float32"
        if split != "unlabeled":
            types["index"] = "string"
        return Features({name: Value(kind) for name, kind in types.items()})

    def rows(self, split: str) -> Iterator[Record | SinkdError | None]:
        path = self._file(split)
        label = (self._label if self.words else self._score) if self.labelled(split) else None
        read = self.layout.texts(path) if split == "unlabeled" else self.layout.examples(path, label)
        for line, row in read:
            wrong = isinstance(row, SinkdError)
            yield SinkdError(f"{self.layout.format.place(path, line)}: {row}") if wrong else row

    def _label(self, word: str) -> int:
        spelled = next((spelled for spelled in spellings(word) if spelled in self.words), None)
        if spelled is None:
            shown = ", ".join(list(self.words)[:20]) + ", ..." * (len(self.words) > 20)
            raise SinkdError(f"found label {excerpt(word)} in column {self.layout.label!r}, expected one of {shown}")
        return self.words[spelled]

    def _score(self, word: str) -> float:
        low, high = self.score_range or (-math.inf, math.inf)
        score = finite(word)
        if not low <= score <= high:  # nor is NaN
            expected = f"a number from {low:g} to {high:g}" if self.score_range else "a finite number"
            raise SinkdError(f"found score {excerpt(word)} in column {self.layout.label!r}, expected {expected}")
        return score


@dataclass(frozen=True)
class FileSource(Source):
    """JSON lines on disk.

    Attributes:
        parse: Converts the fields of a line to its rows.
        candidates: Split -> its possible files, for errors.
    """

    columns: Features
    parse: LineParser
    candidates: Mapping[str, str]

    @property
    def searched(self) -> Mapping[str, object]:
        return self.candidates

    def features(self, split: str) -> Features:
        return self.columns

    def rows(self, split: str) -> Iterator[Record | SinkdError | None]:
        path = self._file(split)
        for number, found in records(path, FileFormat("jsonl"), ()):
            # All rows of a line or none: in exact match, half a paragraph would count as a complete one.
            rows = attempt(lambda record: list(self.parse(Fields(record), split != "test")), found)
            if isinstance(rows, SinkdError):
                yield SinkdError(f"{path}, line {number}, {rows}")
            else:
                yield from rows


# The hub's Parquet copy of a data set whose main branch is a script, which `datasets` refuses to run.
TABLES = "hf://datasets/{repository}@refs%2Fconvert%2Fparquet/{config}/{split}/*.parquet"


@dataclass(frozen=True)
class HubSource(Source):
    """A data set on the hub, or in a folder that `datasets` reads, whose rows have the right columns already.

    Attributes:
        repository: Name on the hub.
        config: Its configuration, if any.
        named: Split -> the hub's name for it.
        advice: What a user can do without network.
    """

    repository: str
    config: str | None
    named: Mapping[str, str]
    columns: Features
    advice: str

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(self.named)

    def place(self, split: str) -> str:
        return f"{self.repository} on the hub, {self.named.get(split, split)}"

    def fingerprint(self, split: str) -> str:
        return key_of("hub", self._load(split)._fingerprint)

    def features(self, split: str) -> Features:
        return self.columns

    def rows(self, split: str) -> Iterator[Record | SinkdError | None]:
        yield from self._load(split).select_columns(list(self.columns))

    def _load(self, split: str) -> Dataset:
        if split not in self.named:
            raise SinkdError(f"task {self.name} has no split {split!r}, expected one of {', '.join(self.named)}")
        loaded = _load(self.repository, self.config, self.named[split], self.advice)
        if missing := [name for name in self.columns if name not in loaded.column_names]:
            raise SinkdError(f"{self.place(split)}, has no column {missing[0]!r}, expected {', '.join(self.columns)}")
        return loaded


@functools.lru_cache(maxsize=32)
def _load(repository: str, config: str | None, split: str, advice: str) -> Any:
    try:
        return load_dataset(repository, config, split=split)
    except Exception as error:  # no network, no such data set, a script: the advice is the same
        try:
            files = TABLES.format(repository=repository, config=config or "plain_text", split=split)
            return load_dataset("parquet", data_files={split: files}, split=split)
        except Exception:
            reason = " ".join(str(error).split())
            raise SinkdError(f"cannot load {repository} from the hub ({reason}); {advice}") from error
