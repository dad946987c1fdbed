"""`sinkd export`: a trained model for other runtimes, checked against what it answers here."""

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from transformers import PreTrainedModel
from transformers.hf_argparser import HfArg

from sinkd.cli.command import load_named_task, show_plan, typed_value
from sinkd.errors import SinkdError
from sinkd.exchange.onnx import OnnxModel, export_onnx, need_packages, quantize_onnx
from sinkd.exchange.transfer import writing
from sinkd.models import find_checkpoint, load_encoder, load_tokenizer
from sinkd.report import Table, show
from sinkd.tasks import ChoiceTask, Collator, Task
from sinkd.training.arguments import FinetuneArguments
from sinkd.training.inference import megabytes
from sinkd.training.manifest import read_manifest
from sinkd.training.parser import parse_arguments
from sinkd.training.rows import Rows

# What is answered where no dev set is at hand: lengths from a word to some dozens.
SENTENCES = (
    "Yes.",
    "The dog that barked at the postman belongs to my neighbour.",
    "Nobody knows why the lamp in the hall was left on all night.",
    "When the last train had gone, the two of them walked home along the river, talked about the concert, and found "
    "that neither could remember who had sung the second song, nor whether it had been sung at all.",
)
FILES = ("model.onnx", "model.onnx.data", "model_int8.onnx", "model_int8.onnx.data", "model.wrong")
TOLERANCE = 1e-3  # of the largest logit: what float32 in another order of sums may come to

Batch = dict[str, torch.Tensor]
# The settings of a run by which its dev set is found again.
DATA_SETTINGS = (
    "task_name", "data_dir", "train_file", "dev_file", "test_file", "text_columns", "label_column", "table_kind",
    "bad_rows",
)  # fmt: skip


@dataclass
class ExportArguments(FinetuneArguments):
    """What `sinkd evaluate` knows, and the form to write."""

    format: Literal["onnx"] = HfArg(default="onnx", help="The form to write.")
    quantize: Literal["none", "int8"] = HfArg(
        default="none", help="int8: also write the model with int8 weights, and score both on the dev set."
    )


@dataclass(frozen=True)
class Answers:
    """What one form of the model said to all batches: logits of each, and the seconds that it took."""

    name: str
    size: float
    logits: list[np.ndarray]
    seconds: float


def main(argv: Sequence[str]) -> None:
    """Parse a command line, `sinkd export MODEL ...`, and run it."""
    argv = ["--model_path", *argv] if argv and not argv[0].startswith("-") else list(argv)
    path = typed_value(argv, "--model_path")
    args = parse_arguments(ExportArguments, argv, "sinkd export", output_dir="", **_run_settings(path, argv))
    if show_plan(args):
        return
    if args.model_path is None:
        raise SinkdError("the model is missing; name the folder of a trained model, as in: sinkd export MODEL")
    run(args, args.model_path)


def run(args: ExportArguments, path: str) -> list[Path]:
    """Write the files, show how they answer, and return them."""
    need_packages()
    folder = Path(find_checkpoint(path, "--model_path"))
    if not args.output_dir and not folder.is_dir():
        raise SinkdError(f"--output_dir is missing; name a folder for what becomes of {path}")
    task = _task(args)
    tokenizer = load_tokenizer(path, "--model_path", args.do_lower_case)
    model = load_encoder(path, task, "--model_path", must_have_head=True).eval()
    splits = _batches(task, tokenizer, args)
    batches = [batch for split in splits.values() for batch in split]
    names = [name for name in ("input_ids", "attention_mask", "token_type_ids") if name in batches[0]]
    output = _place(Path(args.output_dir or folder / "onnx"))
    for name in FILES:  # of an earlier export, maybe of another model
        (output / name).unlink(missing_ok=True)
    model.config.save_pretrained(output)
    tokenizer.save_pretrained(output)
    file = export_onnx(model, _example({name: batches[0][name] for name in names}), output / "model.onnx")

    size = megabytes(folder) or sum(parameter.nbytes for parameter in model.parameters()) / 1e6
    here = _ask("PyTorch", size, _torch_logits(model, names), batches)
    exported = OnnxModel(file)
    answers = [here, _ask("ONNX", exported.megabytes, exported.logits, batches)]
    _must_agree(here, answers[1], file)
    written = [file]
    if args.quantize == "int8":
        small = OnnxModel(quantize_onnx(file, output / "model_int8.onnx"))
        answers.append(_ask("ONNX, int8", small.megabytes, small.logits, batches))
        written.append(small.file)
    show(_table(path, answers, task, splits, written))
    return written


def _place(folder: Path) -> Path:
    """The folder to write to, made where it is not there. Raises SinkdError where it cannot be, or holds a model."""
    weights = [name for name in ("model.safetensors", "pytorch_model.bin") if (folder / name).is_file()]
    if weights:
        raise SinkdError(
            f"--output_dir {folder} holds a model ({weights[0]}); name a folder for the exported one alone"
        )
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    return folder


def _run_settings(path: str | None, argv: Sequence[str]) -> dict[str, Any]:
    """The data and the length of the run that made the model, unless the command line names data of its own."""
    manifest = None if path is None else read_manifest(Path(path))
    if manifest is None:
        return {}
    named = any(typed_value(argv, f"--{name}") for name in ("task_name", "train_file", "dev_file"))
    settings = manifest.settings
    kept = () if named else DATA_SETTINGS
    return {"max_seq_length": settings["max_seq_length"], **{name: settings[name] for name in kept if name in settings}}


def _task(args: ExportArguments) -> Task | None:
    """The task to score on; None where none is named, or its run's data has gone and no score is asked for."""
    named = args.task_name is not None or args.train_file is not None
    try:
        task = load_named_task(args) if named else None
        if isinstance(task, Task) and not all(task.files[split].is_file() for split in task.dev_splits):
            raise SinkdError(f"{task.name} lacks a dev file; looked for {task.files[task.dev_splits[0]]}")
    except SinkdError:
        if args.quantize != "none":
            raise
        return None
    if isinstance(task, ChoiceTask):
        raise SinkdError(f"{task.name} is answered by a language model, and sinkd export writes encoders alone")
    if args.quantize != "none" and (task is None or not task.dev_splits):
        raise SinkdError("--quantize int8 is scored before and after; name a task with a dev set by --task_name")
    return task if task is not None and task.dev_splits else None


def _batches(task: Task | None, tokenizer: Any, args: ExportArguments) -> dict[str, list[Batch]]:
    """Dev rows of each split in batches; without a task, built-in sentences, all at once and one by one."""
    collate = Collator(tokenizer)
    if task is None:
        rows = [{**tokenizer(text, truncation=True, max_length=args.max_seq_length)} for text in SENTENCES]
        return {"": [collate(rows), *(collate([row]) for row in rows)]}
    size = args.per_device_eval_batch_size
    splits = Rows(task, tokenizer, args).dev
    return {
        split: [
            collate([rows[i] for i in range(start, min(start + size, len(rows)))])
            for start in range(0, len(rows), size)
        ]
        for split, rows in splits.items()
    }


def _example(inputs: Batch) -> Batch:
    """Two rows of what a batch holds, to trace by: an axis of length 1 would be taken for a constant."""
    return {name: value[:1].repeat(2, 1) for name, value in inputs.items()}


def _torch_logits(model: PreTrainedModel, names: Sequence[str]) -> Callable[[Batch], np.ndarray]:
    def logits(batch: Batch) -> np.ndarray:
        with torch.inference_mode():
            return model(**{name: batch[name] for name in names}).logits.numpy()

    return logits


def _ask(name: str, size: float, logits: Callable[[Batch], np.ndarray], batches: Sequence[Batch]) -> Answers:
    logits(batches[0])  # to warm up
    started = time.perf_counter()
    found = [logits(batch) for batch in batches]
    return Answers(name, size, found, time.perf_counter() - started)


def _difference(one: Answers, other: Answers) -> float:
    return max(float(np.abs(a - b).max()) for a, b in zip(one.logits, other.logits, strict=True))


def _must_agree(here: Answers, there: Answers, file: Path) -> None:
    """An export that answers otherwise is removed, and the command fails."""
    largest = max(float(np.abs(logits).max()) for logits in here.logits)
    difference = _difference(here, there)
    if not difference <= TOLERANCE * max(1.0, largest):
        shutil.move(file, file.with_suffix(".wrong"))
        raise RuntimeError(
            f"the exported model differs from the PyTorch model by up to {difference:.2g} in its logits, of at most "
            f"{largest:.2g}; it is kept as {file.with_suffix('.wrong')}"
        )


def _table(
    path: str, answers: Sequence[Answers], task: Task | None, splits: dict[str, list[Batch]], written: Sequence[Path]
) -> Table:
    """A line a form: size, speed, scores, and how it answers beside PyTorch."""
    here = np.concatenate(answers[0].logits)
    on = "built-in sentences" if task is None else f"{task.name}, dev set"
    scores = [{} if task is None else _scores(task, splits, found.logits) for found in answers]
    table = Table(f"{path} on {on}", ["", "MB", "rows/s", *scores[0], "same answers", "largest difference"])
    for found, scored in zip(answers, scores, strict=True):
        there = np.concatenate(found.logits)
        same = (
            (np.round(there, 2) == np.round(here, 2))
            if here.shape[1] == 1
            else (there.argmax(1) == here.argmax(1))[:, None]
        )
        table.add(
            found.name,
            f"{found.size:.2f}",
            f"{len(here) / found.seconds:,.0f}",
            *(f"{value:.4f}" for value in scored.values()),
            f"{int(same.sum())} of {len(here)}",
            f"{_difference(answers[0], found):.1e}",
        )
    table.note = f"wrote {' and '.join(map(str, written))}"
    return table


def _scores(task: Task, splits: dict[str, list[Batch]], logits: Sequence[np.ndarray]) -> dict[str, float]:
    found, remaining = {}, iter(logits)
    for split, batches in splits.items():
        answers = np.concatenate([next(remaining) for _ in batches])
        found[split] = task.scores(answers, torch.cat([batch["labels"] for batch in batches]).numpy())
    return task.combine(found)
