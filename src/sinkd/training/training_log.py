"""Figures that the log reports in addition to the Trainer's loss."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor
from transformers import TrainerCallback


class Meter:
    """Averages each part of the loss, and counts rows per second, since the last log line.

    Attributes:
        rows: Rows trained on, over all processes.
        steps: Micro-batches added.
        figures: The terms' own figures for the next line.
    """

    def __init__(self) -> None:
        self.figures: dict[str, float] = {}
        self.restart()

    def restart(self) -> None:
        """Begin a new line."""
        self.rows = self.steps = 0
        self._sums: dict[str, Tensor] = {}
        self._started = time.perf_counter()

    def add(self, loss: Tensor, parts: Mapping[str, Tensor]) -> None:
        """Add a micro-batch's loss and its parts, scalars by name."""
        for name, part in {"loss": loss, **parts}.items():
            self._sums[name] = self._sums.get(name, 0.0) + part.detach()
        self.steps += 1

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Exclude the block's time from rows per second."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self._started += time.perf_counter() - began

    def read(self, mean: Callable[[Tensor], Tensor]) -> dict[str, float]:
        """Return the figures for a log line, and begin a new one.

        Args:
            mean: Averages a tensor over processes; each has its share of every part.
        """
        _, *parts = self.means(mean).items()
        figures = {f"parts/{name}": part for name, part in parts} | self.figures
        figures["rows_per_second"] = self.speed
        self.restart()
        return figures

    def means(self, mean: Callable[[Tensor], Tensor] = lambda means: means) -> dict[str, float]:
        """The loss and its parts since the last line, without ending it; by default those of this process."""
        means = mean(torch.stack(list(self._sums.values())) / self.steps).tolist()
        return dict(zip(self._sums, means, strict=True))

    @property
    def speed(self) -> float:
        """Rows per second since the last line."""
        return self.rows / max(time.perf_counter() - self._started, 1e-9)


class MeterReader(TrainerCallback):
    """A callback that a `TaskTrainer` gives its meter."""

    meter: Meter
