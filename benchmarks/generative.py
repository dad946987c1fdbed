"""The loss of a language model's answers beside the published one, and what evaluation saves by reading prompts once.

    python -m benchmarks.generative --out benchmarks/generative.json

Loss: (B, T, V) logits of B answers of T tokens, forward and backward.

- published: as the published T0 code has it: softmax over the sequence axis, l1 between positions of each row, 20 times
  axes divided by their sums, autograd through all of it. It compares the T positions of each row alone.
- sinkd: `SinkhornLoss` over all B T answer tokens at once: Lorentz over the whole vocabulary, l1 over the union of both
  sides' 50 most probable entries.

Logits are Zipf's law over the vocabulary, what a position adds (deviation 1.5), and a student's error (0.5).

The whole objective of language models, ce + 0.1 kl + sinkhorn, as plain expressions with the published transport, and
as sinkd's `Objective` with Lorentz.

`semantic`, each side's 32 likeliest of 49,152 tokens with embeddings of width 576 (SmolLM2's sizes), beside `kl` on the
same 256 positions.

A step is a forward and backward pass of a decoder with a head of that width, prompts of 32 tokens, and the loss.
Evaluation: four choices to each of 8 prompts of 256 tokens, scored from one prefix and each from a sequence of its own.
Times are of the processor, on one thread (on a GPU, of the clock): medians over rounds in which all take turns. Memory
is the largest sum of tensor bytes alive beyond those alive before, by PyTorch's allocator.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from benchmarks import device
from benchmarks.loss import extra_bytes, once
from benchmarks.result import machine, publish
from torch import Tensor
from torch.nn import functional as F
from transformers import GPT2Config, GPT2LMHeadModel, T5Config, T5ForConditionalGeneration, set_seed

from sinkd.losses import SinkhornLoss, kl, semantic_transport
from sinkd.losses.feature import LOGITS
from sinkd.losses.objective import Objective
from sinkd.losses.term import View
from sinkd.models import LanguageModel, decoder_start
from sinkd.models.likelihood import choice_log_likelihoods
from sinkd.models.prompt_collator import PromptCollator
from sinkd.report import Table

SIZES = ((8, 4, 32128), (8, 8, 50257), (4, 64, 151936))
TOKENS = (4, 64, 49152)  # the logits of `semantic`
Loss = Callable[[Tensor, Tensor], Tensor]


def published(student: Tensor, teacher: Tensor) -> Tensor:
    p, q = torch.softmax(student / 2, 1), torch.softmax(teacher / 2, 1)
    cost = torch.cdist(p, q, p=1)
    plan = torch.exp(-cost / 0.1)
    for _ in range(20):
        plan = plan / plan.sum(1, keepdim=True)
        plan = plan / plan.sum(2, keepdim=True)
    return 0.0008 * (plan * cost).sum()


def labels_of(student: Tensor) -> Tensor:
    return torch.arange(student.shape[0] * student.shape[1]) % student.shape[-1]


def published_sum(student: Tensor, teacher: Tensor) -> Tensor:
    """Hard labels, kl and transport as plain expressions of PyTorch."""
    ours, theirs = student.flatten(0, 1), teacher.flatten(0, 1)
    kl = F.kl_div(ours.log_softmax(-1), theirs.softmax(-1), reduction="batchmean")
    return F.cross_entropy(ours, labels_of(student)) + 0.1 * kl + published(student, teacher)


def sinkds_sum(student: Tensor, teacher: Tensor) -> Tensor:
    """The default objective of language models."""
    objective = Objective.parse("ce:1+kl:0.1+sinkhorn:1", temperature=1.0, sinkhorn={"weight": 0.0008})
    views = View(student.flatten(0, 1)), View(teacher.flatten(0, 1))
    return objective(*views, {"labels": labels_of(student)}).total


LOSSES: dict[str, Loss] = {
    "published": published,
    "lorentz": SinkhornLoss.published(cost="lorentz", weight=0.0008),
    "l1, top 50": SinkhornLoss.published(cost="l1", weight=0.0008, top_k=50),
}
SUMS: dict[str, Loss] = {"plain PyTorch": published_sum, "sinkd": sinkds_sum}


def row_terms() -> dict[str, Loss]:
    """`kl` and `semantic`, with embeddings that share a direction, as trained ones do."""
    torch.manual_seed(0)
    embedding = torch.randn(TOKENS[-1], 576) + 0.6 * torch.randn(576)
    return {"kl": kl, "semantic": lambda student, teacher: semantic_transport(student, teacher, embedding)}


def medians(works: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Median seconds of each, after one round to warm up."""
    clock = time.perf_counter if device.on_cuda() else time.process_time
    return {name: statistics.median(each[1:]) for name, each in device.in_turns(works, rounds + 1, clock).items()}


def logits_of(size: tuple[int, int, int]) -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    teacher = frequencies(size[-1]) + 1.5 * torch.randn(size)
    return (teacher + 0.5 * torch.randn(size)).requires_grad_(), teacher


def frequencies(width: int) -> Tensor:
    """Logits of a vocabulary's entries by Zipf's law, (V,)."""
    return -1.5 * torch.arange(10, width + 10).log()[torch.randperm(width)]


def compared(size: tuple[int, int, int], rounds: int, ways: dict[str, Loss]) -> list[dict[str, Any]]:
    """Seconds and megabytes of a forward and backward pass of each way, and how they compare with the first way's."""
    student, teacher = logits_of(size)
    seconds = medians({name: partial(once, loss, student, teacher) for name, loss in ways.items()}, rounds)
    megabytes = {name: extra_bytes(loss, student, teacher) / 1e6 for name, loss in ways.items()}
    base = next(iter(ways))
    return [
        {
            "size": size,
            "loss": name,
            "seconds": seconds[name],
            "megabytes": megabytes[name],
            "faster": seconds[base] / seconds[name],
            "share": megabytes[name] / megabytes[base],
        }
        for name in ways
    ]


def cells(row: dict[str, Any]) -> list[str]:
    figures = f"{row['seconds'] * 1e3:,.1f}", f"{row['megabytes']:,.1f}"
    return [*figures, f"{row['faster']:.1f}", f"{row['share']:.2f}"]


def steps(size: tuple[int, int, int], rounds: int) -> dict[str, float]:
    """Seconds of a step of a small decoder on answers of that shape, the teacher's logits at hand."""
    batch, tokens, width = size
    model = decoder(width)
    ids = torch.randint(2, width, (batch, 32 + tokens)).tolist()
    rows = PromptCollator(_Padding(), None).assemble([row[:32] for row in ids], [row[32:] for row in ids])
    rows = placed(rows, model)
    teacher, frequency = logits_of(size)[1], frequencies(width)

    def work(loss: Loss) -> Callable[[], None]:
        def once() -> None:
            model.zero_grad()
            loss(LanguageModel().observe(model, rows, {LOGITS}).logits.view(size) + frequency, teacher).backward()

        return once

    return medians({name: work(loss) for name, loss in LOSSES.items()}, rounds)


def placed(batch: dict[str, Tensor], model: Any) -> dict[str, Tensor]:
    """A batch where the model is: collators make theirs on the CPU."""
    return {name: each.to(model.device) for name, each in batch.items()}


def evaluation(model: Any, rounds: int) -> dict[str, float]:
    """Seconds to score 8 rows of 4 choices, with each prompt read once and with it read for every choice."""
    prompts = torch.randint(2, 32128, (8, 256)).tolist()
    choices = torch.randint(2, 32128, (8, 4, 6)).tolist()
    collator = PromptCollator(_Padding(), decoder_start(model.config))
    shared = [{"input_ids": prompt, "choices": four} for prompt, four in zip(prompts, choices, strict=True)]
    apart = [{"input_ids": row["input_ids"], "choices": [choice]} for row in shared for choice in row["choices"]]
    batches = {"once": placed(collator(shared), model), "for each": placed(collator(apart), model)}

    def work(batch: dict[str, Tensor]) -> Callable[[], None]:
        def once() -> None:
            with torch.no_grad():
                choice_log_likelihoods(model, batch)

        return once

    return medians({name: work(batch) for name, batch in batches.items()}, rounds)


def encoder_decoder(width: int) -> Any:
    set_seed(0)
    shape = {"d_model": 64, "d_kv": 16, "d_ff": 256, "num_layers": 4, "num_heads": 4, "dropout_rate": 0.0}
    return T5ForConditionalGeneration(T5Config(**shape, vocab_size=width, decoder_start_token_id=0)).eval()


def decoder(width: int) -> Any:
    set_seed(0)
    config = GPT2Config(
        vocab_size=width,
        n_embd=64,
        n_layer=4,
        n_head=4,
        n_positions=512,
        resid_pdrop=0,
        attn_pdrop=0,
        bos_token_id=0,
        eos_token_id=1,
    )
    return GPT2LMHeadModel(config).eval()


class _Padding:
    """What a collator asks of a tokenizer."""

    pad_token_id, eos_token_id, padding_side = 0, 1, "left"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sizes", type=int, default=len(SIZES), help="only the first so many sizes")
    parser.add_argument("--out", type=Path)
    device.add_device(parser)
    options = parser.parse_args()
    torch.set_num_threads(1)
    device.use(options.device)
    sizes = SIZES[: options.sizes]
    columns = ["ms", "extra MB", "times faster", "of its memory"]
    one = Table(f"{options.rounds} rounds, {machine()}", ["(B, T, V) and loss", "step ms", *columns])
    whole = Table("ce + 0.1 kl + sinkhorn", ["(B, T, V) and loss", *columns])
    rows, sums = [], []
    for size in sizes:
        step = steps(size, options.rounds)
        for row in compared(size, options.rounds, LOSSES):
            rows.append(row | {"step": step[row["loss"]]})
            one.add(f"{size} {row['loss']}", f"{step[row['loss']] * 1e3:,.1f}", *cells(row))
        for row in compared(size, options.rounds, SUMS):
            sums.append(row)
            whole.add(f"{size} {row['loss']}", *cells(row))
    tokens = compared(TOKENS, options.rounds, row_terms())
    beside = Table(f"{TOKENS}", ["loss", "ms", "extra MB", "times kl's ms"])
    for row in tokens:
        beside.add(row["loss"], *cells(row)[:2], f"{1 / row['faster']:.2f}")
    asked = {
        "decoder": evaluation(decoder(32128), options.rounds),
        "encoder-decoder": evaluation(encoder_decoder(32128), options.rounds),
    }
    scored = Table("evaluation", ["", "ms, each prompt read once", "for every choice", "times faster"])
    for name, seconds in asked.items():
        single, each = seconds["once"], seconds["for each"]
        scored.add(name, f"{single * 1e3:,.0f}", f"{each * 1e3:,.0f}", f"{each / single:.1f}")
    publish(
        "generative", options.out, one, whole, beside, scored, rows=rows, sums=sums, tokens=tokens, evaluation=asked
    )


if __name__ == "__main__":
    main()
