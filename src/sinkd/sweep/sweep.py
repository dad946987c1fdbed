"""A sweep: every combination of tasks, objectives, settings and seeds is a trial.

    command: distill                     # or finetune, without objectives
    tasks: [cola, rte]                   # or cola: {teacher_path: T, config: recipes/glue/cola-student.yaml}
    objectives: [kd, kd+sinkhorn]        # or l1: {distill_loss: kd+sinkhorn, sinkhorn_cost: l1}
    settings: {slow: {learning_rate: 1e-5}, fast: {learning_rate: 1e-4}}
    seeds: [0, 1, 2]
    flags: {student_path: S}             # for every trial
    baseline: kd                         # compare the other objectives with it; default: the first
    resources: {num_cpus: 1, num_gpus: 0.5}

A trial is an ordinary run of its command in a separate folder: it can be resumed and evaluated like any other. A
setting's flags override an objective's, which override a task's, which override those for every trial.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from sinkd.errors import SinkdError, unknown
from sinkd.sweep.trial import COMMANDS, Trial
from sinkd.training.flag_topics import flag_parser
from sinkd.training.parser import read_yaml
from sinkd.training.settings import merge

KEYS = ("command", "tasks", "objectives", "settings", "seeds", "flags", "baseline", "resources")
RESOURCES = ("num_cpus", "num_gpus")
# Flags that the sweep sets, and the part of the sweep that they come from.
DECIDED = {
    "task_name": "tasks",
    "distill_loss": "objectives",
    "seed": "seeds",
    "seeds": "seeds",
    "output_dir": "--output_dir",
    "exp_name": "--output_dir",
    "test_output_dir": "--output_dir",
    "overwrite": "--overwrite",
    "dry_run": "--dry_run",
}


@dataclass(frozen=True)
class Combination(Trial):
    """The trial of one task, objective, setting and seed; objective and setting may be ""."""

    task: str
    objective: str
    setting: str
    seed: int


@dataclass(frozen=True)
class Sweep:
    """Trials in the order of tasks, objectives, settings and seeds, and each trial's resources."""

    trials: tuple[Combination, ...]
    baseline: str
    resources: Mapping[str, float]


def read_sweep(path: Path, output_dir: Path, seeds: str | None = None) -> Sweep:
    """Read a sweep's YAML file; `make_sweep` describes the other arguments and the errors."""
    return make_sweep(read_yaml(path, "recipes/sweep/"), str(path), output_dir, seeds)


def make_sweep(content: Any, source: str, output_dir: Path, seeds: str | None = None) -> Sweep:
    """Combine the parts of a sweep into trials.

    Args:
        source: the file's name, for errors.
        output_dir: the parent of the trials' folders.
        seeds: comma-separated seeds, instead of those in the content.

    Raises:
        SinkdError: if something in the content is wrong or could not run; names its key.
    """
    _check_keys(content, source)
    command = str(content.get("command", "distill"))
    tasks = _axis(content["tasks"], "tasks", "task_name", source, command)
    for name, flags in tasks.items():
        if flags.keys().isdisjoint({"train_file", "text_columns"}):
            tasks[name] = {"task_name": name, **flags}
    objectives = _axis(content.get("objectives") or {"": None}, "objectives", "distill_loss", source, command)
    if command == "distill":
        objectives = {name: {"distill_loss": name, **flags} for name, flags in objectives.items()}
    settings = _axis(content.get("settings") or {"": None}, "settings", "", source, command)
    shared = _flags(content.get("flags") or {}, f"{source} (flags)", "", command)
    baseline = str(content.get("baseline", next(iter(objectives))))
    if baseline not in objectives:
        raise SinkdError(f'{source} sets baseline to "{baseline}"; it must be one of {", ".join(objectives)}')
    numbers = _seeds(content.get("seeds", [0, 1, 2]), f"{source} sets seeds to")
    if seeds is not None:
        numbers = _seeds(seeds, "--seeds is")
    trials: dict[str, Combination] = {}
    for task, objective, setting, seed in product(tasks, objectives, settings, numbers):
        names = [name for name in (task, objective, setting) if name]
        folder = output_dir.joinpath(*map(_slug, names), f"seed-{seed}")
        flags = merge(shared, tasks[task], objectives[objective], settings[setting])
        argv = tuple(_words({**flags, "seed": seed, "output_dir": str(folder)}))
        name = " ".join([*names, f"seed {seed}"])
        trial = Combination(name, command, argv, folder, task, objective, setting, seed)
        other = trials.setdefault(str(folder).lower(), trial)  # a file system may ignore case
        if other is not trial:
            raise SinkdError(f'{source}: "{other.name}" and "{name}" would share {folder}; give one another name')
    for trial in trials.values():
        try:
            trial.settings()
        except SinkdError as error:
            raise SinkdError(f"{source}, {trial.name}: {error}") from error
    return Sweep(tuple(trials.values()), baseline, _resources(content.get("resources") or {}, source))


def _check_keys(content: Any, source: str) -> None:
    if not isinstance(content, dict):
        raise SinkdError(f"{source} must hold the keys {', '.join(KEYS)}; it holds a {type(content).__name__}")
    for key in content:
        if key not in KEYS:
            raise unknown(f'{source} sets "{key}", which is not a key of a sweep', str(key), KEYS)
    command = str(content.get("command", "distill"))
    if command not in COMMANDS:
        raise SinkdError(f'{source} sets command to "{command}"; it must be {" or ".join(COMMANDS)}')
    if command == "finetune" and content.get("objectives"):
        raise SinkdError(f"{source} gives objectives, which finetune does not have; leave them out")
    for key in ("tasks", *(["objectives"] if command == "distill" else [])):
        if key not in content:
            raise SinkdError(f"{source} lacks {key}; give a list of names, or names with flags of their own")


def _axis(content: Any, key: str, own: str, source: str, command: str) -> dict[str, dict[str, Any]]:
    """The names under a key with the flags that each sets; `own` is the only decided flag that they may set."""
    for name in content if isinstance(content, list | dict) else ():
        if not isinstance(name, str):
            raise SinkdError(
                f"{source} names {name!r} among its {key}; a name is text: quote what YAML reads as something else"
            )
    if isinstance(content, list) and content and key != "settings":
        if len(set(content)) < len(content):
            raise SinkdError(f"{source} names one of its {key} twice; give each once")
        content = dict.fromkeys(content)
    if not isinstance(content, dict) or not content:
        shape = "names with flags" if key == "settings" else "a list of names, or names with flags"
        raise SinkdError(f"{source} sets {key} to {content!r}; it must hold {shape}")
    return {name: _flags(flags or {}, f"{source} ({key}: {name})", own, command) for name, flags in content.items()}


def _flags(flags: Any, place: str, own: str, command: str) -> dict[str, Any]:
    if not isinstance(flags, dict):
        raise SinkdError(f"{place} holds {flags!r}; it must hold flags, as in {{learning_rate: 1e-4}}")
    checked = flag_parser(COMMANDS[command]).checked(flags, place)
    for name in checked:
        if name in DECIDED and name != own:
            raise SinkdError(f"{place} sets {name}, which a sweep takes from {DECIDED[name]}; leave it out")
    return checked


def _seeds(content: Any, place: str) -> list[int]:
    """Seeds from the file's list, or from the command line's text."""
    where = f"{place} {content!r}"
    try:
        seeds = [int(str(number)) for number in (content.split(",") if isinstance(content, str) else content)]
    except (TypeError, ValueError) as error:
        raise SinkdError(f"{where}; give whole numbers, as in 0, 1, 2") from error
    if not seeds or len(set(seeds)) < len(seeds):
        raise SinkdError(f"{where}; give each seed once, and at least one")
    return seeds


def _resources(content: Any, source: str) -> dict[str, float]:
    """The resources of each trial; one core by default."""
    if not isinstance(content, dict) or any(key not in RESOURCES for key in content):
        raise SinkdError(f"{source} sets resources to {content!r}; it must hold {' and '.join(RESOURCES)}, numbers")
    for key, value in content.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
            raise SinkdError(f"{source} sets resources: {key} to {value!r}; it must be a number, 0 or above")
    if content.get("num_gpus", 0) > 1:
        raise SinkdError(
            f"{source} sets resources: num_gpus to {content['num_gpus']}; a trial is one process, on one GPU"
        )
    return {"num_cpus": 1, **content}


def _slug(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9+._-]+", "-", name).strip(".") or "-"


def _words(settings: Mapping[str, Any]) -> list[str]:
    """Settings as words of a command line, without those that are None."""
    line: list[str] = []
    for name, value in settings.items():
        if isinstance(value, list):
            line += [f"--{name}", *map(str, value)]
        elif value is not None:
            text = json.dumps(value) if isinstance(value, dict) else str(value)
            line += [f"--{name}={text}"] if text.startswith("-") else [f"--{name}", text]
    return line
