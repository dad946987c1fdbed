"""Flags of `TrainingArguments` that are refused, and why, which `--help` leaves out; and values that are refused."""

import math
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from sinkd.errors import SinkdError

# They are refused in programs too.
NEVER = {
    "auto_find_batch_size": "the objective compares the rows of an update, so their number is part of it",
    "batch_eval_metrics": "scores are of all rows together",
    "dataloader_in_order": "seed and epoch determine the batches",
    "debug": "a loss that is not finite stops the run by itself, and names the side and the rows",
    "enable_jit_checkpoint": "SIGTERM saves a checkpoint by itself",
    "eval_do_concat_batches": "scores are of all rows together",
    "eval_use_gather_object": "answers are tensors",
    "label_names": "labels are in the column labels",
    "label_smoothing_factor": "hard labels are taken as they are; a kd term softens them",
    "length_column_name": "the tokens of a row are counted in the column length",
    "parallelism_config": "models are sharded by --fsdp",
    "resume_from_checkpoint": "the same command resumes from the last checkpoint in the output folder by itself",
    "train_sampling_strategy": "seed and epoch determine the batches, with rows of similar length unless "
    "--no_group_by_length is given",
    "use_cache": "no pass of training reads a cache",
}
# A program may set them; a command decides for itself.
IN_COMMANDS = {
    "accelerator_config": "an update has one loss, however it is divided",
    "average_tokens_across_devices": "an update has one loss, however it is divided",
    "disable_tqdm": "a command shows its progress in its own way",
    "eval_on_start": "sinkd evaluate scores a model before it is trained",
    "greater_is_better": "every score of a task is better when it is greater",
    "include_for_metrics": "a task's scores need answers and labels only",
    "load_best_model_at_end": "a run always ends with its best model",
    "prediction_loss_only": "a task's scores need answers",
    "remove_unused_columns": "a model is given the inputs that it reads",
    "restore_callback_states_from_checkpoint": "a command's callbacks have no state",
    "save_only_model": "a run can always be resumed",
    "skip_memory_metrics": "sinkd estimate tells the memory that a run needs",
}
UNSERVED = NEVER | IN_COMMANDS
AT_LEAST_ONE = (
    "gradient_accumulation_steps", "max_dev_rows", "max_seq_length", "max_train_rows", "num_shots",
    "per_device_eval_batch_size", "per_device_train_batch_size", "per_gpu_batch_size",
)  # fmt: skip
ALWAYS = {"greater_is_better": True, "load_best_model_at_end": True}  # what a command does anyway


def served(values: Mapping[str, Any], defaults: Mapping[str, Any], place: str = "") -> dict[str, Any]:
    """Return the values of flags without those that ask for what is done anyway.

    Args:
        place: The file that sets them; the command line by default.

    Raises:
        SinkdError: for a flag of this module that is not at its default.
    """
    kept = {name: value for name, value in values.items() if name not in ALWAYS or value != ALWAYS[name]}
    for name in kept.keys() & UNSERVED.keys():
        _refuse(name, kept[name], defaults[name], f"{place} sets {name}, which" if place else f"--{name}")
    return kept


def refuse_impossible(args: Any) -> None:
    """Raise SinkdError for numbers that cannot train a model, and for flags without effect."""
    for name in AT_LEAST_ONE:
        value = getattr(args, name)
        if value is not None and value < 1:
            raise SinkdError(f"--{name} is {value}; it must be at least 1")
    for name, value in vars(args).items():
        if isinstance(value, float) and not math.isfinite(value):
            raise SinkdError(f"--{name} is {value}; it must be finite")
    for name in ("learning_rate", "num_train_epochs"):
        if not getattr(args, name) > 0:
            raise SinkdError(f"--{name} is {getattr(args, name)}; it must be above 0")
    _refuse_unserved(args)
    for seed in args.seed_list:
        if not 0 <= seed < 2**32:
            raise SinkdError(f"{seed} is no seed; a seed is a whole number from 0 to {2**32 - 1}")
        if args.seed_list.count(seed) > 1:
            raise SinkdError(f"--seeds {args.seeds} names {seed} twice; give each seed once")


def _refuse_unserved(args: Any) -> None:
    """Raise SinkdError for a flag of NEVER that is not at its default, or one of a loader's processes without any."""
    for field in fields(args):
        if field.name in NEVER:
            _refuse(field.name, getattr(args, field.name), field.default, f"--{field.name}")
    for name in ("dataloader_persistent_workers", "dataloader_multiprocessing_context"):
        if getattr(args, name) and not args.dataloader_num_workers:
            raise SinkdError(f"--{name} is for processes that load data; give --dataloader_num_workers too")


def _refuse(name: str, value: Any, default: Any, what: str) -> None:
    if value not in (default, None, "", []):  # TrainingArguments replaces some defaults by an empty list
        raise SinkdError(f"{what} is not supported; leave it out: {UNSERVED[name]}")
