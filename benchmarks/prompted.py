"""Asking a prompted language model for the labels of texts, beside plain code for transformers.

    python -m benchmarks.prompted --model models/smollm2 --file snippets.tsv --out benchmarks/prompted.json

- plain: for each row and answer one call with the whole prompt and answer, and the logits of all its positions.
- sinkd: as `sinkd cache-teacher` asks: batches of similar length, each prompt once for all answers, and the logits of
  its last position alone where answers have one token.

Both tokenise. Times are of the processor (on a GPU, of the clock): medians over rounds in which both take turns. What
both answer is compared.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from benchmarks import device
from benchmarks.result import machine, publish
from torch import Tensor

from sinkd.losses.feature import LOGITS
from sinkd.models import family_of
from sinkd.models.prompted import PromptedClassifier
from sinkd.report import Table
from sinkd.tasks import table_task
from sinkd.tasks.label_prompt import LabelPrompt
from sinkd.training.teacher import Teacher
from sinkd.training.teacher_cache import batches_of

Rows = list[dict[str, str]]


@torch.no_grad()
def plain(model, tokenizer, prompt: LabelPrompt, rows: Rows) -> Tensor:
    """Log-probabilities of the answers among each other, (N, C), one call at a time."""
    found = []
    for row in rows:
        text, answers = prompt.question(row)
        start = len(tokenizer(text)["input_ids"])
        scores = []
        for answer in answers:
            ids = tokenizer(text + answer, return_tensors="pt")["input_ids"].to(model.device)
            logits = model(ids).logits[0, start - 1 : -1]
            scores.append(logits.log_softmax(-1).gather(-1, ids[0, start:, None]).sum())
        found.append(torch.stack(scores))
    return torch.stack(found).log_softmax(-1).cpu()


def sinkd(teacher: Teacher, family: PromptedClassifier, rows: Rows, batch: int) -> Tensor:
    """The same, as a teacher answers."""
    tokens = family.reader.tokens([family.prompt.question(row) for row in rows])
    lengths = torch.tensor([family.reader.length(question) for question in tokens]).numpy()
    answers = torch.empty(len(rows), len(tokens[0].answers))
    for places in batches_of(range(len(rows)), lengths, batch):
        read = [{"input_ids": tokens[place].prompt, "choices": tokens[place].answers} for place in places]
        inputs = {name: value.to(teacher.model.device) for name, value in family.collator(read).items()}
        answers[places] = teacher.observe(inputs, [LOGITS]).logits.cpu()
    return answers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="a decoder's folder")
    parser.add_argument("--file", type=Path, required=True, help="a table with columns text and label")
    parser.add_argument("--rows", type=int, default=300, help="how many of its rows to ask for")
    parser.add_argument("--prompt", default="Review: {{text}} The sentiment of this movie review is")
    parser.add_argument("--answers", default="negative ||| positive")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3, help="how often each is timed, taking turns")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/prompted.json"), help="where the JSON goes")
    device.add_device(parser)
    given = parser.parse_args()
    device.use(given.device, default=False)

    task = table_task(given.file, given.file, text_columns=["text"], label_column="label")
    family = family_of(task, given, given.model, "--model")
    assert isinstance(family, PromptedClassifier)
    teacher = Teacher(given.model, family)
    teacher.move(torch.device(given.device))
    rows = list(task.read("train").select(range(min(given.rows, len(task.read("train"))))))
    works: dict[str, Callable[[], Tensor]] = {
        "plain": lambda: plain(teacher.model, family.tokenizer, family.prompt, rows),
        "sinkd": lambda: sinkd(teacher, family, rows, given.batch),
    }
    answers: dict[str, Tensor] = {}
    clock = time.perf_counter if device.on_cuda() else time.process_time

    def answer(name: str) -> None:
        answers[name] = works[name]()

    taken = device.in_turns({name: lambda name=name: answer(name) for name in works}, given.rounds, clock)
    speed = {name: len(rows) / statistics.median(seconds) for name, seconds in taken.items()}
    difference = float((answers["plain"] - answers["sinkd"]).abs().max())
    right = torch.tensor([row["label"] for row in rows])
    columns = ["", "rows per second", "over plain", "accuracy", "largest difference"]
    table = Table(f"{len(rows)} texts of {given.file.name}, {given.model} ({machine()})", columns)
    for name in works:
        accuracy = float((answers[name].argmax(-1) == right).float().mean())
        far = f"{difference:.1e}" if name == "sinkd" else ""
        table.add(name, f"{speed[name]:.1f}", f"{speed[name] / speed['plain']:.1f}x", f"{accuracy:.3f}", far)
    publish("prompted", given.out, table, rows_per_second=speed, difference=difference)


if __name__ == "__main__":
    main()
