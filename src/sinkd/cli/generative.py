"""What commands take for granted where a language model answers: the published settings of T0 and GPT-Neo."""

from collections.abc import Sequence
from typing import Any

from sinkd.cli.command import typed_value
from sinkd.tasks import names_superglue

COMMON: dict[str, Any] = {
    "per_device_train_batch_size": 4,
    "per_device_eval_batch_size": 8,
    "learning_rate": 1e-4,
    "weight_decay": 0.01,
    "seed": 42,
}
TEACHER = COMMON | {"num_train_epochs": 30.0}
STUDENT = COMMON | {
    "num_train_epochs": 10.0,
    "distill_loss": "ce:1+kl:0.1+sinkhorn:1",
    "temperature": 1.0,
    "sinkhorn_weight": 0.0008,
}
# Where GPT-Neo's differ from T0's, for teacher and student.
GPT: dict[str, Any] = {
    "per_device_train_batch_size": 1,
    "gradient_accumulation_steps": 4,
    "num_train_epochs": 300.0,
    "seed": 32,
}


def settings(argv: Sequence[str], published: dict[str, Any]) -> dict[str, Any]:
    """`published`, TEACHER or STUDENT, where the command line names a task that a language model answers; else {}."""
    task = typed_value(argv, "--task_name")
    named = typed_value(argv, "--dataset_name") is not None or (task is not None and names_superglue(task))
    return published if named else {}
