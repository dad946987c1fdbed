"""What the trials of a sweep came to: side by side, as differences to a baseline, and as a table of all of them."""

import csv
import io
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sinkd.training.checkpoint import write_text
from sinkd.training.manifest import read_manifest
from sinkd.training.outcome import Outcome
from sinkd.training.sweep import Trial


@dataclass(frozen=True)
class Result:
    """How a trial ended: with an outcome, or with the one sentence that says why there is none."""

    trial: Trial
    outcome: Outcome | None
    reason: str = ""


@dataclass(frozen=True)
class Line:
    """What the seeds of one task, objective and setting came to.

    mean, spread: of the best scores, spread the sample standard deviation (None for a single one). difference: mean of
    the scores' differences to the baseline's under the same task, setting and seed, and spread of these differences.
    """

    task: str
    objective: str
    setting: str
    metric: str
    finished: int
    crashed: int
    mean: float | None
    spread: float | None
    difference: float | None
    difference_spread: float | None


def compare(results: Sequence[Result], baseline: str) -> list[Line]:
    """A line for every task, objective and setting, in the order of the results."""
    groups: dict[tuple[str, str, str], dict[int, Result]] = {}
    for result in results:
        trial = result.trial
        groups.setdefault((trial.task, trial.objective, trial.setting), {})[trial.seed] = result
    best = {
        key: {seed: result.outcome.best for seed, result in group.items() if result.outcome is not None}
        for key, group in groups.items()
    }
    lines = []
    for (task, objective, setting), group in groups.items():
        scores = best[task, objective, setting]
        reference = best.get((task, baseline, setting), {}) if objective != baseline else {}
        pairs = [scores[seed] - reference[seed] for seed in scores if seed in reference]
        metric = next((result.outcome.metric for result in group.values() if result.outcome is not None), "")
        values = (*_mean_and_spread(list(scores.values())), *_mean_and_spread(pairs))
        lines.append(Line(task, objective, setting, metric, len(scores), len(group) - len(scores), *values))
    return lines


def mixed_inputs(results: Sequence[Result]) -> str | None:
    """What finished trials of one task and one teacher's path do not share though they should, in a sentence.

    A teacher that was trained anew between two parts of a sweep would otherwise go unnoticed.
    """
    seen: dict[tuple[str, str, str], tuple[str, Path]] = {}
    for result in results:
        manifest = read_manifest(result.trial.folder) if result.outcome is not None else None
        if manifest is None:
            continue
        for name in ("teacher", "tokenizer"):
            if name in manifest.inputs:
                key = (result.trial.task, str(manifest.settings.get("teacher_path")), name)
                fingerprint, first = seen.setdefault(key, (manifest.inputs[name], result.trial.folder))
                if fingerprint != manifest.inputs[name]:
                    return (
                        f"{first} and {result.trial.folder} had not the same {name}; --overwrite runs all trials again"
                    )
    return None


def write_csv(path: Path, results: Sequence[Result]) -> None:
    """`sweep.csv`: a row a trial that has ended, at once in place of an earlier file."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    head = ["task", "objective", "setting", "seed", "status", "metric", "best", "final", "seconds", "rows_per_second"]
    writer.writerow([*head, "folder", "reason"])
    for result in results:
        trial, outcome = result.trial, result.outcome
        figures: list[Any] = [""] * 5
        if outcome is not None:
            figures = [outcome.metric, outcome.best, outcome.final, outcome.seconds, outcome.samples_per_second]
        status = "crashed" if outcome is None else "finished"
        axes = [trial.task, trial.objective, trial.setting, trial.seed]
        writer.writerow([*axes, status, *figures, trial.folder, result.reason])
    write_text(path, text.getvalue())


def _mean_and_spread(values: Sequence[float]) -> tuple[float | None, float | None]:
    mean = statistics.fmean(values) if values else None
    return mean, statistics.stdev(values) if len(values) > 1 else None
