"""A sweep: which runs there are, and which of them are done already.

    command: distill                     # or finetune, which has no objectives
    tasks: [cola, rte]                   # or cola: {teacher_path: T, config: recipes/glue/cola-student.yaml}
    objectives: [kd, kd+sinkhorn]        # or l1: {distill_loss: kd+sinkhorn, sinkhorn_cost: l1}
    settings: {slow: {learning_rate: 1e-5}, fast: {learning_rate: 1e-4}}
    seeds: [0, 1, 2]
    flags: {student_path: S}             # of every trial
    baseline: kd                         # what the other objectives are compared with; the first, without it
    resources: {num_cpus: 1, num_gpus: 0.5}

Every trial is an ordinary run of its command, in a folder of its own: it can be resumed and evaluated like any other.
A flag that is set twice is a setting's over an objective's over a task's over that of all.
"""

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import yaml

from sinkd.errors import SinkdError
from sinkd.training.arguments import DistillationArguments, FinetuneArguments, TaskArguments
from sinkd.training.manifest import describe, read_manifest
from sinkd.training.outcome import Outcome, read_outcome
from sinkd.training.parser import FlagParser, words
from sinkd.training.settings import resolve_settings

COMMANDS: dict[str, type[TaskArguments]] = {"distill": DistillationArguments, "finetune": FinetuneArguments}
KEYS = ("command", "tasks", "objectives", "settings", "seeds", "flags", "baseline", "resources")
RESOURCES = ("num_cpus", "num_gpus")
# Flags that the sweep itself decides, and where.
DECIDED = {
    "seed": "seeds",
    "seeds": "seeds",
    "output_dir": "--output_dir",
    "exp_name": "--output_dir",
    "test_output_dir": "--output_dir",
    "overwrite": "--overwrite",
    "dry_run": "--dry_run",
}


@dataclass(frozen=True)
class Trial:
    """One run of a sweep. objective and setting are "" where a sweep has none; `argv` is what its command is given."""

    task: str
    objective: str
    setting: str
    seed: int
    command: str
    argv: tuple[str, ...]
    folder: Path

    def __str__(self) -> str:
        return " ".join([*filter(None, [self.task, self.objective, self.setting]), f"seed {self.seed}"])

    def parse(self) -> TaskArguments:
        """The arguments that its command line comes to; SinkdError where it does not come to any."""
        args = resolve_settings(COMMANDS[self.command], self.argv, f"sinkd {self.command}")
        if isinstance(args, DistillationArguments):
            args.parse_objective()
        return args


@dataclass(frozen=True)
class Sweep:
    """The trials of a sweep, in the order of tasks, objectives, settings and seeds; and what each asks of Ray."""

    trials: tuple[Trial, ...]
    baseline: str
    resources: Mapping[str, float]


def read_sweep(path: Path, output_dir: Path, seeds: str | None = None) -> Sweep:
    """The sweep that a YAML file describes, its runs below `output_dir`; `seeds` in place of the file's.

    Raises SinkdError, naming the file and the key, for anything in it that no trial could run with.
    """
    content = _read(path)
    command = content.get("command", "distill")
    if command not in COMMANDS:
        raise SinkdError(f'{path} sets command to "{command}"; it must be {" or ".join(COMMANDS)}')
    if command == "finetune" and content.get("objectives"):
        raise SinkdError(f"{path} gives objectives, which finetune does not have; leave them out")
    if "tasks" not in content or ("objectives" not in content and command == "distill"):
        lacking = "objectives" if "tasks" in content else "tasks"
        raise SinkdError(f"{path} lacks {lacking}; give a list of names, or names with flags of their own")
    tasks = _axis(content["tasks"], "tasks", "task_name", path, command)
    for name, flags in tasks.items():
        if flags.get("train_file") is None:
            tasks[name] = {"task_name": name, **flags}
    objectives = _axis(content.get("objectives") or {"": None}, "objectives", "distill_loss", path, command)
    if command == "distill":
        objectives = {name: {"distill_loss": name, **flags} for name, flags in objectives.items()}
    settings = _axis(content.get("settings") or {"": None}, "settings", "", path, command)
    shared = _flags(content.get("flags") or {}, f"{path} (flags)", "", command)
    baseline = content.get("baseline", next(iter(objectives)))
    if baseline not in objectives:
        raise SinkdError(f'{path} sets baseline to "{baseline}"; it must be one of {", ".join(objectives)}')
    trials = []
    for task, objective, setting in product(tasks, objectives, settings):
        flags = {**shared, **tasks[task], **objectives[objective], **settings[setting]}
        place = output_dir.joinpath(*map(_slug, filter(None, [task, objective, setting])))
        for seed in _seeds(content.get("seeds", [0, 1, 2]) if seeds is None else seeds, path):
            folder = place / f"seed-{seed}"
            argv = tuple(words({**flags, "seed": seed, "output_dir": str(folder)}))
            trials.append(Trial(task, objective, setting, seed, command, argv, folder))
    _need_folders(trials, path)
    for trial in trials:
        try:
            trial.parse()
        except SinkdError as error:
            raise SinkdError(f"{path}, {trial}: {error}") from error
    return Sweep(tuple(trials), baseline, _resources(content.get("resources") or {}, path))


def finished(trial: Trial, args: TaskArguments, files: Mapping[str, str]) -> Outcome | None:
    """What a trial that is done already came to; None where it is still to be run, or to be gone on with.

    files: fingerprints of the data files by what the manifest calls them. Raises SinkdError where the trial's folder
    holds a run of other settings or data.
    """
    manifest = read_manifest(trial.folder)
    if manifest is None:
        return None
    # The models' fingerprints would take loading them; what a run under way compares when it resumes.
    difference = describe(args, {**manifest.inputs, **files}).same_run(manifest)
    if difference is not None:
        raise SinkdError(
            f"{trial.folder} holds another run ({difference}); choose another --output_dir, or --overwrite"
        )
    return read_outcome(trial.folder)


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise SinkdError(f"--config names {path}, which does not exist; give a sweep's YAML file, as in recipes/sweep/")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SinkdError(f"{path} is not YAML: {str(error).splitlines()[0]}") from error
    if not isinstance(content, dict):
        raise SinkdError(f"{path} must hold the keys {', '.join(KEYS)}; it holds a {type(content).__name__}")
    for key in content:
        if key not in KEYS:
            close = difflib.get_close_matches(str(key), KEYS, n=1)
            meant = f'did you mean "{close[0]}"?' if close else f"a sweep has {', '.join(KEYS)}"
            raise SinkdError(f'{path} sets "{key}", which no sweep has; {meant}')
    return content


def _axis(content: Any, key: str, own: str, path: Path, command: str) -> dict[str, dict[str, Any]]:
    """The names on an axis with the flags that each sets; `own` is the flag that this axis may set, and no other."""
    if isinstance(content, list) and content and key != "settings":
        if len(set(map(str, content))) < len(content):
            raise SinkdError(f"{path} names one of its {key} twice; give each once")
        content = dict.fromkeys(content)
    if not isinstance(content, dict) or not content:
        shape = "names with flags" if key == "settings" else "a list of names, or names with flags"
        raise SinkdError(f"{path} sets {key} to {content!r}; it must hold {shape}")
    axis = {}
    for name, flags in content.items():
        if not isinstance(name, str):
            raise SinkdError(
                f"{path} names {name!r} among its {key}; a name is text, in quotes where YAML reads another"
            )
        if not isinstance(flags, dict | None):
            raise SinkdError(
                f"{path} sets {key}: {name} to {flags!r}; it must hold flags, as in {{learning_rate: 1e-4}}"
            )
        axis[name] = _flags(flags or {}, f"{path} ({key}: {name})", own, command)
    return axis


def _flags(flags: Any, place: str, own: str, command: str) -> dict[str, Any]:
    if not isinstance(flags, dict):
        raise SinkdError(f"{place} holds {flags!r}; it must hold flags, as in {{learning_rate: 1e-4}}")
    checked = FlagParser(COMMANDS[command]).checked(flags, place)
    elsewhere = {**DECIDED, "task_name": "tasks", "distill_loss": "objectives"}
    for name in checked:
        if name in elsewhere and name != own:
            raise SinkdError(f"{place} sets {name}, which a sweep takes from {elsewhere[name]}; leave it out")
    return checked


def _seeds(content: Any, path: Path) -> list[int]:
    """Seeds from a list of the file, or from the text of a command line."""
    where = f"--seeds {content}" if isinstance(content, str) else f"{path} sets seeds to {content!r}"
    numbers = content.split(",") if isinstance(content, str) else content
    try:
        seeds = [int(str(number)) for number in numbers]
    except (TypeError, ValueError) as error:
        raise SinkdError(f"{where}; give whole numbers, as in 0, 1, 2") from error
    if not seeds or len(set(seeds)) < len(seeds):
        raise SinkdError(f"{where}; give each seed once, and at least one")
    return seeds


def _resources(content: Any, path: Path) -> dict[str, float]:
    """What each trial asks of Ray; a CPU where nothing is said."""
    if not isinstance(content, dict) or any(key not in RESOURCES for key in content):
        raise SinkdError(f"{path} sets resources to {content!r}; it must hold {' and '.join(RESOURCES)}, numbers")
    for key, value in content.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
            raise SinkdError(f"{path} sets resources: {key} to {value!r}; it must be a number, 0 or above")
    if content.get("num_gpus", 0) > 1:
        raise SinkdError(
            f"{path} sets resources: num_gpus to {content['num_gpus']}; a trial is one process, on one GPU"
        )
    return {"num_cpus": 1, **content}


def _need_folders(trials: Sequence[Trial], path: Path) -> None:
    """Every trial has a folder of its own, in the file system's eyes too."""
    taken: dict[str, Trial] = {}
    for trial in trials:
        other = taken.setdefault(str(trial.folder).lower(), trial)
        if other is not trial:
            raise SinkdError(f'{path}: "{other}" and "{trial}" would share {trial.folder}; give one another name')


def _slug(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9+._-]+", "-", name).strip(".") or "-"
