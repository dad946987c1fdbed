"""How far something is: a line at the foot of a terminal, which goes when it is over."""

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


def is_terminal() -> bool:
    """Whether bars are shown here: they go to standard error."""
    return Console(stderr=True).is_terminal


def board() -> Progress:
    """A place for bars that are shown together."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=Console(stderr=True),
        transient=True,
    )


class Bar:
    """One bar, on a board of its own or among others; where there is no terminal, it is never shown."""

    def __init__(self, shared: Progress | None = None):
        self._board = board() if shared is None else shared
        self._task = self._board.add_task("", total=None, visible=False, note="")

    @property
    def shown(self) -> bool:
        """Whether it is on the screen."""
        return any(task.visible for task in self._board.tasks if task.id == self._task)

    def open(self, title: str, total: int, done: int) -> None:
        """Show it, in place of what it showed before."""
        if is_terminal():
            self._board.reset(self._task, description=title, total=total, completed=done, visible=True, note="")
            self._board.start()

    def move(self, done: int) -> None:
        """Say how much is done."""
        self._board.update(self._task, completed=done)

    def note(self, text: str) -> None:
        """Say something beside it."""
        self._board.update(self._task, note=text)

    def close(self) -> None:
        """Put it away."""
        if [task.id for task in self._board.tasks if task.visible] == [self._task]:
            self._board.stop()
        self._board.update(self._task, visible=False)
