"""Check what a trainer is given, and choose the score that selects its best model."""

import copy
from collections.abc import Mapping
from typing import Any

from torch.utils.data import IterableDataset
from transformers.trainer_utils import SaveStrategy, SchedulerType, has_length

from sinkd.errors import SinkdError
from sinkd.tasks import Task
from sinkd.training.arguments import TaskArguments

# Keywords of the Trainer that would do nothing, and why.
REFUSED = {
    "model_init": "give model",
    "compute_loss_func": "the objective is the loss",
}
FOLLOWING = (SchedulerType.REDUCE_ON_PLATEAU, SchedulerType.GREEDY)  # schedules that follow a score


def check_arguments(kind: type[TaskArguments], args: Any, task: Task | None, keywords: Mapping[str, Any]) -> None:
    """Raise SinkdError for arguments of a trainer that would do nothing or fail later.

    Args:
        kind: The type that `args` must have.
    """
    if not isinstance(args, kind):
        found = f"args is of the type {type(args).__name__}"
        raise SinkdError(f"{found}; give {kind.__name__}, which has every field of TrainingArguments")
    for name, why in REFUSED.items():
        if keywords.get(name) is not None:
            raise SinkdError(f"{name} is not used here; leave it out: {why}")
    if keywords.get("compute_metrics") is not None and task is not None:
        raise SinkdError(f"{task.name} has its own scores; leave out compute_metrics")
    rows = keywords.get("train_dataset")
    if rows is not None and (isinstance(rows, IterableDataset) or not has_length(rows)):
        raise SinkdError(
            f"train_dataset is of the type {type(rows).__name__}, whose rows have no numbers, and seed and epoch "
            "choose rows by number; give one with __len__ and __getitem__, as list(train_dataset)"
        )


def with_best(args: TaskArguments, task: Task | None) -> TaskArguments:
    """Return a trainer's own settings, with the score that selects the best model.

    That is the task's; without a task the one that the settings name, or the loss if one is needed.

    Raises:
        SinkdError: if the settings name another score than the task's.
    """
    args = copy.copy(args)
    follows = args.lr_scheduler_type in FOLLOWING
    metric = args.metric_for_best_model
    if task is not None:
        if metric not in (None, task.metric, f"eval_{task.metric}"):
            chosen = f"metric_for_best_model is {metric}, and {task.name} is given with {task.metric}"
            raise SinkdError(f'{chosen}; give task.selected_by("{metric}")')
        args.metric_for_best_model, args.greater_is_better = task.metric, True
    elif metric is None and (follows or args.load_best_model_at_end or args.save_strategy == SaveStrategy.BEST):
        args.metric_for_best_model = "loss"
    if args.greater_is_better is None and args.metric_for_best_model is not None:
        args.greater_is_better = not args.metric_for_best_model.endswith("loss")
    if follows:  # transformers would lower the rate when an accuracy rises
        mode = "max" if args.greater_is_better else "min"
        args.lr_scheduler_kwargs = {"mode": mode} | (args.lr_scheduler_kwargs or {})
    return args
