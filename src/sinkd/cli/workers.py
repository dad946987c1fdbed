"""Students side by side: one that is this small keeps one core busy and no more, so each core gets one."""

import contextlib
import multiprocessing
import os
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any

import torch

from sinkd.cli.command import load_named_task
from sinkd.cli.main import quieten
from sinkd.errors import SinkdError, Terminated
from sinkd.report import Bar, RunProgress, board, is_terminal
from sinkd.training.arguments import DistillationArguments
from sinkd.training.outcome import Summary
from sinkd.training.run import distill
from sinkd.training.settings import resolve_settings

# Each holds a PyTorch of its own, some 500 MB.
MOST = 4


def distill_all(jobs: Mapping[str, Sequence[str]], program: str) -> dict[str, Summary]:
    """Run `sinkd distill` for each job, on as many processes as there are cores, and at most four.

    jobs: what a job is called -> its flags. program: what an error about the flags calls the command. Returns what each
    job came to, in their order. Where one fails or the user stops, all write a checkpoint and stop, and its error is
    raised.
    """
    cores = os.cpu_count() or 1
    size = min(MOST, cores, len(jobs))
    shared = board()
    results: dict[str, Summary] = {}
    waiting = iter(jobs.items())
    with _sigterm_raises(), contextlib.ExitStack() as stack:
        with _sigint_ignored():
            crew = [stack.enter_context(Worker(Bar(shared), cores // size)) for _ in range(size)]
        for worker, first in zip(crew, waiting, strict=False):
            worker.give(*first, program)
        while len(results) < len(jobs):
            speaking = wait([worker.line for worker in crew])
            for worker in (worker for worker in crew if worker.line in speaking):
                summary = worker.hear()
                if summary is None:
                    continue
                results[worker.job] = summary
                if (following := next(waiting, None)) is not None:
                    worker.give(*following, program)
    return {job: results[job] for job in jobs}


class Worker:
    """A process that distils, and the line to it; as a context, it is stopped at the end."""

    def __init__(self, bar: Bar, threads: int):
        context = multiprocessing.get_context("spawn")
        self.line, theirs = context.Pipe()
        self.job = ""
        self._bar = bar
        self._process = context.Process(target=_work, args=(theirs, threads), daemon=True)
        self._process.start()
        theirs.close()  # the process alone holds it: the line ends when the process does

    def give(self, job: str, flags: Sequence[str], program: str) -> None:
        """Hand it a job."""
        self.job = job
        with contextlib.suppress(BrokenPipeError):  # `hear` tells that it is gone
            self.line.send((job, list(flags), program))

    def hear(self) -> Summary | None:
        """What its job came to; None where it spoke about its bar. Raises what the job raised."""
        try:
            message = self.line.recv()
        except (EOFError, ConnectionResetError):
            self._process.join()
            raise SinkdError(
                f"the process of {self.job} ended with status {self._process.exitcode}: the lines above say why, or "
                "there was too little memory; the same command goes on"
            ) from None
        if isinstance(message, Exception):
            raise message
        if isinstance(message, Summary):
            return message
        method, values = message
        getattr(self._bar, method)(*values)
        return None

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, kind: object, *raised: object) -> None:
        if kind is not None:
            self._process.terminate()  # who trains writes a checkpoint first
            with contextlib.suppress(EOFError, ConnectionResetError):
                while True:  # what it still has to say would otherwise hold it up
                    self.line.recv()
        self.line.close()  # without a line there is nothing more to do
        self._process.join()
        self._bar.close()


class _DistantBar:
    """Stands for a bar that another process shows."""

    def __init__(self, line: Connection):
        self._line = line
        self.shown = False

    def open(self, title: str, total: int, done: int) -> None:
        self.shown = is_terminal()
        self._tell("open", title, total, done)

    def move(self, done: int) -> None:
        self._tell("move", done)

    def note(self, text: str) -> None:
        self._tell("note", text)

    def close(self) -> None:
        self._tell("close")
        self.shown = False

    def _tell(self, method: str, *values: Any) -> None:
        if self.shown:
            self._line.send((method, values))


def _work(line: Connection, threads: int) -> None:
    quieten()
    torch.set_num_threads(threads)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # while it trains, the run's own handler stands here
    came_to: Summary | Exception | None = None
    with contextlib.suppress(EOFError, BrokenPipeError):  # nobody is there any more
        while not isinstance(came_to, Exception):
            job, flags, program = line.recv()
            came_to = _distill(job, flags, program, _DistantBar(line))
            line.send(came_to)


def _distill(job: str, flags: Sequence[str], program: str, bar: _DistantBar) -> Summary | Exception:
    try:
        args = resolve_settings(DistillationArguments, flags, program)
        task = load_named_task(args)
        progress = RunProgress(job, task.metric, bar)
        return distill(args, task, [progress], progress.teacher_rows)
    except BrokenPipeError:
        raise
    except (SinkdError, Terminated, OSError) as error:
        return error


@contextlib.contextmanager
def _sigterm_raises() -> Iterator[None]:
    def stop(number: int, frame: Any) -> None:
        raise Terminated("stopped; the same command goes on from there")

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def _sigint_ignored() -> Iterator[None]:
    """Processes that start meanwhile leave Ctrl-C to this one, which stops them in order."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
