"""Distil on the world's corpus, and keep the log."""

import numpy as np
from transformers import TrainerCallback

from sinkd import DistillationArguments
from sinkd.tasks import load_task
from sinkd.training.outcome import Outcome
from sinkd.training.run import distill
from sinkd.training.settings import resolve_settings


class Log(TrainerCallback):
    """The log's lines about training; `log["loss"]` is a column of them."""

    def __init__(self):
        self.lines: list[dict[str, float]] = []

    def on_log(self, args, state, control, logs=None, **kwargs):
        if "loss" in logs:
            self.lines.append(dict(logs))

    def __getitem__(self, name: str) -> np.ndarray:
        return np.array([line[name] for line in self.lines])


def distilled(argv: list[str], *callbacks: TrainerCallback) -> tuple[Log, Outcome]:
    """The log of a run, and its outcome."""
    args, log = resolve_settings(DistillationArguments, argv, "test"), Log()
    summary = distill(args, load_task("cola", args.data_dir), [log, *callbacks])
    return log, summary.outcomes[0]
