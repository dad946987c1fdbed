"""What a served model answered, on disk row by row: a run that is cut off asks for the rest alone.

A file in the model's folder has a line of JSON for each row, appended when its answer comes, after a first line about
the model. Lines that are not whole, or differ from their checksum, are ignored. One process asks at a time; others that
need the same model wait, and then read.
"""

import json
import zlib
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from filelock import FileLock

from sinkd.errors import SinkdError
from sinkd.models.served import ServedModel
from sinkd.tasks.arrow_cache import key_of
from sinkd.tasks.label_prompt import Question

Keep = Callable[[int, list[float]], None]


class AskedRows:
    """The answers of a model to questions, in memory and in a file.

    Args:
        folder: The model's folder, which keeps nothing of other models.
        concurrency: How many requests to send at a time.
    """

    def __init__(self, folder: Path, server: ServedModel, concurrency: int):
        self.path, self.server, self.concurrency = folder / "rows.jsonl", server, concurrency
        self._about: dict[str, str] = {}
        self._scores: dict[str, list[float]] = {}
        self._read_to = 0

    @staticmethod
    def key(question: Question) -> str:
        """Name a question in the file."""
        return key_of(question.prompt, tuple(question.answers))[:32]

    def __getitem__(self, key: str) -> list[float]:
        """The log-likelihoods of a question's answers."""
        return self._scores[key]

    def missing(self, keys: Iterable[str]) -> set[str]:
        """Read what other processes have written, and return the keys of the questions that nobody has asked."""
        self._read()
        return {key for key in keys if key not in self._scores}

    def ask(self, questions: Mapping[int, Question], on_answer: Callable[[], None]) -> None:
        """Ask each question that has no answer.

        Args:
            questions: Questions by the number of their row.

        Raises:
            SinkdError: if the server cannot answer. All answers before that are kept.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{self.path}.lock"):
            rows = {self.key(question): row for row, question in questions.items()}
            missing = self.missing(rows)
            wanted = {row: questions[row] for key, row in rows.items() if key in missing}
            if not wanted:
                return
            with self.path.open("ab") as file:
                if file.tell() > self._read_to:
                    file.write(b"\n")  # ends a line that a killed process left

                def keep(row: int, scores: list[float]) -> None:
                    key = self.key(questions[row])
                    self._scores[key] = scores
                    _write(file, {"question": key, "scores": scores})
                    on_answer()

                if self.server.way is None:
                    first = min(wanted)
                    self._begin(file, first, wanted.pop(first), keep)
                self._ask_all(wanted, keep)

    def _begin(self, file: Any, row: int, question: Question, keep: Keep) -> None:
        """Ask one question to find out how the server answers. Refuse a file of another model."""
        found = {"model": self.server.identity()}
        self._check(found)
        scores = _in_row(row, self.server.probe, question)
        found["way"] = str(self.server.way)
        self._check(found)
        if not self._about:
            self._about = found
            _write(file, found)
        keep(row, scores)

    def _check(self, found: Mapping[str, str]) -> None:
        for name, value in found.items():
            if self._about.get(name, value) != value:
                raise SinkdError(
                    f"{self.path.parent} keeps the answers of another model of this name ({name} {self._about[name]}), "
                    f"and now it is {value}; delete the folder, or give another --teacher_cache_dir"
                )

    def _ask_all(self, questions: Mapping[int, Question], keep: Keep) -> None:
        with ThreadPoolExecutor(self.concurrency) as pool:
            asked = {pool.submit(_in_row, row, self.server.score, questions[row]): row for row in questions}
            try:
                for future in as_completed(list(asked)):
                    keep(asked.pop(future), future.result())
            except BaseException as error:
                if not isinstance(error, Exception):  # Ctrl-C does not wait for requests under way
                    self.server.close()
                pool.shutdown(cancel_futures=True)
                for future, row in asked.items():
                    if not future.cancelled() and future.exception() is None:
                        keep(row, future.result())
                raise

    def _read(self) -> None:
        if not self.path.exists():
            return
        with self.path.open("rb") as file:
            file.seek(self._read_to)
            for line in file:
                if not line.endswith(b"\n"):
                    break
                self._read_to += len(line)
                try:
                    found = json.loads(line)
                    if found.pop("crc32") != _checksum(found):
                        continue
                    if "model" in found:
                        self._about = {"model": found["model"], "way": found["way"]}
                    else:
                        self._scores[found["question"]] = [float(score) for score in found["scores"]]
                except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
                    continue


def _in_row(row: int, score: Callable[..., list[float]], question: Question) -> list[float]:
    """Ask a question, and name its row in an error."""
    try:
        return score(*question)
    except SinkdError as error:
        raise SinkdError(f"row {row + 1}: {error}") from None


def _write(file: Any, content: Mapping[str, Any]) -> None:
    file.write(json.dumps({**content, "crc32": _checksum(content)}).encode() + b"\n")
    file.flush()


def _checksum(content: Mapping[str, Any]) -> int:
    return zlib.crc32(json.dumps(content).encode())
