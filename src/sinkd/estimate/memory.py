"""Estimate a run's memory on each device.

With P parameters:

- parameters 4P and gradients 4P: sinkd trains float32 weights, with or without autocast. Optimiser: 8P for Adam, 2P for
  its 8-bit kind, rows and columns of each matrix for Adafactor, 0 for SGD. DDP keeps a second copy of the gradients in
  its buckets (torch.nn.parallel.DistributedDataParallel, gradient_as_bucket_view=False).
- sharding over N devices. FSDP2: parameters, gradients and optimiser over N; in full the weights outside the layers
  and two layers at a time (torch.distributed.fsdp.fully_shard: the next is gathered beside the one at work); gradients
  in full while micro-batches accumulate (no_sync of transformers.Trainer). ZeRO, stages 1, 2, 3: the optimiser; also
  the gradients; also the parameters over N. With bf16 it holds 2P + 2P + 12P, the last being float32 weights and
  Adam's two moments (Rajbhandari et al. 2020, arXiv:1910.02054, section 3).
- activations: what autograd stores in a forward pass (`activations.py`). For BERT in 16 bits with dropout these are the
  34 bytes per row, token and hidden unit of Korthikanti et al. 2022 (arXiv:2205.05198, equation 2). With gradient
  checkpointing each layer stores its input, and one layer at a time everything.
- working memory: the gradients of the current layer, or a live teacher's forward pass, whichever is larger. A language
  model's head gets its gradient first, while every activation still exists.
- logits: the student's, with V entries for N answer tokens (an encoder: C labels for B rows), and float32 copies for
  each term (log-probabilities of student and teacher, and a gradient). A vocabulary is read in slices: then the logits
  of both, the gradient, and with several terms one that is added to it.
- a batch term: three matrices of rows by rows (cost, plan, gradient) for the rows of all micro-batches and devices;
  with several of these, also the points of student and teacher and the student's gradient. A point is a prediction, or
  the sentences of all compared layers.
- the input embedding of a teacher that is not live, for `semantic`.
- hidden states that are compared within a row (`mgskd`): a live teacher's of every layer, float32, for the
  micro-batches to come, and a gradient at the student's for each of four parts.

Either of two moments can be the peak: the start of the backward pass, when all activations but no gradients exist
(unless several micro-batches accumulate, or DDP keeps its buckets), and the update, when it is the reverse. Not
counted: memory of the device's driver and libraries, and the allocator's fragmentation.
"""

import math
from dataclasses import dataclass
from typing import Any, Literal

from sinkd.errors import SinkdError
from sinkd.estimate.activations import trace
from sinkd.estimate.shape import Shape
from sinkd.losses.chunked import WIDE
from sinkd.losses.feature import HIDDEN_STATES, LOGITS
from sinkd.losses.layers import Sentences
from sinkd.losses.objective import Objective
from sinkd.models.student import stack

SHARDINGS = ("none", "ddp", "fsdp2", "zero1", "zero2", "zero3")
OPTIMIZERS = {"adamw_torch_fused": 8.0, "adamw_torch": 8.0, "adamw_bnb_8bit": 2.0, "sgd": 0.0, "adafactor": -1.0}
FLOAT = 4
DTYPE_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}


@dataclass(frozen=True)
class Plan:
    """The setup of a run. Attributes named like flags have the flags' meaning.

    Attributes:
        batch_size: Rows per device and micro-batch.
        max_seq_length, answer_tokens: Tokens per row that are read, and that a language model answers.
        terms: Number of the objective's terms.
        batchwise: True if a term transports predictions.
        sentence_layers: Number of layers whose sentences are compared over an update.
        hidden_states: True if hidden states of tokens are compared within a row.
        embedding: True if a term reads the teacher's input embedding.
        device: A GPU has fused kernels for attention and dropout.

    Raises:
        SinkdError: if a number is below 1, or a model is sharded over one device.
    """

    batch_size: int = 16
    max_seq_length: int = 128
    answer_tokens: int = 16
    gradient_accumulation_steps: int = 1
    devices: int = 1
    sharding: str = "none"
    bf16: bool = False
    optimizer: str = "adamw_torch_fused"
    checkpointing: bool = False
    live_teacher: bool = False
    teacher_dtype: str = "float32"
    terms: int = 2
    batchwise: bool = True
    sentence_layers: int = 0
    hidden_states: bool = False
    embedding: bool = False
    device: Literal["cuda", "cpu"] = "cuda"

    def __post_init__(self) -> None:
        for name in ("batch_size", "max_seq_length", "answer_tokens", "gradient_accumulation_steps", "devices"):
            if getattr(self, name) < 1:
                raise SinkdError(f"--{name} is {getattr(self, name)}; it must be at least 1")
        if self.sharding not in SHARDINGS or self.optimizer not in OPTIMIZERS:
            raise SinkdError(f"sharding is one of {', '.join(SHARDINGS)}, optimizer one of {', '.join(OPTIMIZERS)}")
        if self.sharding != "none" and self.devices == 1:
            raise SinkdError(f"--sharding {self.sharding} shares a model among devices; give --devices above 1")

    @property
    def half_weights(self) -> bool:
        """True if the weights in use are bfloat16: FSDP and ZeRO store separate float32 weights."""
        return self.bf16 and self.sharding.startswith(("zero", "fsdp"))

    @property
    def width(self) -> int:
        """Bytes of a number in a forward or backward pass."""
        return 2 if self.bf16 else FLOAT


def compares(objective: Objective, student: Shape, teacher: Shape | None) -> dict[str, Any]:
    """The fields of a `Plan` that an objective determines; binds the objective to both models.

    Raises:
        SinkdError: if it compares attributions, or hidden states of an encoder-decoder.
    """
    uncounted = [term.name for term in objective if any("embeddings" in f.captures for f in term.student_needs)]
    if uncounted:
        raise SinkdError(
            f"{' and '.join(uncounted)} keeps the graph of a gradient, whose memory is not worked out; "
            "estimate the objective's other terms, and allow for more"
        )
    if objective.compares_layers and teacher is not None:
        objective.bind(stack(student.config), stack(teacher.config))
    sentences = [f for term in objective.batch_terms for f in term.student_needs if isinstance(f, Sentences)]
    return {
        "terms": len(list(objective)),
        "batchwise": any(LOGITS in term.student_needs for term in objective.batch_terms),
        "sentence_layers": sum(len(feature.layers) for feature in sentences),
        "hidden_states": HIDDEN_STATES in objective.student_needs,
        "embedding": objective.reads_embedding,
    }


@dataclass(frozen=True)
class Part:
    """A line of the estimate: bytes on a device at the start of the backward pass, and at the update."""

    name: str
    passes: float
    update: float


def estimate(student: Shape, plan: Plan, teacher: Shape | None = None) -> list[Part]:
    """The memory for training `student` on each device, part by part, without parts of 0 bytes."""
    params, gradients, states = _weights(student, plan)
    held = gradients if plan.gradient_accumulation_steps > 1 else 0.0
    if held and plan.sharding == "fsdp2":
        held = float(plan.width) * student.parameters
    buckets = FLOAT * student.parameters if plan.sharding == "ddp" else 0
    gathered = plan.width * (student.outside + 2 * student.layer) if plan.sharding in ("fsdp2", "zero3") else 0
    tokens = plan.batch_size * plan.max_seq_length
    work = plan.width * tokens * (student.widest + student.width)
    taught = 0.0
    if teacher is not None and plan.live_teacher:
        taught = float(DTYPE_BYTES[plan.teacher_dtype]) * teacher.parameters
        work = max(work, tokens * (2 * FLOAT * teacher.width + 2 * plan.width * teacher.widest))
    elif teacher is not None and plan.embedding:
        taught = float(FLOAT) * teacher.outputs * teacher.width
    head = 0 if student.kind == "encoder" else (2 if plan.half_weights else FLOAT) * student.outputs * student.width
    window, hidden = (
        (0.0, 0.0) if teacher is None else (_window(student, teacher, plan), _hidden(student, teacher, plan))
    )
    parts = [
        Part("parameters", params, params),
        Part("gradients", held, gradients),
        Part("optimiser states", states, states),
        Part("DDP's buckets", buckets, buckets),
        Part("layers gathered", gathered, 0.0),
        Part("activations", _activations(student, plan), 0.0),
        Part("teacher's parameters", taught, taught),
        Part("working memory", work, 0.0),
        Part("gradient of the head", head, 0.0),
        Part("logits and losses", _losses(student, plan), 0.0),
        Part("points of an update", window, 0.0),
        Part("hidden states", hidden, 0.0),
    ]
    return [part for part in parts if part.passes or part.update]


def needed(parts: list[Part]) -> float:
    """Bytes on each device at the larger of the two moments."""
    return max(sum(part.passes for part in parts), sum(part.update for part in parts))


def cache_bytes(student: Shape, plan: Plan, rows: int, dtype: str = "float32") -> float:
    """Bytes on disk of a teacher's cached logits: a vector of outputs per row, or per answer token."""
    each = 1 if student.kind == "encoder" else plan.answer_tokens
    return float(rows) * each * student.outputs * DTYPE_BYTES[dtype]


def _weights(student: Shape, plan: Plan) -> tuple[float, float, float]:
    """Bytes of parameters, gradients and optimiser states on a device."""
    count, shards = float(student.parameters), plan.devices
    states = OPTIMIZERS[plan.optimizer] * count
    if plan.optimizer == "adafactor":
        sides = (sum(s[-2:]) * math.prod(s[:-2]) if len(s) > 1 else math.prod(s) for s in student.matrices)
        states = FLOAT * float(sum(sides))
    if plan.sharding == "fsdp2":
        return FLOAT * count / shards, FLOAT * count / shards, states / shards
    if plan.sharding.startswith("zero"):
        stage = int(plan.sharding[-1])
        states += FLOAT * count if plan.bf16 else 0.0
        shared = [1 if stage < at else shards for at in (3, 2, 1)]
        return plan.width * count / shared[0], plan.width * count / shared[1], states / shared[2]
    return FLOAT * count, FLOAT * count, states


def _activations(model: Shape, plan: Plan) -> float:
    bf16 = "no" if not plan.bf16 else "weights" if plan.half_weights else "autocast"
    kept = trace(model, plan.batch_size, plan.max_seq_length, plan.answer_tokens, bf16, plan.device == "cuda")
    if not plan.checkpointing:
        return float(kept.outside + sum(kept.layers))
    tokens = model.layers * plan.max_seq_length + model.decoder_layers * plan.answer_tokens
    return float(kept.outside + max(kept.layers) + FLOAT * plan.batch_size * tokens * model.width)


def _answers(model: Shape, plan: Plan) -> int:
    """Rows of logits in a micro-batch: one per row, or per answer token."""
    return plan.batch_size * (1 if model.kind == "encoder" else plan.answer_tokens)


def _losses(student: Shape, plan: Plan) -> float:
    few = student.outputs < WIDE
    copies = FLOAT * (3 * plan.terms + 1) if few else FLOAT + plan.width * min(plan.terms, 2)
    return float(_answers(student, plan) * student.outputs * (plan.width + copies))


def _window(student: Shape, teacher: Shape, plan: Plan) -> float:
    """Memory of batch terms, for predictions and for sentences."""
    parts = plan.gradient_accumulation_steps * plan.devices
    rows, size = plan.batch_size * parts, 0.0
    if plan.batchwise:
        points = _answers(student, plan) * parts
        size += 3 * points * points + (3 * points * student.outputs if parts > 1 else 0)
    if plan.sentence_layers:
        wide = student.width + 2 * teacher.width  # the student's before and after mapping, and the teacher's
        size += plan.sentence_layers * (3 * rows * rows + 2 * rows * wide)
    return FLOAT * size


def _hidden(student: Shape, teacher: Shape, plan: Plan) -> float:
    """Hidden states of tokens, in addition to the activations."""
    if not plan.hidden_states:
        return 0.0
    tokens = plan.batch_size * plan.max_seq_length
    kept = plan.gradient_accumulation_steps * (teacher.layers + 1) * tokens * teacher.width
    return float(FLOAT * (kept + 4 * tokens * student.width))
