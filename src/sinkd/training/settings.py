"""Resolve the settings of a run. Each value comes from the first of these sources that has it:

1. the command line;
2. the YAML file that `--config` names;
3. a published recipe, in the published entry points;
4. the run that trained `--model_path`, in the commands that use a trained model;
5. T0's published recipe, if a language model answers the task;
6. the defaults of the dataclass.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from sinkd import recipes
from sinkd.errors import SinkdError, first_sentence
from sinkd.tasks import names_superglue
from sinkd.training.arguments import DistillationArguments, TaskArguments
from sinkd.training.flag_topics import flag_parser
from sinkd.training.gpu import has_bfloat16
from sinkd.training.manifest import read_manifest

# Settings that affect a trained model's scores: how inputs are cut and worded, and the precision.
READING = (
    "max_seq_length", "max_length", "target_max_length", "input_eos", "length_normalize", "bf16", "fp16",
    "template_name", "templates_dir",
)  # fmt: skip
# Settings that name the data; either all of them come from the run, or none.
DATA = (
    "task_name", "dataset_name", "dataset_config_name", "data_dir", "train_file", "dev_file", "test_file",
    "text_columns", "label_column", "labels", "table_kind", "bad_rows", "column_names", "quoting", "encoding",
)  # fmt: skip
NAMES_DATA = ("task_name", "dataset_name", "train_file", "dev_file")
SIDES = ("per_device_train_batch_size", "per_device_eval_batch_size")

ArgumentsT = TypeVar("ArgumentsT", bound=TaskArguments)


def resolve_settings(
    kind: type[ArgumentsT],
    argv: Sequence[str],
    prog: str,
    *,
    recipe: Callable[[str], str] | None = None,
    trained: Sequence[str] = (),
) -> ArgumentsT:
    """Resolve the settings of a command line.

    Args:
        kind: The dataclass to fill.
        prog: The program's name in errors and help.
        recipe: Returns the name of a task's published recipe, "glue/cola-student", which may not exist.
        trained: The settings to take from the run that trained `--model_path` (READING, DATA).

    Raises:
        SinkdError: for an unknown flag or key (names the nearest), or an invalid value.
    """
    parser = flag_parser(kind, prog)
    given = parser.typed(argv)
    if given.get("config") is not None:
        given = merge(parser.read(Path(given["config"])), given)
    run = _of_run(given, trained)
    task = named_task({**run, **given})
    layers: list[Mapping[str, Any]] = [{"output_dir": ""}]
    if recipe is not None or given.get("protocol") == "published":
        layers.append({"bf16": False})  # published scores are of float32, which a GPU's default is not
    if task is not None and names_superglue(task):
        layers.append(parser.read(recipes.find(f"t0/{kind.role}")))
    layers.append(run)
    if task is not None and recipe is not None and recipe(task) in recipes.names():
        layers.append(parser.read(recipes.find(recipe(task))))
    settings = merge(*layers, given)
    file = f" (settings of {given['config']})" if given.get("config") is not None else ""
    try:
        made = kind(**settings)
        if isinstance(made, DistillationArguments):
            made.parse_objective()  # refuse a wrong one before any data is read
        return made
    except (ValueError, TypeError, ImportError) as error:  # SinkdError is a ValueError; the others are transformers'
        raise SinkdError(f"{first_sentence(error)}{file}") from error


def named_task(settings: Mapping[str, Any]) -> str | None:
    """The task named by `task_name`, or by `dataset_name` with `dataset_config_name`; None without either.

    "cola" is a GLUE task; "superglue/copa", "anli/r1" and all that `names_superglue` knows are for language models.
    Raises SinkdError if both are given.
    """
    task, dataset, config = (settings.get(name) for name in ("task_name", "dataset_name", "dataset_config_name"))
    if dataset is None:
        return task
    if task is not None:
        raise SinkdError(f"--task_name {task} and --dataset_name {dataset} name two tasks; give one")
    name = dataset if config is None else f"{dataset}/{config}"
    return name if names_superglue(name) else f"superglue/{name}"


def merge(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """Merge layers, lowest first. A batch size for training or evaluation also overrides one for both."""
    merged: dict[str, Any] = {}
    for layer in layers:
        both = merged.get("per_gpu_batch_size")
        if both is not None and not layer.keys().isdisjoint(SIDES):
            merged |= {"per_gpu_batch_size": None, **dict.fromkeys(SIDES, both)}
        merged |= layer
    return merged


def _of_run(given: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """The settings `names` of the run that trained the model.

    Without its data if other data is given, and without bfloat16, a GPU's default, where the device lacks it.
    """
    path = given.get("model_path")
    manifest = read_manifest(Path(path)) if path is not None and names else None
    if manifest is None:
        return {}
    if any(given.get(name) is not None for name in NAMES_DATA):
        names = [name for name in names if name not in DATA]
    if not has_bfloat16(bool(given.get("use_cpu"))):
        names = [name for name in names if name != "bf16"]
    return {name: manifest.settings[name] for name in names if name in manifest.settings}
