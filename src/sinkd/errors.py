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
