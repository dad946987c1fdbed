"""The trainer of a student under an objective that compares it with a teacher, cached or live."""

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel

from sinkd.errors import SinkdError
from sinkd.losses.objective import Objective
from sinkd.losses.term import View
from sinkd.models import Encoder, Family
from sinkd.models.head import head_width
from sinkd.training.answered_rows import TaughtRows
from sinkd.training.arguments import DistillationArguments
from sinkd.training.ensemble import Ensemble, kept_features
from sinkd.training.teacher import OnRows, Teacher, stack_of
from sinkd.training.trainer import TaskTrainer
from sinkd.training.trainer_arguments import check_arguments

logger = logging.getLogger(__name__)

# Settings that do not work if the student's own gradient is in the loss, and why.
ONCE_DIFFERENTIABLE = {
    "torch_compile": "and a compiled model has no second derivative",
    "gradient_checkpointing": "and a checkpointed layer gives it only to backward()",
    "fsdp": "and a sharded model gathers its weights for one backward pass alone",
    "deepspeed": "and DeepSpeed's engine takes one backward pass alone",
}


class DistillationTrainer(TaskTrainer):
    """Trains `model`, the student, under an objective that compares it with a teacher.

    Args:
        objective: An `Objective`; or its text, with weights, temperature and options from `args`.
        teacher: An `Ensemble`, a `Teacher`, or any model that gives logits for the student's inputs, as `model`
            does. It is frozen, and shares no parameters with it. Answers of a transformers model to rows that `encode`
            made are cached if the objective and `args.teacher_cache` allow it; any other model answers live.
        args: The settings of the run.
        family: Runs both models, see `TaskTrainer`.
        on_teacher_rows: Called with (rows done, rows in total) while the teacher answers.
        kwargs: Those of `TaskTrainer`.

    Raises:
        SinkdError: if the objective needs a teacher and there is none, or cannot be trained with these settings.
    """

    arguments = DistillationArguments

    def __init__(
        self,
        model: Any,
        args: DistillationArguments,
        *,
        objective: Objective | str,
        teacher: nn.Module | Teacher | Ensemble | None = None,
        family: Family | None = None,
        on_teacher_rows: OnRows | None = None,
        **kwargs: Any,
    ):
        family = family or Encoder()
        check_arguments(self.arguments, args, family.task, kwargs)
        objective = args.parse_objective(objective) if isinstance(objective, str) else objective
        teacher = Teacher(teacher, family) if isinstance(teacher, nn.Module) else teacher
        self.teachers = Ensemble([teacher]) if isinstance(teacher, Teacher) else teacher
        self.on_teacher_rows = on_teacher_rows
        if self.teachers is not None:
            self.teachers.refuse_shared(model)
        if objective.compares_layers:
            # Draw projectors before the Trainer seeds, so that they depend only on the seed and agree across processes.
            with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
                torch.manual_seed(args.seed)
                taught = stack_of(None, "teacher") if self.teachers is None else self.teachers.first.stack
                objective.bind(stack_of(model, "student"), taught)
        _refuse_impossible(objective, self.teachers, family, args)
        if _uses_own_gradient(objective):
            _make_twice_differentiable(model, args)
        super().__init__(model, args, objective=objective, family=family, **kwargs)
        cut = args.transport_scope != "window" and args.gradient_accumulation_steps * args.world_size > 1
        if cut and objective.batch_terms:
            logger.warning(
                "--transport_scope %s: batch terms see a part of each update; the whole of it gives another loss",
                args.transport_scope,
            )

    def train(self, resume_from_checkpoint=None, **kwargs):
        if self.objective.teacher_needs and not isinstance(self.train_dataset, TaughtRows):
            assert self.teachers is not None
            if self.objective.reads_embedding:
                # before `ask`, which frees a model whose answers are cached
                self.objective.embed(self.teachers.first.embedding.to(self.args.device))
            rows, collator = self._columns_in_use(self.train_dataset)
            ask = self.teachers.ask
            self.train_dataset = ask(self.objective, self.family, rows, collator, self.args, self.on_teacher_rows)
        return super().train(resume_from_checkpoint=resume_from_checkpoint, **kwargs)

    def teacher_view(self, inputs: Mapping[str, Any]) -> View:
        features, k = self.objective.teacher_needs, self.args.teacher_cache_top_k
        if not features:
            return View()
        assert self.teachers is not None
        width = 0 if k is None else head_width(self.model)  # the teacher's is the same
        return self.teachers.view(inputs, features, k, width)

    def prepare_micro_batch(self, batch: Mapping[str, Any], place: int) -> dict[str, Any]:
        """The batch; with probability `--on_policy`, decided by step and seed, with the student's own answers."""
        prepared = super().prepare_micro_batch(batch, place)
        if not self.args.on_policy:
            return prepared
        coin = np.random.default_rng([self.args.seed, self.state.global_step, place, self.args.process_index])
        if coin.random() >= self.args.on_policy:
            return prepared
        return self.family.sample(self.model, prepared, int(coin.integers(2**62)))


def _uses_own_gradient(objective: Objective) -> bool:
    """True if the loss contains the student's gradient, as attributions do."""
    return any("embeddings" in feature.captures for feature in objective.student_needs)


def _refuse_impossible(objective: Objective, teachers: Ensemble | None, family: Family, args: Any) -> None:
    """Raise SinkdError for an objective that cannot be trained with these settings."""
    if objective.teacher_needs and teachers is None:
        raise SinkdError(f"the objective {objective} needs a teacher; give one")
    if teachers is not None:
        teachers.check(objective, family)
    family.refuse(args)
    kept_features(objective, args)  # raises if a term cannot be served
    if args.on_policy and not objective.teacher_needs:
        raise SinkdError(f"--on_policy has the teacher score answers, and {objective} needs none")
    if _uses_own_gradient(objective) and not family.attributes:
        raise SinkdError("saliency is for encoders, and this task is answered by a language model; leave it out")
    own = sorted({name.split(".")[1] for name, p in objective.named_parameters() if p.requires_grad})
    if own and args.deepspeed:
        raise SinkdError(
            f"DeepSpeed trains the parameters of the student alone, and {', '.join(own)} has its own (curvature, "
            "scale or projectors); leave out --deepspeed, or what learns them"
        )


def _make_twice_differentiable(model: PreTrainedModel, args: DistillationArguments) -> None:
    """Give the student an attention with a second derivative, for a loss that contains the student's gradient.

    Raises:
        SinkdError: if a setting does not allow second derivatives.
    """
    for flag, why in ONCE_DIFFERENTIABLE.items():
        if getattr(args, flag):
            raise SinkdError(f"saliency trains on the student's own gradient, {why}; leave out --{flag}")
    used = model.config._attn_implementation
    if used != "eager":
        if args.process_index == 0:
            logger.warning("the student's attention %r has no second derivative: saliency trains it with 'eager'", used)
        model.set_attn_implementation("eager")
