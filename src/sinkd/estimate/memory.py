"""How much memory a run needs on each device, worked out from what it trains.

With P parameters, n = B * L * D (rows, tokens, width), I the feed-forward width, a the heads, w the bytes of a number
in a pass (4; 2 under bf16):

- parameters 4P and gradients 4P: sinkd trains float32 weights, with or without autocast. Optimiser: 8P for Adam, 2P for
  its 8-bit kind, rows and columns of each matrix for Adafactor, 0 for SGD. DDP keeps a second copy of the gradients in
  its buckets (torch.nn.parallel.DistributedDataParallel, gradient_as_bucket_view=False). Autocast keeps a bf16 copy of
  every matrix that a layer multiplies by, from the forward to the backward pass: 2 bytes each.
- sharding over N devices. FSDP2: parameters, gradients and optimiser over N, and whole again the weights outside the
  layers and two layers at a time (torch.distributed.fsdp.fully_shard: the next is gathered beside the one at work);
  while micro-batches accumulate, gradients stay whole (no_sync of transformers.Trainer; `sync_each_batch` undoes it).
  ZeRO, stages 1, 2, 3: optimiser; and gradients; and parameters over N. With bf16 it holds 2P + 2P + 12P, the last
  being float32 weights and Adam's two moments (Rajbhandari et al. 2020, arXiv:1910.02054, section 3).
- activations, a layer, what autograd keeps: the inputs of two normalisations, of attention's products and of the
  feed-forward layer, queries, keys, values and attention's result, and what the feed-forward layer keeps inside (2
  tensors of width I for a fused activation, 5 for one that is composed in Python, 2 more where it is gated). For BERT
  in float32 that is 4n (2 + 2 + 4 + 2I/D) = 64n bytes; in 16 bits, with dropout's masks of a byte each, the 34n of
  Korthikanti et al. 2022 (arXiv:2205.05198, equation 2). The attention matrices of their second summand are there only
  where no fused kernel runs: a numbers for each pair of tokens, 3 times that with dropout. A fused kernel keeps the
  padding mask (B * L^2 numbers) and a number a token and head. An RMS normalisation that is composed in Python keeps 2
  tensors. Under autocast normalisations keep float32, and each of the three products of attention its own bf16 copy.
  With gradient checkpointing a layer keeps its input, n, and one layer at a time all of the above.
- working memory: the gradients of the layer at work, or a live teacher's pass, whichever is larger. A language model's
  head has its gradient first of all, while every activation is still there: V * D numbers.
- logits: for N answer tokens of V entries (an encoder: B rows of C labels) the student's logits, and float32 copies for
  each term (log-probabilities of student and teacher, and a gradient). A vocabulary is read in slices: the logits of
  both, the gradient, and where there are several terms one that is added to it.
- the window of a batchwise term: three matrices of rows by rows of the transport (cost, plan, gradient), for the rows
  of all micro-batches and devices; where there are several, also the points of student and teacher and the gradient
  at the student's. A point is a prediction, or the sentences of all compared layers.
- hidden states that are compared within a row (`mgskd`): a live teacher's of every layer, float32, for micro-batches
  that are still to come, and a gradient at the student's for each of four parts.

Two moments can be the peak: the start of the backward pass, when all activations and no gradients are there (all of
them, where several micro-batches accumulate, or DDP keeps its buckets), and the update, when it is the other way round.
Not counted: what the device's driver and its libraries take, and memory that the allocator holds in pieces too small.
"""

import math
from dataclasses import dataclass
from typing import Any, Literal

from sinkd.errors import SinkdError
from sinkd.estimate.shape import Shape
from sinkd.losses.feature import HIDDEN_STATES, LOGITS, Stack
from sinkd.losses.layers import Sentences
from sinkd.losses.objective import Objective
from sinkd.losses.slices import WIDE

SHARDINGS = ("none", "ddp", "fsdp2", "zero1", "zero2", "zero3")
OPTIMIZERS = {"adamw_torch_fused": 8.0, "adamw_torch": 8.0, "adamw_bnb_8bit": 2.0, "sgd": 0.0, "adafactor": -1.0}
FLOAT = 4
DTYPE_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}


@dataclass(frozen=True)
class Plan:
    """How a run is set up.

    The names of flags mean what they mean there: batch_size, rows a device and micro-batch; max_seq_length and
    answer_tokens, tokens a row that are read, and answered by a language model. terms: of the objective; batchwise:
    whether one of them transports predictions; sentence_layers: how many layers' sentences are compared over a window;
    hidden_states: whether tokens' are, within a row. device: a CPU has no fused kernel for attention with dropout or a
    bias.
    Raises SinkdError for numbers below 1 and for sharding over a single device.
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
    device: Literal["cuda", "cpu"] = "cuda"

    def __post_init__(self) -> None:
        for name in ("batch_size", "max_seq_length", "answer_tokens", "gradient_accumulation_steps", "devices"):
            if getattr(self, name) < 1:
                raise SinkdError(f"--{name} is {getattr(self, name)}; it must be at least 1")
        if self.sharding not in SHARDINGS or self.optimizer not in OPTIMIZERS:
            raise SinkdError(f"sharding is one of {', '.join(SHARDINGS)}, optimizer one of {', '.join(OPTIMIZERS)}")
        if self.sharding != "none" and self.devices == 1:
            raise SinkdError(f"--sharding {self.sharding} shares a model among devices; give --devices above 1")


def compares(objective: Objective, student: Shape, teacher: Shape | None) -> dict[str, Any]:
    """The fields of a `Plan` that an objective decides, which `meet`s the models for it.

    Raises SinkdError for attributions, and for hidden states of an encoder-decoder.
    """
    uncounted = [term.name for term in objective if any("embeddings" in f.captures for f in term.student_needs)]
    if uncounted:
        raise SinkdError(
            f"{' and '.join(uncounted)} keeps the graph of a gradient, and how much that takes is not worked out; "
            "estimate the objective's other terms, and allow for more"
        )
    if objective.compares_layers and teacher is not None:
        if student.decoder_layers or teacher.decoder_layers:
            raise SinkdError(
                "an encoder-decoder has two stacks of layers; hidden states are compared where there is one"
            )
        objective.meet(Stack(student.layers, student.width), Stack(teacher.layers, teacher.width))
    sentences = [f for term in objective.batchwise for f in term.student_needs if isinstance(f, Sentences)]
    return {
        "terms": len(list(objective)),
        "batchwise": any(LOGITS in term.student_needs for term in objective.batchwise),
        "sentence_layers": sum(len(feature.layers) for feature in sentences),
        "hidden_states": HIDDEN_STATES in objective.student_needs,
    }


@dataclass(frozen=True)
class Part:
    """A line of the estimate: bytes on a device at the start of the backward pass, and at the update."""

    name: str
    passes: float
    update: float


def estimate(student: Shape, plan: Plan, teacher: Shape | None = None) -> list[Part]:
    """The parts of what training `student` needs on each device; their sums are the two moments' totals."""
    params, gradients, states = _weights(student, plan)
    held = gradients if plan.gradient_accumulation_steps > 1 else 0.0
    if held and plan.sharding == "fsdp2":
        held = (2.0 if plan.bf16 else FLOAT) * student.parameters
    parts = [
        Part("parameters", params, params),
        Part("gradients", held, gradients),
        Part("optimiser states", states, states),
    ]
    if plan.sharding == "ddp":
        buckets = FLOAT * float(student.parameters)
        parts.append(Part("DDP's buckets", buckets, buckets))
    whole = _gathered(student, plan)
    if whole:
        parts.append(Part("layers gathered whole", whole, 0.0))
    if plan.bf16 and not plan.sharding.startswith(("zero", "fsdp")):
        parts.append(Part("bf16 copies of matrices", 2.0 * student.linear, 0.0))
    parts.append(Part("activations", _activations(student, plan), 0.0))
    work = _backward_work(student, plan)
    if teacher is not None and plan.live_teacher:
        kept = float(DTYPE_BYTES[plan.teacher_dtype]) * teacher.parameters
        parts.append(Part("teacher's parameters", kept, kept))
        work = max(work, _forward_work(teacher, plan))
    parts.append(Part("working memory", work, 0.0))
    if student.kind != "encoder":
        sharded = plan.bf16 and plan.sharding.startswith(("zero", "fsdp"))
        parts.append(Part("gradient of the head", (2.0 if sharded else FLOAT) * student.outputs * student.width, 0.0))
    parts.append(Part("logits and losses", _losses(student, plan), 0.0))
    if teacher is not None:
        for name, size in (
            ("points of the window", _window(student, teacher, plan)),
            ("hidden states", _hidden(student, teacher, plan)),
        ):
            parts += [Part(name, size, 0.0)] if size else []
    return parts


def needed(parts: list[Part]) -> float:
    """Bytes on each device at the larger of the two moments."""
    return max(sum(part.passes for part in parts), sum(part.update for part in parts))


def cache_bytes(student: Shape, plan: Plan, rows: int, dtype: str = "float32") -> float:
    """What a teacher's cached logits take on disk: a vector of outputs a row, or an answer token."""
    each = 1 if student.kind == "encoder" else plan.answer_tokens
    return float(rows) * each * student.outputs * DTYPE_BYTES[dtype]


def _weights(student: Shape, plan: Plan) -> tuple[float, float, float]:
    """Bytes of parameters, gradients and optimiser states on a device."""
    count, shards = float(student.parameters), plan.devices
    states = OPTIMIZERS[plan.optimizer] * count
    if plan.optimizer == "adafactor":
        sides = (
            sum(shape[-2:]) * math.prod(shape[:-2]) if len(shape) > 1 else math.prod(shape)
            for shape in student.matrices
        )
        states = FLOAT * float(sum(sides))
    if plan.sharding == "fsdp2":
        return FLOAT * count / shards, FLOAT * count / shards, states / shards
    if plan.sharding.startswith("zero"):
        stage = int(plan.sharding[-1])
        size = 2 if plan.bf16 else FLOAT
        states += FLOAT * count if plan.bf16 else 0.0
        shared = [1 if stage < at else shards for at in (3, 2, 1)]
        return size * count / shared[0], size * count / shared[1], states / shared[2]
    return FLOAT * count, FLOAT * count, states


def _gathered(student: Shape, plan: Plan) -> float:
    if plan.sharding not in ("fsdp2", "zero3"):
        return 0.0
    return (2 if plan.bf16 else FLOAT) * float(student.outside_layers + 2 * student.largest_layer)


def _tokens(model: Shape, plan: Plan) -> list[tuple[int, int, bool]]:
    """(layers, tokens a row, whether the layer reads an encoder's output) of each stack."""
    stacks = [(model.layers, plan.max_seq_length, False)]
    if model.kind == "encoder-decoder":
        stacks.append((model.decoder_layers, plan.answer_tokens, True))
    return stacks


def _layer(model: Shape, plan: Plan, tokens: int, crosses: bool) -> float:
    """Bytes that autograd keeps of one layer of `tokens` tokens a row."""
    size = 2 if plan.bf16 else FLOAT
    rows, length = plan.batch_size, plan.max_seq_length
    n, inner = rows * tokens * model.width, rows * tokens * model.heads * model.head_width
    wide = rows * tokens * model.feed_forward
    products = 3 if plan.bf16 else 1  # autocast casts the input of each of three products anew
    norms = 3 if crosses else 2
    kept = FLOAT * model.norm_copies * norms * n
    kept += size * ((products + 1) * n + 4 * inner + model.feed_forward_copies * wide)
    pairs = rows * tokens * tokens
    if crosses:
        read = rows * length
        kept += size * (n + 2 * inner + 2 * read * model.heads * model.head_width)
        kept += size * 2 * read * model.width * plan.bf16  # the encoder's output, cast for keys and for values
        pairs += rows * tokens * length
    mask = 1 if plan.device == "cuda" else FLOAT  # bytes of a dropped-out number: a CPU keeps the factor
    if model.dropout:
        kept += norms * n * mask
        if model.kind == "encoder-decoder":  # T5 drops inside the feed-forward layer, and keeps what a ReLU gave too
            kept += wide * (mask + size * (model.feed_forward_copies == 1))
    fused = model.attention_matrices != "always" and (
        plan.device == "cuda" or not (model.dropout or model.position_bias)
    )
    if fused:
        return kept + size * pairs + FLOAT * rows * model.heads * tokens
    matrices = size + FLOAT * plan.bf16 + (size + mask) * model.dropout  # autocast takes the softmax in float32
    return kept + model.heads * pairs * matrices


def _activations(model: Shape, plan: Plan) -> float:
    total = 0.0
    for layers, tokens, crosses in _tokens(model, plan):
        n = plan.batch_size * tokens * model.width
        each = _layer(model, plan, tokens, crosses)
        # Beside the layers: what the embedding's and the last normalisation, and a dropout, keep.
        total += 2 * FLOAT * n + (layers * FLOAT * n + each if plan.checkpointing else layers * each)
    return total


def _backward_work(model: Shape, plan: Plan) -> float:
    """The gradients of the widest layer at work, at the inside and the outside of its activation, and of its output."""
    size = 2 if plan.bf16 else FLOAT
    tokens = plan.batch_size * plan.max_seq_length
    return float(size * tokens * (model.feed_forward + model.width))


def _forward_work(model: Shape, plan: Plan) -> float:
    """What a pass without gradients holds at once: input, output and both sides of the activation."""
    size = 2 if plan.bf16 else FLOAT
    return float(plan.batch_size * plan.max_seq_length * (2 * FLOAT * model.width + 2 * size * model.feed_forward))


def _answers(model: Shape, plan: Plan) -> int:
    """Rows of logits that a micro-batch has: one a row, or one an answer token."""
    return plan.batch_size * (1 if model.kind == "encoder" else plan.answer_tokens)


def _losses(student: Shape, plan: Plan) -> float:
    size = 2 if plan.bf16 else FLOAT
    copies = FLOAT * (3 * plan.terms + 1) if student.outputs < WIDE else FLOAT + size * min(plan.terms, 2)
    return float(_answers(student, plan) * student.outputs * (size + copies))


def _window(student: Shape, teacher: Shape, plan: Plan) -> float:
    """What batchwise terms hold, of predictions and of sentences."""
    parts = plan.gradient_accumulation_steps * plan.devices
    rows, size = plan.batch_size * parts, 0.0
    if plan.batchwise:
        points = _answers(student, plan) * parts
        size += 3 * points * points + (3 * points * student.outputs if parts > 1 else 0)
    if plan.sentence_layers:
        wide = (
            student.width + 2 * teacher.width
        )  # the student's before and after they are mapped to the teacher's width
        size += plan.sentence_layers * (3 * rows * rows + 2 * rows * wide)
    return float(FLOAT * size)


def _hidden(student: Shape, teacher: Shape, plan: Plan) -> float:
    """Hidden states of tokens that are there beside the activations."""
    if not plan.hidden_states:
        return 0.0
    tokens = plan.batch_size * plan.max_seq_length
    kept = plan.gradient_accumulation_steps * (teacher.layers + 1) * tokens * teacher.width
    return float(FLOAT * (kept + 4 * tokens * student.width))
