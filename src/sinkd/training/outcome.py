"""The results of runs: `metrics.json` for one run, and a summary over the seeds of a command."""

import csv
import io
import json
import statistics
from dataclasses import dataclass, field
from pathlib import Path

from sinkd.training.checkpoint import write_text

TIMING = {"runtime", "samples_per_second", "epoch", "step"}  # reported together with an evaluation's scores


@dataclass(frozen=True)
class Outcome:
    """The result of a run: metrics.json. Without a dev set there are no scores.

    Attributes:
        metric: The score that selects the best model.
        best: Its value for the best model, None without scores.
        final: Its value after the last step, None without scores.
        scores: All scores of the best model.
        history: The scores of each evaluation.
        seconds: Training time.
        teacher_scores: The teacher's dev scores.
        teacher_source: Where these come from.
    """

    task: str
    metric: str
    best: float | None
    final: float | None
    scores: dict[str, float]
    history: list[dict[str, float]]
    seconds: float
    samples_per_second: float
    seed: int
    folder: str = ""
    teacher_scores: dict[str, float] = field(default_factory=dict)
    teacher_source: str = ""


@dataclass(frozen=True)
class Summary:
    """The results for each seed, with mean and spread (sample standard deviation) of the best scores, if any."""

    outcomes: list[Outcome]
    mean: float | None = field(init=False)
    spread: float | None = field(init=False)

    def __post_init__(self) -> None:
        best = [outcome.best for outcome in self.outcomes if outcome.best is not None]
        object.__setattr__(self, "mean", statistics.fmean(best) if best else None)
        object.__setattr__(self, "spread", (statistics.stdev(best) if len(best) > 1 else 0.0) if best else None)


def read_outcome(folder: Path) -> Outcome | None:
    """The result of the run in `folder`; None if there is none."""
    try:
        return Outcome(**json.loads((folder / "metrics.json").read_text(encoding="utf-8")), folder=str(folder))
    except (OSError, ValueError, TypeError):
        return None


def write_results(path: Path, names: dict[str, str], outcome: Outcome) -> None:
    """Write results.csv in the published columns, which begin with `names`: a line per evaluation and score."""
    text = io.StringIO()
    table = csv.DictWriter(text, [*names, "epoch", "step", "metric", "score"], lineterminator="\n")
    table.writeheader()
    for entry in outcome.history:
        place = {"epoch": f"{entry['epoch']:g}", "step": f"{entry['step']:g}"}
        table.writerows(names | place | {"metric": name, "score": entry[name]} for name in outcome.scores)
    write_text(path, text.getvalue())
