"""The trainer of a student under an objective that compares it with a teacher, cached or live."""

import logging
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel

from sinkd.errors import SinkdError
from sinkd.losses.feature import LOGITS, Feature
from sinkd.losses.objective import Objective
from sinkd.losses.term import View
from sinkd.losses.top_k_cache import TopIds, TopView, kept_for
from sinkd.models import Encoder, Family
from sinkd.models.head import head_width
from sinkd.training.answered_rows import READ, TaughtRows, taught_view
from sinkd.training.arguments import DistillationArguments
from sinkd.training.teacher import Teacher, stack_of
from sinkd.training.trainer import TaskTrainer, row_lengths

logger = logging.getLogger(__name__)

# Settings that do not work if the student's own gradient is in the loss, and why.
ONCE_DIFFERENTIABLE = {
    "torch_compile": "and a compiled model has no second derivative",
    "gradient_checkpointing": "and a checkpointed layer gives it only to backward()",
    "fsdp": "and a sharded model gathers its weights for one backward pass alone",
    "deepspeed": "and DeepSpeed's engine takes one backward pass alone",
}


def kept_features(objective: Objective, args: DistillationArguments) -> frozenset[Feature]:
    """The teacher's features to cache; `--teacher_cache_top_k` replaces whole predictions.

    Raises:
        SinkdError: if a term needs more than that flag caches.
    """
    kept, k = frozenset(objective.kept), args.teacher_cache_top_k
    return kept if k is None or LOGITS not in kept else kept - {LOGITS} | kept_for(objective, k)


class DistillationTrainer(TaskTrainer):
    """Trains `model`, the student, under an objective that compares it with a teacher.

    Args:
        objective: An `Objective`; or its text, with weights, temperature and options from `args`.
        teacher: A `Teacher`, or any model that gives logits for the student's inputs; it is frozen. Answers of a
            transformers model to rows that `encode` made are cached if the objective and `args.teacher_cache` allow
            it; any other model answers live.
        args: The settings of the run.
        family: Runs both models, see `TaskTrainer`.
        on_teacher_rows: Called with (rows done, rows in total) while the teacher answers.
        kwargs: Those of `TaskTrainer`.

    Raises:
        SinkdError: if the objective needs a teacher and there is none, or cannot be trained with these settings.
    """

    def __init__(
        self,
        *,
        objective: Objective | str,
        teacher: nn.Module | Teacher | None = None,
        args: DistillationArguments,
        family: Family | None = None,
        on_teacher_rows: Callable[[int, int], None] | None = None,
        **kwargs: Any,
    ):
        family = family or Encoder()
        objective = args.parse_objective(objective) if isinstance(objective, str) else objective
        self.teacher = Teacher(teacher, family) if isinstance(teacher, nn.Module) else teacher
        self.on_teacher_rows = on_teacher_rows
        if objective.compares_layers:
            # Draw projectors before the Trainer seeds, so that they depend only on the seed and agree across processes.
            with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
                torch.manual_seed(args.seed)
                taught = stack_of(None, "teacher") if self.teacher is None else self.teacher.stack
                objective.bind(stack_of(kwargs.get("model"), "student"), taught)
        _refuse_impossible(objective, self.teacher, family, args)
        if _uses_own_gradient(objective):
            _make_twice_differentiable(kwargs["model"], args)
        super().__init__(args=args, objective=objective, family=family, **kwargs)
        cut = args.transport_scope != "window" and args.gradient_accumulation_steps * args.world_size > 1
        if cut and objective.batch_terms:
            logger.warning(
                "--transport_scope %s: batch terms see a part of each update; the whole of it gives another loss",
                args.transport_scope,
            )

    def train(self, resume_from_checkpoint=None, **kwargs):
        self._ask_teacher()
        return super().train(resume_from_checkpoint=resume_from_checkpoint, **kwargs)

    def _ask_teacher(self) -> None:
        """Find or compute the teacher's answers for all training rows, or prepare it to answer live."""
        if not self.objective.teacher_needs or isinstance(self.train_dataset, TaughtRows):
            return
        assert self.teacher is not None
        cacheable = self.objective.kept and self.teacher.cacheable and row_lengths(self.train_dataset) is not None
        read = None
        if self.teacher.differs_from(self.family):
            family = self.teacher.family.for_seed(self.args.seed)
            read = family.train, family.collator
        if self.args.teacher_cache == "off" or not cacheable:
            if read is not None:
                self.train_dataset = TaughtRows(self.train_dataset, self.data_collator, read=read)
            self._go_live()
            return
        rows, collator = read or (self.train_dataset, self.data_collator)
        kept = kept_features(self.objective, self.args)
        answers = self.teacher.answers(kept, rows, collator, self.args, self.on_teacher_rows)
        self.train_dataset = TaughtRows(self.train_dataset, self.data_collator, answers)
        if self.args.on_policy or not self.objective.cacheable:
            self._go_live()
        elif self.teacher.folder is None:
            self.teacher.move(torch.device("cpu"))

    def _go_live(self) -> None:
        assert self.teacher is not None
        self.teacher.move(self.args.device)

    @property
    def train_collator(self):
        return self.train_dataset.collate if isinstance(self.train_dataset, TaughtRows) else self.data_collator

    def teacher_view(self, inputs: Mapping[str, Any]) -> View:
        """The teacher's features of a batch, cached or live."""
        features = self.objective.teacher_needs
        if not features:
            return View()
        view = taught_view(inputs, kept_features(self.objective, self.args))
        k = self.args.teacher_cache_top_k
        if k is not None and TopIds(k) in view:
            view = TopView(view, k, head_width(self.model))  # the same as the teacher's
        missing = [feature for feature in features if feature not in view]
        if missing:
            assert self.teacher is not None
            view.features |= self.teacher.observe(inputs.get(READ, inputs), missing).features
        return view

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


def _refuse_impossible(objective: Objective, teacher: Teacher | None, family: Family, args: Any) -> None:
    """Raise SinkdError for an objective that cannot be trained with these settings."""
    if objective.teacher_needs and teacher is None:
        raise SinkdError(f"the objective {objective} needs a teacher; give one")
    if teacher is not None:
        teacher.check_tokens(objective, family)
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
