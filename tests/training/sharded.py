"""One update of a student that FSDP2 shards over processes: under torchrun, `sharded.py OUT STUDENT TEACHER ROWS`.

Saves the whole gradient that the gradient cache leaves in the shards.
"""

import sys
from functools import partial

import torch
from torch import distributed
from torch.distributed.fsdp import fully_shard
from transformers import AutoModelForSequenceClassification

from sinkd.losses.feature import LOGITS
from sinkd.losses.objective import Objective
from sinkd.models.forward import observe
from sinkd.training.gather import leave_group
from sinkd.training.gradient_cache import GradientCache


def gradient(student, teacher, batches, parameters) -> torch.Tensor:
    """The gradient of one update, (n,), from this process's micro-batches."""
    objective = Objective.parse("ce:0.3+kd:0.7+sinkhorn:1", sinkhorn={"weight": 1.0, "reduction": "mean"})
    cache = GradientCache(objective, batches, partial(observe, student), partial(observe, teacher, features=[LOGITS]))
    for _ in batches:
        (cache.step()[0].total / len(batches)).backward()
    return torch.cat([parameter.flatten() for parameter in parameters()])


def sharded_gradient(student_path: str, teacher_path: str, rows: str) -> torch.Tensor:
    """The gradient of one update of a student that all processes hold a part of, put together again."""
    rank = distributed.get_rank()
    teacher = AutoModelForSequenceClassification.from_pretrained(teacher_path).eval().requires_grad_(False)
    student = AutoModelForSequenceClassification.from_pretrained(student_path).eval()
    mesh = distributed.device_mesh.init_device_mesh("cpu", (distributed.get_world_size(),))
    for layer in student.bert.encoder.layer:
        fully_shard(layer, mesh=mesh)
    fully_shard(student, mesh=mesh)
    batches = torch.load(rows)  # (micro-batches, processes)

    def gradients():
        return [p.grad.full_tensor() for p in student.parameters() if p.grad is not None]

    return gradient(student, teacher, [row[rank] for row in batches], gradients)


def main(out: str, student_path: str, teacher_path: str, rows: str) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo")
    found = sharded_gradient(student_path, teacher_path, rows)
    if distributed.get_rank() == 0:
        torch.save(found, out)
    leave_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
