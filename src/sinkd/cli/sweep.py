"""`sinkd sweep`: run every combination of tasks, objectives, settings and seeds in parallel, locally or on Ray."""

import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from sinkd.cli.command import load_named_task
from sinkd.errors import SinkdError
from sinkd.models import find_checkpoint
from sinkd.report import Table, show, show_trials
from sinkd.sweep.comparison import Result, compare, mixed_inputs, write_csv
from sinkd.sweep.local_pool import run_local
from sinkd.sweep.ray_cluster import run_on_ray
from sinkd.sweep.sweep import Combination, Sweep, read_sweep
from sinkd.training.checkpoint import write_text
from sinkd.training.outcome import read_outcome
from sinkd.training.parser import ArgumentParser
from sinkd.training.settings import DATA


def parser() -> ArgumentParser:
    """The flags."""
    parser = ArgumentParser(prog="sinkd sweep", description=__doc__)
    parser.add_argument("--config", help="the sweep's YAML file, as in recipes/sweep/; docs/sweep.md describes it")
    parser.add_argument(
        "--output_dir", help="folder for the trials' folders (default: experiments/ and the file's name)"
    )
    parser.add_argument("--seeds", help="seeds, separated by commas, instead of the file's")
    parser.add_argument("--address", help="run on the Ray cluster at HOST:PORT, or auto (default: on this machine)")
    parser.add_argument("--overwrite", action="store_true", help="run finished trials again")
    parser.add_argument("--dry_run", action="store_true", help="print each trial's command, and stop")
    parser.add_argument("--traceback", action="store_true", help="show the traceback of an error")
    return parser


def main(argv: Sequence[str]) -> None:
    """Run a command line."""
    given = parser().parse_args(argv)
    if given.config is None:
        raise SinkdError("--config is missing; name a sweep's YAML file, as in recipes/sweep/")
    config = Path(given.config)
    folder = Path(given.output_dir or Path("experiments", config.stem))
    sweep = read_sweep(config, folder, given.seeds)
    if given.dry_run:
        for trial in sweep.trials:
            print(shlex.join(["sinkd", trial.command, *trial.argv]))
        return
    results = run(sweep, folder, given.address, given.overwrite)
    table = tabulate(results, sweep.baseline, folder)
    print(flush=True)
    show(table)
    write_text(folder / "README.md", f"{table.markdown()}\n{table.note}\n")
    crashed = sum(result.outcome is None for result in results)
    if crashed:
        failed = f"{crashed} of {len(results)} trials crashed (logs in {folder / 'logs'})"
        print(f"sinkd: {failed}; the same command runs them again", file=sys.stderr)
        raise SystemExit(1)


def run(sweep: Sweep, folder: Path, address: str | None = None, overwrite: bool = False) -> list[Result]:
    """Run the unfinished trials, print a line and write a row of `sweep.csv` as each ends; return all results.

    Raises:
        SinkdError: before any trial starts, if data or a model is missing or a folder contains another run.
    """
    results = _finished(sweep, overwrite)
    waiting = [trial for trial in sweep.trials if trial.folder not in results]
    if overwrite:
        waiting = [replace(trial, argv=(*trial.argv, "--overwrite")) for trial in waiting]
    counts = f"{len(sweep.trials)} trials, {len(results)} finished earlier, {len(waiting)} to run"
    print(f"{counts}; in {folder}", flush=True)

    def ended(trial: Combination, reason: str) -> None:
        outcome = None if reason else read_outcome(trial.folder)
        results[trial.folder] = Result(trial, outcome, reason)
        write_csv(folder / "sweep.csv", [results[trial.folder] for trial in sweep.trials if trial.folder in results])
        told = f"crashed: {reason}"
        if outcome is not None:
            score = "not evaluated" if outcome.best is None else f"{outcome.metric} {outcome.best:.4f}"
            told = f"{score}, {outcome.seconds:.0f} s"
        progress.ended(trial.name)
        print(f"{len(results)}/{len(sweep.trials)} {trial.name}: {told}", flush=True)

    with show_trials(len(waiting)) as progress:
        if address is not None and waiting:
            run_on_ray(waiting, sweep.resources, folder / "logs", ended, address)
        elif waiting:
            run_local(
                waiting, sweep.resources, folder / "logs", ended, lambda trial, line: progress.line(trial.name, line)
            )
    ordered = [results[trial.folder] for trial in sweep.trials]
    write_csv(folder / "sweep.csv", ordered)
    return ordered


def tabulate(results: Sequence[Result], baseline: str, folder: Path) -> Table:
    """The comparison, one line per task, objective and setting."""
    lines = compare(results, baseline)
    compared = any(line.difference is not None for line in lines)
    against = [f"to {baseline}", "its spread"] if compared else []
    table = Table("Results of the trials", ["", "metric", "runs", "mean", "spread", *against, "rows/s"])
    for line in lines:
        runs = f"{line.finished}" + (f", {line.crashed} crashed" if line.crashed else "")
        difference = [_figure(line.difference, "+.4f"), _figure(line.difference_spread)] if compared else []
        figures = [_figure(line.mean), _figure(line.spread), *difference, _figure(line.rows_per_second, ".0f")]
        table.add(line.name, line.metric, runs, *figures)
    table.note = f"each trial in {folder / 'sweep.csv'}" + ("; differences are paired by seed" if compared else "")
    mixed = mixed_inputs(results)
    if mixed:
        table.note += f"; note that {mixed}"
    return table


def _finished(sweep: Sweep, overwrite: bool) -> dict[Path, Result]:
    """Check the data and models of all trials; return the results of those that finished earlier, by folder."""
    results = {}
    files: dict[tuple[Any, ...], dict[str, str]] = {}
    for trial in sweep.trials:
        args = trial.settings()
        data = tuple(getattr(args, name) for name in DATA)
        if data not in files:
            task = load_named_task(args)
            files[data] = {f"{split} file": task.fingerprint(split) for split in (*task.train_splits, *task.dev_splits)}
        for name in ("model_path", "teacher_path", "student_path"):
            paths = getattr(args, name, None) or []
            for path in [paths] if isinstance(paths, str) else paths:
                find_checkpoint(path, f"--{name}")
        outcome = None if overwrite else trial.outcome(files[data])
        if outcome is not None:
            results[trial.folder] = Result(trial, outcome)
    return results


def _figure(value: float | None, form: str = ".4f") -> str:
    return "" if value is None else f"{value:{form}}"
