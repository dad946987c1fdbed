"""`sinkd estimate`: estimate a run's memory on each device, and the size of the teacher's cache on disk."""

from collections.abc import Sequence

from sinkd.errors import SinkdError
from sinkd.estimate.memory import DTYPE_BYTES, OPTIMIZERS, SHARDINGS, Plan, cache_bytes, compares, estimate, needed
from sinkd.estimate.shape import SIZES, Shape, read_shape
from sinkd.losses.objective import Objective
from sinkd.report import Table, show
from sinkd.training.parser import ArgumentParser


def parser() -> ArgumentParser:
    """The flags."""
    parser = ArgumentParser(prog="sinkd estimate", description=__doc__)
    add = parser.add_argument
    model = f"a size ({', '.join(SIZES)}), a model's folder, or a name on the hub"
    add("--student", help=f"the model to train: {model}")
    add("--teacher", help="the teacher, given in the same way (default: none, labels only)")
    add("--teacher_cache", choices=("auto", "off"), default="auto", help="auto: cache its answers before training")
    add("--teacher_dtype", choices=("float32", "bfloat16"), default="float32", help="precision of an uncached teacher")
    add("--teacher_cache_dtype", choices=tuple(DTYPE_BYTES), default="float32", help="precision of cached answers")
    add("--distill_loss", default="kd+sinkhorn", help="the objective")
    add("--batch_size", type=int, default=16, help="rows on each device in each micro-batch")
    add("--max_seq_length", type=int, default=128, help="tokens in each row")
    add("--answer_tokens", type=int, default=16, help="answer tokens of a language model per row")
    add("--num_labels", type=int, default=2, help="labels of an encoder")
    add("--vocab_size", type=int, help="vocabulary of both models, instead of their own")
    add("--gradient_accumulation_steps", type=int, default=1, help="micro-batches in each update")
    add("--gradient_checkpointing", action="store_true", help="store only the layers' inputs")
    add("--bf16", action="store_true", help="mixed precision")
    add("--optim", choices=tuple(OPTIMIZERS), default="adamw_torch_fused", help="the optimiser")
    add("--devices", type=int, default=1, help="total number of GPUs on all machines")
    add("--sharding", choices=SHARDINGS, help="how the GPUs share the student (default: ddp)")
    add("--rows", type=int, default=100_000, help="training rows, for the size of the cache")
    add("--use_cpu", action="store_true", help="train on a CPU, which has fewer fused kernels")
    add("--traceback", action="store_true", help="show the traceback of an error")
    return parser


def main(argv: Sequence[str]) -> None:
    """Parse a command line and print the estimate."""
    given = parser().parse_args(argv)
    if given.student is None:
        raise SinkdError("--student is missing; name a size (as in 3b), a model's folder, or a name on the hub")
    student = read_shape(given.student, "--student", given.num_labels, given.vocab_size)
    teacher = None
    if given.teacher is not None:
        teacher = read_shape(given.teacher, "--teacher", given.num_labels, given.vocab_size)
        if (teacher.kind == "encoder") != (student.kind == "encoder"):
            raise SinkdError(
                f"--teacher ({teacher.kind}) and --student ({student.kind}) must both be encoders, or neither"
            )
    objective = Objective.parse(given.distill_loss if teacher is not None else "ce:1")
    compared = compares(objective, student, teacher)  # also binds it to the models
    plan = Plan(
        batch_size=given.batch_size,
        max_seq_length=given.max_seq_length,
        answer_tokens=given.answer_tokens,
        gradient_accumulation_steps=given.gradient_accumulation_steps,
        devices=given.devices,
        sharding=given.sharding or ("ddp" if given.devices > 1 else "none"),
        bf16=given.bf16,
        optimizer=given.optim,
        checkpointing=given.gradient_checkpointing,
        live_teacher=given.teacher_cache == "off" or not objective.cacheable,
        teacher_dtype=given.teacher_dtype,
        **compared,
        device="cpu" if given.use_cpu else "cuda",
    )
    show(tabulate(student, plan, teacher))
    if teacher is not None and not plan.live_teacher:
        cache = _size(cache_bytes(student, plan, given.rows, given.teacher_cache_dtype))
        what = f"{given.rows:,} rows, {given.teacher_cache_dtype}"
        print(f"teacher's cache on disk: {cache} ({what}); filling it takes the teacher alone")
        print(f"teacher alone, answering: {_size(teacher.parameters * DTYPE_BYTES[plan.teacher_dtype])} of weights")


def tabulate(student: Shape, plan: Plan, teacher: Shape | None) -> Table:
    """A row per part and the total, at both moments that can be the peak."""
    parts = estimate(student, plan, teacher)
    unit, name, digits = _unit(needed(parts))
    where = f"each of {plan.devices} devices" if plan.devices > 1 else "the device"
    table = Table(f"Memory on {where}, {name}", ["", "passes", "update"])
    for part in parts:
        table.add(part.name, *(f"{size / unit:.{digits}f}" if size else "" for size in (part.passes, part.update)))
    totals = (sum(getattr(part, moment) for part in parts) for moment in ("passes", "update"))
    table.add("total", *(f"{total / unit:.{digits}f}" for total in totals))
    models = [f"student {_described(student)}", *([f"teacher {_described(teacher)}"] if teacher else [])]
    table.note = f"needed: {_size(needed(parts))}; {', '.join(models)}"
    return table


def _unit(size: float) -> tuple[int, str, int]:
    """The unit for a size: its bytes, its name, and the decimals to show."""
    return (2**30, "GiB", 2) if size >= 4 * 2**30 else (2**20, "MiB", 1)


def _size(size: float) -> str:
    unit, name, digits = _unit(size)
    return f"{size / unit:,.{digits}f} {name}"


def _described(shape: Shape) -> str:
    return f"{shape.parameters / 1e6:,.0f}M parameters ({shape.kind})"
