"""The one error that wrong input raises."""


class SinkdError(ValueError):
    """Wrong input from the user, told in one sentence: what, where, and what would be right.

    A `ValueError`, so that code which knows nothing of sinkd can still catch it. The command line
    prints its text without a traceback and exits with status 2.
    """


class SharedError(SinkdError):
    """What all processes of a run find out together: the first of them tells the user."""


class Terminated(Exception):
    """A run was asked to stop, and wrote a checkpoint first: the same command goes on from there."""


def first_sentence(error: BaseException) -> str:
    """What another library's error says first, on one line; the name of its class where it says nothing."""
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
