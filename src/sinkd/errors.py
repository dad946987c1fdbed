"""The errors that sinkd raises."""

import difflib
import errno
from collections.abc import Container, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)  # what can only be about writing


class SinkdError(ValueError):
    """Wrong input, described in one sentence: what is wrong, where, and what would be right.

    A `ValueError`, so that code that does not know sinkd can catch it. The command line prints the sentence and exits
    with status 2.
    """


class SharedError(SinkdError):
    """Wrong input that all processes of a run find; the first one reports it."""


class Terminated(Exception):
    """A run was told to stop and wrote a checkpoint, from which the same command resumes."""


def unknown(problem: str, name: str, known: Iterable[str], otherwise: str = "") -> SinkdError:
    """The error for an unknown name: `problem`, and the nearest of the known names, or else a list of them all."""
    known = list(known)
    close = difflib.get_close_matches(name, known, n=1)
    hint = f'did you mean "{close[0]}"?' if close else otherwise or f"there are {', '.join(known)}"
    return SinkdError(f"{problem}; {hint}")


def first_sentence(error: BaseException) -> str:
    """The first line of another library's error, or the name of its class if it has no text."""
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__


@contextmanager
def one_sentence(setting: str) -> Iterator[None]:
    """Raise SinkdError for another library's error about a setting, such as a missing package."""
    try:
        yield
    except SinkdError:
        raise
    except (ImportError, TypeError, ValueError) as error:
        raise SinkdError(f"{setting}: {first_sentence(error)}") from error


@contextmanager
def writing(path: Path, only: Container[int | None] | None = None) -> Iterator[None]:
    """Turn an OSError, or those with the numbers `only`, into a SinkdError: the disk is full, or takes no writing."""
    try:
        yield
    except OSError as error:
        if only is not None and error.errno not in only:
            raise
        reason = error.strerror or first_sentence(error)
        raise SinkdError(
            f"{path} cannot be written ({reason}); make room or choose another folder, and run the same command again"
        ) from error
