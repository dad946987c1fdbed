"""Compare the results of a sweep with its baseline, and write a table of all trials."""

import csv
import io
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sinkd.sweep.sweep import Combination
from sinkd.training.checkpoint import write_text
from sinkd.training.manifest import read_manifest
from sinkd.training.outcome import Outcome

HEAD = "task objective setting seed status metric best final seconds rows_per_second folder reason".split()


@dataclass(frozen=True)
class Result:
    """A trial that has ended: its outcome, or a one-sentence reason for its failure."""

    trial: Combination
    outcome: Outcome | None
    reason: str = ""


@dataclass(frozen=True)
class Line:
    """The results of one task, objective and setting over the seeds.

    Attributes:
        mean: Mean of the best scores; None if nothing was evaluated.
        spread: Their sample standard deviation; None for a single score.
        difference, difference_spread: The same for the differences to the baseline's scores with the same task, setting
            and seed.
        rows_per_second: The median.
    """

    name: str
    metric: str
    finished: int
    crashed: int
    mean: float | None
    spread: float | None
    difference: float | None
    difference_spread: float | None
    rows_per_second: float | None


def compare(results: Sequence[Result], baseline: str) -> list[Line]:
    """One line per task, objective and setting, in the order of the results."""
    groups: dict[tuple[str, str, str], list[Result]] = {}
    for result in results:
        trial = result.trial
        groups.setdefault((trial.task, trial.objective, trial.setting), []).append(result)
    lines = []
    for (task, objective, setting), group in groups.items():
        outcomes = _by_seed(group)
        best = _best(outcomes)
        reference = _best(_by_seed(groups.get((task, baseline, setting), []))) if objective != baseline else {}
        pairs = [score - reference[seed] for seed, score in best.items() if seed in reference]
        speeds = [outcome.samples_per_second for outcome in outcomes.values()]
        lines.append(
            Line(
                " ".join(filter(None, [task, objective, setting])),
                next((outcome.metric for outcome in outcomes.values()), ""),
                len(outcomes),
                len(group) - len(outcomes),
                *_mean_and_spread(list(best.values())),
                *_mean_and_spread(pairs),
                statistics.median(speeds) if speeds else None,
            )
        )
    return lines


def mixed_inputs(results: Sequence[Result]) -> str | None:
    """Describe two finished trials with the same task and teacher path but different teachers or tokenizers.

    This catches a teacher that was retrained between two parts of a sweep.
    """
    seen: dict[tuple[str, str, str], tuple[str, Path]] = {}
    for result in results:
        manifest = read_manifest(result.trial.folder) if result.outcome is not None else None
        for name in ("teacher", "tokenizer"):
            if manifest is None or name not in manifest.inputs:
                continue
            key = (result.trial.task, str(manifest.settings.get("teacher_path")), name)
            fingerprint, first = seen.setdefault(key, (manifest.inputs[name], result.trial.folder))
            if fingerprint != manifest.inputs[name]:
                return f"{first} and {result.trial.folder} had a different {name}; --overwrite runs all trials again"
    return None


def write_csv(path: Path, results: Sequence[Result]) -> None:
    """Write `sweep.csv`, a row for each trial that has ended, atomically replacing an earlier file."""
    text = io.StringIO()
    writer = csv.DictWriter(text, HEAD, restval="", lineterminator="\n")
    writer.writeheader()
    for result in results:
        trial, outcome = result.trial, result.outcome
        row = {name: getattr(trial, name) for name in ("task", "objective", "setting", "seed", "folder")}
        row |= {"reason": result.reason, "status": "crashed" if outcome is None else "finished"}
        if outcome is not None:
            row |= {name: getattr(outcome, name) for name in ("metric", "best", "final", "seconds")}
            row["rows_per_second"] = outcome.samples_per_second
        writer.writerow(row)
    write_text(path, text.getvalue())


def _by_seed(results: Sequence[Result]) -> dict[int, Outcome]:
    return {result.trial.seed: result.outcome for result in results if result.outcome is not None}


def _best(outcomes: dict[int, Outcome]) -> dict[int, float]:
    return {seed: outcome.best for seed, outcome in outcomes.items() if outcome.best is not None}


def _mean_and_spread(values: Sequence[float]) -> tuple[float | None, float | None]:
    return statistics.fmean(values) if values else None, statistics.stdev(values) if len(values) > 1 else None
