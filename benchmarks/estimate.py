"""Compare what `sinkd estimate` says with the memory that a process takes.

    python -m benchmarks.estimate

Each row is a fresh process on a CPU that trains random encoders through `sinkd.training.run`, on rows of exactly
`--max_seq_length` tokens, with untrimmed embeddings, without evaluation or a cache. It compares the difference of

- before: resident memory (VmRSS) after the same run with a tiny model, which loads every library and starts every
  thread pool, once freed memory has been returned to the system;
- peak: the high-water mark of resident memory (VmHWM) from the second update on, when the optimiser has its states; the
  mark is reset before (5 into /proc/self/clear_refs), so that loading does not count.

The allocator is told to return every block of 64 KB or more at once (MALLOC_MMAP_THRESHOLD_): resident memory is memory
in use. With `--device cuda` larger models are trained, and both figures are those of PyTorch's GPU allocator.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks import device

# name -> the student's size and what its run and its plan are told
CASES: dict[str, dict[str, Any]] = {
    "22m, labels alone": {"student": "22m"},
    "22m, labels alone, no dropout": {"student": "22m", "dropout": 0.0},
    "22m, labels alone, checkpointing": {"student": "22m", "checkpointing": True},
    "22m, labels alone, bf16": {"student": "22m", "dropout": 0.0, "bf16": True},
    "22m, labels alone, SGD": {"student": "22m", "dropout": 0.0, "optimizer": "sgd"},
    "4 x 256 from live 22m, kd+sinkhorn": {"student": "4x256", "teacher": "22m", "dropout": 0.0},
    "4 x 512 from live 22m, kd+sinkhorn": {"student": "4x512", "teacher": "22m"},
    "4 x 512, 4 micro-batches of 8": {
        "student": "4x512",
        "teacher": "22m",
        "batch_size": 8,
        "gradient_accumulation_steps": 4,
    },
    "4 x 512 from live 22m, kd+mgskd, 4 micro-batches of 8": {
        "student": "4x512",
        "teacher": "22m",
        "dropout": 0.0,
        "batch_size": 8,
        "gradient_accumulation_steps": 4,
        "distill_loss": "kd+mgskd",
    },
    "110m, labels alone, 4 rows": {"student": "110m", "batch_size": 4, "dropout": 0.0},
}
# what a GPU has room for
LARGE: dict[str, dict[str, Any]] = {
    "110m, labels alone": {"student": "110m"},
    "110m, labels alone, bf16": {"student": "110m", "bf16": True},
    "110m, labels alone, checkpointing": {"student": "110m", "checkpointing": True},
    "110m from live 340m, kd+sinkhorn": {"student": "110m", "teacher": "340m", "batch_size": 32},
    "110m from live 340m, 4 micro-batches of 32, bf16": {
        "student": "110m",
        "teacher": "340m",
        "batch_size": 32,
        "gradient_accumulation_steps": 4,
        "bf16": True,
    },
    "340m, labels alone, 512 tokens, bf16": {"student": "340m", "max_seq_length": 512, "bf16": True},
}
DEFAULTS: dict[str, Any] = {
    "device": "cpu",
    "teacher": None,
    "distill_loss": "kd+sinkhorn",
    "batch_size": 16,
    "max_seq_length": 128,
    "gradient_accumulation_steps": 1,
    "dropout": 0.1,
    "bf16": False,
    "checkpointing": False,
    "optimizer": "adamw_torch_fused",
}


def config(size: str, dropout: float) -> Any:
    """A BERT config: of a known size, or `4x512`, layers and width."""
    from transformers import BertConfig

    from sinkd.estimate.shape import SIZES

    if size in SIZES:
        kwargs = {name: value for name, value in SIZES[size].items() if name != "model_type"}
    else:
        layers, width = map(int, size.split("x"))
        kwargs = {"vocab_size": 30522, "num_hidden_layers": layers, "hidden_size": width}
        kwargs |= {"intermediate_size": 4 * width, "num_attention_heads": width // 64}
    rates = {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
    labels = {"id2label": {0: "a", 1: "b"}, "label2id": {"a": 0, "b": 1}}
    return BertConfig(**kwargs, **rates, **labels, architectures=["BertForSequenceClassification"])


def estimated(case: dict[str, Any]) -> float:
    """What `sinkd estimate` says of a case, in bytes."""
    from sinkd.estimate.memory import Plan, compares, estimate, needed
    from sinkd.estimate.shape import shape_of
    from sinkd.losses.objective import Objective

    names = "batch_size max_seq_length gradient_accumulation_steps bf16 checkpointing optimizer device".split()
    teacher = None if case["teacher"] is None else shape_of(config(case["teacher"], case["dropout"]))
    student = shape_of(config(case["student"], case["dropout"]))
    objective = Objective.parse("ce:1" if teacher is None else case["distill_loss"])
    plan = Plan(live_teacher=True, **compares(objective, student, teacher), **{name: case[name] for name in names})
    return needed(estimate(student, plan, teacher))


def status(name: str) -> int:
    """A figure of this process in bytes, from /proc/self/status."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise KeyError(name)


def measure(case: dict[str, Any], folder: Path) -> dict[str, int]:
    """Train, and say what memory was in use before and at the peak."""
    import torch
    from transformers import BertForSequenceClassification, BertTokenizer, TrainerCallback

    from sinkd.cli.command import load_named_task
    from sinkd.training.arguments import DistillationArguments, FinetuneArguments
    from sinkd.training.run import distill, finetune
    from sinkd.training.settings import resolve_settings

    torch.manual_seed(0)
    rows = case["batch_size"] * case["gradient_accumulation_steps"] * 8
    lines = ["text\tlabel", *(" ".join(["ab cd"] * case["max_seq_length"]) + "\t" + "ab"[i % 2] for i in range(rows))]
    (folder / "rows.tsv").write_text("\n".join(lines) + "\n")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "ab", "cd"]
    tokenizer = BertTokenizer(vocab={word: number for number, word in enumerate(words)})
    peaks: list[int] = []
    cuda = case["device"] == "cuda"

    class Peak(TrainerCallback):
        def on_step_begin(self, args, state, control, **kwargs):
            if state.global_step == 1 and cuda:
                torch.cuda.reset_peak_memory_stats()
            elif state.global_step == 1:
                Path("/proc/self/clear_refs").write_text("5")

        def on_step_end(self, args, state, control, **kwargs):
            peaks.append(torch.cuda.max_memory_allocated() if cuda else status("VmHWM"))

    def train(name: str, student: str, teacher: str | None) -> None:
        for role, size in {"student": student, "teacher": teacher}.items():
            if size is not None:
                BertForSequenceClassification(config(size, case["dropout"])).save_pretrained(folder / f"{name}-{role}")
                tokenizer.save_pretrained(folder / f"{name}-{role}")
        gc.collect()
        rows = folder / "rows.tsv"
        given = {"train_file": rows, "dev_file": rows, "text_columns": "text", "label_column": "label", "max_steps": 3}
        given |= {"eval_strategy": "no", "save_strategy": "no", "report_to": "none", "trim_embedding": False}
        given |= {"output_dir": folder / f"{name}-run", "use_cpu": not cuda, "optim": case["optimizer"]}
        given |= {"gradient_checkpointing": case["checkpointing"]}
        given |= {flag: case[flag] for flag in ("batch_size", "gradient_accumulation_steps", "max_seq_length", "bf16")}
        if teacher is None:
            kind, run = FinetuneArguments, finetune
            given |= {"model_path": folder / f"{name}-student"}
        else:
            kind, run = DistillationArguments, distill
            given |= {f"{role}_path": folder / f"{name}-{role}" for role in ("student", "teacher")}
            given |= {"teacher_cache": "off", "distill_loss": case["distill_loss"]}
        args = resolve_settings(kind, [f"--{flag}={value}" for flag, value in given.items()], "estimate")
        run(args, load_named_task(args), [Peak()])

    train("tiny", "1x64", None if case["teacher"] is None else "1x64")
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    before = torch.cuda.memory_allocated() if cuda else status("VmRSS")
    peaks.clear()
    train("real", case["student"], case["teacher"])
    return {"before": before, "peak": max(peaks[1:])}


def measured(case: dict[str, Any]) -> float:
    """What a case takes, in bytes: on a CPU in a fresh process, on a GPU by its allocator's count."""
    with tempfile.TemporaryDirectory() as name:
        if case["device"] == "cuda":
            found = measure(case, Path(name))
            return found["peak"] - found["before"]
        environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "SINKD_CACHE": f"{name}/cache"}
        command = [sys.executable, "-m", "benchmarks.estimate", "--measure", json.dumps(case), "--folder", name]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=Path(__file__).parents[1])
        if done.returncode != 0:
            raise RuntimeError(done.stderr)
        found = json.loads(done.stdout.splitlines()[-1])
    return found["peak"] - found["before"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--cases", type=int, help="only the first so many")
    device.add_device(parser)
    parser.add_argument("--out", type=Path, help="write the table there as Markdown, and as JSON beside it")
    parser.add_argument("--measure", type=json.loads, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(measure(args.measure, args.folder)), flush=True)
        return 0

    import torch

    from sinkd.report import Table, show

    device.use(args.device, default=False)
    machine = f"{device.described()}, Python {platform.python_version()}, torch {torch.__version__}"
    table = Table(
        "Memory of a run, 16 rows of 128 tokens where nothing is said", ["run", "estimated MB", "measured MB", "ratio"]
    )
    table.note = machine
    rows = {}
    cases = LARGE if args.device == "cuda" else CASES
    for name, given in list(cases.items())[: args.cases]:
        case = DEFAULTS | {"device": args.device} | given
        said, found = estimated(case), measured(case)
        rows[name] = {"estimated": said, "measured": found}
        table.add(name, f"{said / 1e6:.0f}", f"{found / 1e6:.0f}", f"{said / found:.2f}")
        print(f"{name}: {said / found:.2f}", file=sys.stderr, flush=True)
    show(table)
    if args.out:
        args.out.write_text(f"{table.title}.\n\n{table.markdown()}\n{machine}\n", encoding="utf-8")
        args.out.with_suffix(".json").write_text(json.dumps({"machine": machine, "rows": rows}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
