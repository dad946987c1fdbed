"""What runs came to: `metrics.json`, and the seeds of a command together."""

import csv
import io
import json
import statistics
from dataclasses import dataclass, field
from pathlib import Path

from sinkd.training.checkpoint import write_text


@dataclass(frozen=True)
class Outcome:
    """What a run came to: metrics.json.

    metric: the name of the score that picks the best model; best and final: its value for the kept model and after the
    last step; scores: all scores of the kept model; history: one entry an evaluation; seconds: of training;
    teacher_scores and teacher_source: the dev scores of the teacher, and where they come from.
    """

    task: str
    metric: str
    best: float
    final: float
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
    """The outcomes of a command's seeds, with mean and spread (sample standard deviation) of the best scores."""

    outcomes: list[Outcome]
    mean: float = field(init=False)
    spread: float = field(init=False)

    def __post_init__(self) -> None:
        best = [outcome.best for outcome in self.outcomes]
        object.__setattr__(self, "mean", statistics.fmean(best))
        object.__setattr__(self, "spread", statistics.stdev(best) if len(best) > 1 else 0.0)


def read_outcome(folder: Path) -> Outcome | None:
    """What a finished run in `folder` came to; None where none finished."""
    try:
        return Outcome(**json.loads((folder / "metrics.json").read_text(encoding="utf-8")), folder=str(folder))
    except (OSError, ValueError, TypeError):
        return None


def write_results(path: Path, names: dict[str, str], outcome: Outcome) -> None:
    """results.csv with the published columns: `names`, epoch, step, metric, score; a line an evaluation and metric."""
    text = io.StringIO()
    table = csv.DictWriter(text, [*names, "epoch", "step", "metric", "score"], lineterminator="\n")
    table.writeheader()
    for entry in outcome.history:
        place = {"epoch": f"{entry['epoch']:g}", "step": f"{entry['step']:g}"}
        table.writerows(names | place | {"metric": name, "score": entry[name]} for name in outcome.scores)
    write_text(path, text.getvalue())
