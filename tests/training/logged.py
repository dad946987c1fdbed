"""Distil on the world's corpus, and keep the losses of the log."""

import numpy as np
from transformers import TrainerCallback

from sinkd import DistillationArguments
from sinkd.tasks import load_task
from sinkd.training.outcome import Outcome
from sinkd.training.run import distill
from sinkd.training.settings import resolve_settings


def distilled(argv: list[str]) -> tuple[np.ndarray, Outcome]:
    """The logged losses of a run, and its outcome."""
    args = resolve_settings(DistillationArguments, argv, "test")
    seen = []

    class See(TrainerCallback):
        def on_log(self, args, state, control, logs=None, **kwargs):
            seen.extend([logs["loss"]] if "loss" in logs else [])

    summary = distill(args, load_task("cola", args.data_dir), [See()])
    return np.array(seen), summary.outcomes[0]
