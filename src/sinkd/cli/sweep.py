"""`sinkd sweep`: tasks, objectives, settings and seeds, every combination a run of its own, side by side on Ray."""

import importlib
import logging
import os
import shlex
import socket
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

from sinkd.cli.command import load_named_task
from sinkd.cli.main import guarded
from sinkd.errors import SinkdError
from sinkd.models import find_checkpoint
from sinkd.report import Table, show
from sinkd.training.checkpoint import write_text
from sinkd.training.comparison import Result, compare, mixed_inputs, write_csv
from sinkd.training.outcome import Outcome, read_outcome
from sinkd.training.parser import ArgumentParser
from sinkd.training.sweep import Sweep, Trial, finished, read_sweep

logger = logging.getLogger(__name__)

RAY = "ray==2.60.0"


def main(argv: Sequence[str]) -> None:
    """Parse a command line and run it."""
    parser = ArgumentParser(prog="sinkd sweep", description=__doc__)
    parser.add_argument("--config", help="the sweep's YAML file, as in recipes/sweep/; docs/sweep.md describes it")
    parser.add_argument(
        "--output_dir", help="where every trial gets its folder (default: experiments/ and the file's name)"
    )
    parser.add_argument("--seeds", help="seeds with commas, in place of the file's")
    parser.add_argument("--address", help="a Ray cluster, HOST:PORT or auto (default: this machine alone)")
    parser.add_argument("--overwrite", action="store_true", help="run trials again that finished earlier")
    parser.add_argument("--dry_run", action="store_true", help="print each trial as the command that it is, and stop")
    parser.add_argument("--traceback", action="store_true", help="show where in the code an error arose")
    given = parser.parse_args(argv)
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
        again = "the same command runs them again"
        print(
            f"sinkd: {crashed} of {len(results)} trials crashed (logs in {folder / 'logs'}); {again}", file=sys.stderr
        )
        raise SystemExit(1)


def run(sweep: Sweep, folder: Path, address: str | None = None, overwrite: bool = False) -> list[Result]:
    """The trials that are not done yet, on Ray, a line and a row of `sweep.csv` each as they end; all results."""
    results: dict[Trial, Result] = {}
    files: dict[str, dict[str, str]] = {}
    for trial in sweep.trials:
        args = trial.parse()
        task = load_named_task(args)
        for name in ("model_path", "teacher_path", "student_path"):
            if getattr(args, name, None) is not None:
                find_checkpoint(getattr(args, name), f"--{name}")
        key = " ".join(str(path) for path in task.files.values())
        if key not in files:
            files[key] = {f"{split} file": task.fingerprint(split) for split in ("train", *task.dev_splits)}
        done = None if overwrite else finished(trial, args, files[key])
        if done is not None:
            results[trial] = Result(trial, done)
    waiting = [trial for trial in sweep.trials if trial not in results]
    print(
        f"{len(sweep.trials)} trials, {len(results)} finished earlier, {len(waiting)} to run; in {folder}", flush=True
    )
    for result in _run_on_ray(waiting, sweep.resources, folder / "logs", address, overwrite) if waiting else ():
        results[result.trial] = result
        write_csv(folder / "sweep.csv", [results[trial] for trial in sweep.trials if trial in results])
        print(f"{len(results)}/{len(sweep.trials)} {result.trial}: {_told(result)}", flush=True)
    ordered = [results[trial] for trial in sweep.trials]
    write_csv(folder / "sweep.csv", ordered)
    return ordered


def tabulate(results: Sequence[Result], baseline: str, folder: Path) -> Table:
    """The comparison, a line a task, objective and setting."""
    lines = compare(results, baseline)
    several = len({line.objective for line in lines}) > 1
    difference = [f"to {baseline}", "its spread"] if several else []
    table = Table("What the trials came to", ["", "metric", "runs", "mean", "spread", *difference])
    for line in lines:
        name = " ".join(filter(None, [line.task, line.objective, line.setting]))
        runs = f"{line.finished}" + (f", {line.crashed} crashed" if line.crashed else "")
        against = [_figure(line.difference, "+"), _figure(line.difference_spread)] if several else []
        table.add(name, line.metric, runs, _figure(line.mean), _figure(line.spread), *against)
    paired = "; differences are paired by seed" if several else ""
    mixed = mixed_inputs(results)
    table.note = f"each trial in {folder / 'sweep.csv'}{paired}" + (f"; mind that {mixed}" if mixed else "")
    return table


def _figure(value: float | None, sign: str = "") -> str:
    return "" if value is None else f"{value:{sign}.4f}"


def _told(result: Result) -> str:
    outcome = result.outcome
    if outcome is None:
        return f"crashed: {result.reason}"
    return f"{outcome.metric} {outcome.best:.4f}, {outcome.seconds:.0f} s"


def _run_on_ray(
    trials: Sequence[Trial], resources: Mapping[str, float], logs: Path, address: str | None, overwrite: bool
) -> Iterator[Result]:
    """Each trial's result as it ends. Ray decides when and where; this only waits."""
    ray = _start_ray(address, resources)
    try:
        # A process a trial: what one leaves in memory, or does to its process, is no other's business.
        task = ray.remote(**resources, max_calls=1, max_retries=0)(_run_trial)
        logs.mkdir(parents=True, exist_ok=True)
        running = {}
        for trial in trials:
            argv = [*trial.argv, *(["--overwrite"] if overwrite else [])]
            log = logs / f"{'-'.join(trial.folder.parts[len(logs.parent.parts) :])}.log"
            running[task.remote(trial.command, argv, str(trial.folder), str(log), os.getcwd())] = trial
        while running:
            (ended,), _ = ray.wait(list(running), num_returns=1)
            trial = running.pop(ended)
            try:
                outcome, reason = ray.get(ended)
            except ray.exceptions.RayError as error:  # its process could not tell what became of it
                outcome, reason = None, _reason(error)
            yield Result(trial, outcome, reason)
    finally:
        ray.shutdown()


def _run_trial(command: str, argv: list[str], folder: str, log: str, place: str) -> tuple[Outcome | None, str]:
    """In a process of Ray's: the command as typed at `place`, what it prints into `log`; its outcome or its reason."""
    os.chdir(place)
    sys.argv = ["sinkd", command, *argv]
    with open(log, "w", encoding="utf-8") as file, redirect_stdout(file), redirect_stderr(file):
        logging.basicConfig(stream=file, level=logging.WARNING, format="sinkd: %(message)s", force=True)
        module = importlib.import_module(f"sinkd.cli.{command}")
        status = guarded(lambda: module.main(argv), ["--traceback"])
    if status == 0:
        return read_outcome(Path(folder)), ""
    said = [line for line in Path(log).read_text(encoding="utf-8").splitlines() if line.startswith("sinkd: ")]
    return None, said[-1].removeprefix("sinkd: ") if said else f"exit status {status}"


def _start_ray(address: str | None, resources: Mapping[str, float]) -> Any:
    """Ray, on this machine or joined to a cluster, with room for a trial. Raises SinkdError where that cannot be."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError as error:
        raise SinkdError(f"sinkd sweep runs its trials on Ray, which is not installed; pip install {RAY}") from error
    quiet = {"logging_level": logging.ERROR, "log_to_driver": False}
    try:
        if address is None:
            # Trials give back a few numbers: Ray's store for large objects stays as small as it can be.
            # "local": without it Ray joins whatever cluster it finds running on this machine.
            ray.init("local", include_dashboard=False, object_store_memory=100 * 2**20, **quiet)
        else:
            _need_listener(address)
            ray.init(address, **quiet)
    except (OSError, RuntimeError, ValueError) as error:
        hint = "; is a cluster there (ray start --head), and is its token ours?" if address else ""
        raise SinkdError(f"Ray does not start: {str(error).strip().splitlines()[0]}{hint}") from error
    wanted = {"CPU": resources.get("num_cpus", 0), "GPU": resources.get("num_gpus", 0)}
    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if not any(all(machine.get(name, 0) >= number for name, number in wanted.items()) for machine in machines):
        asked = " and ".join(f"{number:g} {name}" for name, number in wanted.items() if number)
        if address is None:
            ray.shutdown()
            raise SinkdError(f"a trial asks for {asked}, which this machine does not have; lower the sweep's resources")
        logger.warning("a trial asks for %s, which no machine of the cluster has yet; Ray waits for one", asked)
    return ray


def _need_listener(address: str) -> None:
    """Refuse an address where nobody listens: Ray itself would look for minutes."""
    host, colon, port = address.rpartition(":")
    if colon and port.isdigit() and "/" not in host:
        with socket.create_connection((host, int(port)), timeout=10):
            pass


def _reason(error: Exception) -> str:
    """What Ray says of a trial, in one sentence: its texts are pages."""
    cause = getattr(error, "cause", None) or error
    first = (str(cause).strip().splitlines() or ["no reason given"])[0]
    return f"{type(cause).__name__}: {first.split('. ')[0].rstrip('.')}"
