"""Where the rows of a task come from: JSON lines on disk, or a data set on the hub."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from datasets import Dataset, load_dataset

from sinkd.errors import SinkdError
from sinkd.tasks.cache import BATCH, file_hash, key_of
from sinkd.tasks.fields import Fields
from sinkd.tasks.records import Record, attempt, records
from sinkd.tasks.superglue_rows import LineParser


class Source(Protocol):
    """Splits and their rows; a bad line comes out as the error that describes it."""

    @property
    def splits(self) -> tuple[str, ...]: ...
    @property
    def files(self) -> Mapping[str, Path]: ...
    def rows(self, split: str) -> Iterator[Record | SinkdError]: ...
    def fingerprint(self, split: str) -> str: ...
    def place(self, split: str) -> str: ...


@dataclass(frozen=True)
class FileSource:
    """JSON lines on disk.

    Attributes:
        name: The task's name, for errors.
        files: Split -> file.
        parse: Converts the fields of a line to its rows.
        looked: Split -> the files that were looked for.
    """

    name: str
    files: Mapping[str, Path]
    parse: LineParser
    looked: Mapping[str, str]

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(self.files)

    def place(self, split: str) -> str:
        return str(self._file(split))

    def fingerprint(self, split: str) -> str:
        return file_hash(self._file(split))

    def rows(self, split: str) -> Iterator[Record | SinkdError]:
        path = self._file(split)
        for number, found in records(path, "jsonl", ()):
            # All rows of a line or none: half a paragraph would count as a whole one in exact match.
            rows = found if isinstance(found, SinkdError) else attempt(self._parse, found, split)
            if isinstance(rows, SinkdError):
                yield SinkdError(f"{path}, line {number}, {rows}")
            else:
                yield from rows

    def _parse(self, record: Record, split: str) -> list[Record]:
        return list(self.parse(Fields(record), split != "test"))

    def _file(self, split: str) -> Path:
        if split not in self.looked:
            raise SinkdError(f"task {self.name} has no split {split!r}, expected one of {', '.join(self.looked)}")
        if split not in self.files:
            raise SinkdError(f"no {split} file for {self.name}: looked for {self.looked[split]}")
        if not self.files[split].is_file():
            raise SinkdError(f"no {split} file for {self.name}: looked for {self.files[split]}")
        return self.files[split]


# The hub's Parquet copy of a data set whose main branch is a script, which `datasets` refuses to run.
TABLES = "hf://datasets/{repository}@refs%2Fconvert%2Fparquet/{config}/{split}/*.parquet"


@dataclass(frozen=True)
class HubSource:
    """A data set on the hub, or in any folder that `datasets` reads, that has the schema already.

    Attributes:
        name: The task's name, for errors.
        repository: Name on the hub.
        config: Its configuration, if any.
        named: Split -> the hub's name for it.
        columns: Columns to read.
        advice: What to do without network.
    """

    name: str
    repository: str
    config: str | None
    named: Mapping[str, str]
    columns: tuple[str, ...]
    advice: str

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(self.named)

    @property
    def files(self) -> Mapping[str, Path]:
        return {}

    def place(self, split: str) -> str:
        return f"{self.repository} on the hub, {self.named[split]}"

    def fingerprint(self, split: str) -> str:
        return key_of("hub", self._load(split)._fingerprint)

    def rows(self, split: str) -> Iterator[Record | SinkdError]:
        for batch in self._load(split).iter(batch_size=BATCH):
            for values in zip(*(batch[name] for name in self.columns), strict=True):
                yield dict(zip(self.columns, values, strict=True))

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
