"""Rows per second of a training step: a BERT-base of 12 layers teaches one of 6.

    python -m benchmarks.step --device cuda --json step.json

Models are built from configs, with random weights and the usual dropout; rows are 128 random tokens without padding.
Nothing is read from disk or network. For each batch size the arms take turns, round by round:

- published: the teacher live in every step, both models with eager attention returning all hidden states and
  attentions, the loss written plainly, PyTorch's default AdamW, float32 without TF32; and the same in bfloat16.
- fine-tuning: hard labels alone, bfloat16, PyTorch's attention (SDPA), fused AdamW, batches from pinned memory.
- sinkd: the same with `Objective`, kd + sinkhorn (Lorentz), and the teacher's answers computed once before.
- sinkd, compiled: the same with the student under `torch.compile(mode="reduce-overhead")`, for which PyTorch records
  CUDA graphs; and with its loss in the same graph.
- sinkd, trainer: `DistillationTrainer` with its defaults, data loader and callbacks included, where `datasets` is
  installed; and with --torch_compile.

All arms clip gradients. A figure is the median over rounds; ratios are those of the medians.

The fraction of peak is 6 x parameters x tokens per second over the rate of a product of two bfloat16 matrices measured
here. Parameters are those of the student without embeddings, which multiply nothing.

The loss's share is the time of a step less that of the same step whose loss is the mean of the logits, by CUDA events.

No part begins after `--seconds`, and what is left out is said. The JSON is written anew after each part, so a run that
is cut off leaves what it has.
"""

import argparse
import copy
import statistics
import tempfile
import time
import traceback
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import transformers
from benchmarks import device
from benchmarks.loops import SMALL, WARM, Lesson, Loop, Published, Sizes, distilling, hard, none, objective
from benchmarks.result import machine, publish, write
from transformers import TrainerCallback

from sinkd.report import Table

OTHERS = ("published", "published, bf16", "fine-tuning")


class Stopwatch(TrainerCallback):
    """Seconds of the steps after the first `WARM`."""

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == WARM:
            device.wait()
            self.started = time.perf_counter()

    def on_train_end(self, args, state, control, **kwargs):
        device.wait()
        self.seconds = time.perf_counter() - self.started


def trainer_rows_per_second(lesson: Lesson, batch: int, **more: Any) -> float:
    """Rows per second of `DistillationTrainer` after its first steps."""
    from datasets import Dataset

    from sinkd.training.arguments import DistillationArguments
    from sinkd.training.distillation import DistillationTrainer

    ones = torch.ones_like(lesson.ids)
    columns = {"input_ids": lesson.ids, "attention_mask": ones, "token_type_ids": 0 * ones, "labels": lesson.labels}
    rows = Dataset.from_dict({name: value.numpy() for name, value in columns.items()})
    rows = rows.add_column("length", [lesson.sizes.length] * lesson.sizes.rows)
    steps = WARM + lesson.sizes.rows // (2 if batch > 16 else 1) // 16
    common: dict[str, Any] = {"max_steps": steps, "learning_rate": 5e-5, "per_device_train_batch_size": batch}
    common |= {"save_strategy": "no", "eval_strategy": "no", "report_to": "none", "disable_tqdm": True, "seed": 0}
    common |= {"use_cpu": not device.on_cuda(), "logging_steps": 10**6, "quiet": True, **more}
    with tempfile.TemporaryDirectory() as folder:
        trainer = DistillationTrainer(
            model=copy.deepcopy(lesson.student),
            teacher=copy.deepcopy(lesson.teacher),
            objective=objective(),
            args=DistillationArguments(output_dir=folder, teacher_cache_dir=folder, **common),
            train_dataset=rows,
            data_collator=transformers.default_data_collator,
        )
        watch = Stopwatch()
        trainer.add_callback(watch)
        trainer.remove_callback(transformers.PrinterCallback)
        trainer.train()
    return (steps - WARM) * batch / watch.seconds


def product_rate(size: int) -> float:
    """Operations per second of a product of two random bfloat16 matrices."""
    a, b = torch.randn(2, size, size, device="cuda" if device.on_cuda() else "cpu").bfloat16()
    milliseconds(lambda: a @ b, 3)
    return 2 * size**3 / (1e-3 * milliseconds(lambda: a @ b, 10))


def milliseconds(work: Callable[[], Any], repeats: int) -> float:
    """Of one of `repeats` in a row: by CUDA events, on a CPU by the clock."""
    if not device.on_cuda():
        started = time.perf_counter()
        for _ in range(repeats):
            work()
        return 1e3 * (time.perf_counter() - started) / repeats
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    for _ in range(repeats):
        work()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / repeats


def loss_share(loop: Loop, batch: int) -> dict[str, float]:
    """Milliseconds of a step with and without the loss, taking turns, and the loss's share."""
    parts = next(iter(loop.lesson.batches(batch)))
    losses = {"with": loop.loss, "without": none}
    taken: dict[str, list[float]] = {name: [] for name in losses}
    repeats, rounds = (20, 7) if device.on_cuda() else (2, 2)
    for _ in range(rounds):
        for name, loop.loss in losses.items():
            loop.step(*parts)
            taken[name].append(milliseconds(lambda: loop.step(*parts), repeats))
    found = {name: statistics.median(each) for name, each in taken.items()}
    return found | {"share": 1 - found["without"] / found["with"]}


class Report:
    """What was found so far, written after each part."""

    def __init__(self, out: Path | None, seconds: float):
        self.out, self.seconds, self.began = out, seconds, time.perf_counter()
        self.found: dict[str, Any] = {"rows per second": {}, "loss's share": {}, "seconds": {}, "skipped": []}

    def part(self, name: str, work: Callable[[], Any]) -> None:
        """Do a part if there is time; an error or the lack of time skips it, loudly."""
        started = time.perf_counter()
        if started - self.began > self.seconds:
            return self.skip(f"{name}: {self.seconds:.0f} s were over")
        try:
            work()
        except Exception as error:
            traceback.print_exc()
            self.skip(f"{name}: {type(error).__name__}: {(str(error).splitlines() or [''])[0]}")
        if device.on_cuda():
            torch.cuda.empty_cache()
        self.found["seconds"][name] = time.perf_counter() - started
        write("step", self.out, **self.found)
        return None

    def skip(self, text: str) -> None:
        self.found["skipped"].append(text)
        print(f"SKIPPED {text}", flush=True)


def measure(lesson: Lesson, batch: int, compiled: str, found: dict[str, Any]) -> None:
    """Rows per second of each loop, the median over rounds in which they take turns; the loss's share at small ones."""
    if compiled:
        name = "sinkd, compiled" if compiled == "model" else "sinkd, compiled with its loss"
        loops = {name: Loop(lesson, distilling(), compiled)}
    else:
        loops = {
            "published": Published(lesson, bf16=False),
            "published, bf16": Published(lesson, bf16=True),
            "fine-tuning": Loop(lesson, hard),
            "sinkd": Loop(lesson, distilling()),
        }
    for loop in loops.values():
        loop.warm_up(batch)
    rounds = range(lesson.sizes.rounds)
    speeds = [{name: loop.rows_per_second(batch) for name, loop in loops.items()} for _ in rounds]
    into = found["rows per second"].setdefault(batch, {})
    into |= {name: statistics.median(each[name] for each in speeds) for name in loops}
    if batch == lesson.sizes.batches[0] and compiled != "loss":
        name, loop = loops.popitem()  # sinkd's
        found["loss's share"][name] = loss_share(loop, batch)


def table_of(found: dict[str, Any], lesson: Lesson) -> Table:
    """A row for each batch size and arm."""
    rate, parameters = found.get("product"), lesson.parameters["without embeddings"]
    columns = ["", "batch", "rows/s", "ms a step", *(f"over {other}" for other in OTHERS), "of the product's rate"]
    layers = " to ".join(map(str, lesson.sizes.layers))
    table = Table(f"A step of BERT, {layers} layers ({machine()})", columns)
    for batch, speeds in found["rows per second"].items():
        for name, speed in speeds.items():
            ratios = [f"{speed / speeds[other]:.2f}x" if other in speeds else "" for other in OTHERS]
            flops = 6 * parameters * lesson.sizes.length * speed
            fraction = f"{100 * flops / rate:.1f} %" if rate and not name.startswith("published") else ""
            table.add(name, batch, f"{speed:.0f}", f"{1e3 * batch / speed:.2f}", *ratios, fraction)
    notes = [f"the teacher answered {lesson.cached_per_second:.0f} rows/s once before"]
    notes += [f"bfloat16 products run at {rate / 1e12:.0f} TFLOP/s"] if rate else []
    for name, taken in found["loss's share"].items():
        notes.append(
            f"the loss's share of a step of {name} at batch {lesson.sizes.batches[0]}: {100 * taken['share']:.1f} % "
            f"({taken['with']:.3f} ms with it, {taken['without']:.3f} ms without)"
        )
    table.note = "; ".join([*notes, *(f"SKIPPED {text}" for text in found["skipped"])])
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=75.0, help="begin no part later than this")
    parser.add_argument("--rehearse", action="store_true", help="small sizes, which say nothing about speed")
    parser.add_argument("--json", "--out", dest="out", type=Path, help="where the JSON goes")
    device.add_device(parser)
    given = parser.parse_args()
    device.use(given.device, default=False)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    report, sizes = Report(given.out, given.seconds), SMALL if given.rehearse else Sizes()
    lesson, found = Lesson(sizes, given.device), report.found
    found |= {"sizes": sizes._asdict(), "parameters": lesson.parameters}
    small, large = sizes.batches

    def loops(batch: int, compiled: str = "") -> None:
        name = f"loops at batch {batch}{compiled and f', compiled {compiled}'}"
        report.part(name, lambda: measure(lesson, batch, compiled, found))

    def trainer(batch: int, name: str, **more: Any) -> None:
        into = found["rows per second"].setdefault(batch, {})
        measured = partial(trainer_rows_per_second, lesson, batch, **more)
        report.part(f"{name} at batch {batch}", lambda: into.update({name: measured()}))

    report.part("product", lambda: found.update(product=product_rate(sizes.product)))
    loops(small)
    loops(large)
    loops(small, "model")
    if find_spec("datasets") is None:
        report.skip("sinkd, trainer: `datasets` is not installed; every figure is that of a plain loop")
    else:
        trainer(small, "sinkd, trainer")
        trainer(large, "sinkd, trainer")
    loops(large, "model")
    loops(small, "loss")
    if find_spec("datasets") is not None:
        how = {"torch_compile_mode": "reduce-overhead"} if device.on_cuda() else {"torch_compile_backend": "eager"}
        trainer(small, "sinkd, trainer, compiled", torch_compile=True, **how)
    publish("step", given.out, table_of(found, lesson), **found)


if __name__ == "__main__":
    main()
