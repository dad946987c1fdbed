"""What else a student can imitate, beside the same written plainly: time and memory of each loss and each step.

    python -m benchmarks.features

Losses, forward and backward, on random hidden states of B sentences of L tokens and width D, 64 heads, k1 = k2 = 20;
the last tokens of every second sentence are padding:

- sentences, pairs, triplets: the parts of `mgskd`. Plainly: every formula as one tensor expression under autograd, with
  the (heads, B, B, B) and (B, heads, L, L) tensors and differences that it names.

Training steps without optimiser, a BERT of `--layers` layers teaching one of half as many, sentences of L tokens:

- saliency, integrated saliency: sinkd takes the teacher's maps from its cache. The published way differentiates the
  teacher at every step, as the student, from the loss's own gradient.

Extra memory is what a fresh process grows by at its peak, above inputs and models, after a small pass that loads what
libraries load once (Linux); on a GPU it is PyTorch's own count. Both versions' values are compared before anything is
timed.
"""

import argparse
import os
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch
import transformers
from benchmarks import device
from benchmarks.result import machine, publish, write
from torch import Tensor
from torch.nn import functional as F

from sinkd.losses.feature import Feature, Forward
from sinkd.losses.input_embedding import watched
from sinkd.losses.mgskd_relations import pair_scores, sentence_angles, triplet_angles
from sinkd.losses.objective import Objective
from sinkd.losses.term import Progress, View
from sinkd.report import Table

HEADS, K = 64, 20
LOSSES = ["sentences", "pairs", "triplets"]
STEPS = ["saliency", "integrated saliency"]


def heads_of(x: Tensor) -> Tensor:
    return x.unflatten(-1, (HEADS, -1)).transpose(-3, -2)


def plain_sentences(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    def angles(x: Tensor) -> Tensor:
        x = heads_of(x)
        e = F.normalize(x.unsqueeze(-2) - x.unsqueeze(-3), dim=-1)
        return e @ e.mT

    with torch.no_grad():
        goal = angles(teacher)
    return F.smooth_l1_loss(angles(student), goal)


def plain_pairs(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    pairs = (mask.unsqueeze(-1) * mask.unsqueeze(-2)).unsqueeze(1).expand(-1, HEADS, -1, -1)

    def scores(x: Tensor) -> Tensor:
        x = heads_of(x)
        return x @ x.mT / x.shape[-1] ** 0.5 * pairs

    with torch.no_grad():
        goal = scores(teacher)
    return (scores(student) - goal).square().sum() / pairs.sum()


def plain_triplets(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    rows = torch.arange(len(mask)).unsqueeze(-1)
    with torch.no_grad():
        pairs = (mask.unsqueeze(-1) * mask.unsqueeze(-2)).unsqueeze(1)
        x = heads_of(teacher)
        scores = x @ x.mT / x.shape[-1] ** 0.5 * pairs - 10000 * (1 - pairs)
        attention = torch.softmax(scores, -1) * pairs
        first = attention.sum((1, 2)).topk(min(K, mask.shape[1]), -1).indices
        local = attention.sum(1) * (1 - torch.eye(mask.shape[1]))
        second = local[rows, first].topk(min(K, mask.shape[1]), -1).indices

    def angles(x: Tensor) -> Tensor:
        e = F.normalize(x[rows, first].unsqueeze(2) - x[rows.unsqueeze(-1), second], dim=-1)
        return e @ e.mT

    with torch.no_grad():
        goal = angles(teacher)
        real = mask[rows.unsqueeze(-1), second]
        counts = mask[rows, first][..., None, None] * real.unsqueeze(-1) * real.unsqueeze(-2)
        counts = counts * (1 - torch.eye(real.shape[-1])) * (goal != 0)
    return F.smooth_l1_loss(angles(student) * counts, goal * counts, reduction="sum") / counts.sum()


SINKD: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "sentences": lambda s, t, mask: sentence_angles(s, t, HEADS),
    "pairs": lambda s, t, mask: pair_scores(s, t, mask, HEADS),
    "triplets": lambda s, t, mask: triplet_angles(s, t, mask, HEADS, K, K)[0],
}
PLAIN = {"sentences": plain_sentences, "pairs": plain_pairs, "triplets": plain_triplets}


def mask_of(batch: int, length: int) -> Tensor:
    mask = torch.ones(batch, length)
    mask[::2, -length // 4 :] = 0
    return mask


def loss(name: str, plain: bool, batch: int, length: int, width: int) -> Callable[[], float]:
    """What is measured: one forward and backward pass, which gives the value."""
    torch.manual_seed(0)
    shape = (batch, width) if name == "sentences" else (batch, length, width)
    student, teacher = torch.randn(shape).requires_grad_(), torch.randn(shape)
    mask = mask_of(batch, length)
    function = (PLAIN if plain else SINKD)[name]

    def step() -> float:
        student.grad = None
        value = function(student, teacher, mask)
        value.backward()
        return value.item()

    return step


def training_step(name: str, plain: bool, batch: int, length: int, width: int, layers: int) -> Callable[[], float]:
    torch.manual_seed(0)
    sizes = {"vocab_size": 4000, "hidden_size": width, "num_attention_heads": width // 64, "num_labels": 2}
    sizes |= {"intermediate_size": 4 * width, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    teacher, student = (
        transformers.BertForSequenceClassification(
            transformers.BertConfig(**sizes, num_hidden_layers=depth, attn_implementation="eager")
        )
        for depth in (layers, layers // 2)
    )
    teacher.requires_grad_(False).eval()
    (term,) = Objective.parse(f"{name.replace(' ', '_')}:1", integrated_saliency={"ig_steps": 4})
    mask = mask_of(batch, length).long()
    data = {"input_ids": torch.randint(0, 4000, (batch, length)), "attention_mask": mask}
    data["labels"] = torch.randint(0, 2, (batch,))
    steps = term.student_map.steps

    def published_map(model: torch.nn.Module, topk: int | None) -> Tensor:
        embeddings, total = model.bert.embeddings(data["input_ids"]), 0
        embeddings = embeddings if embeddings.requires_grad else embeddings.requires_grad_()
        for k in range(1, steps + 1):
            scaled = embeddings * (k / steps)
            extended = (1 - mask[:, None, None, :].float()) * torch.finfo(torch.float32).min
            hidden = model.bert.encoder(scaled, attention_mask=extended).last_hidden_state
            answer = F.cross_entropy(model.classifier(model.bert.pooler(hidden)), data["labels"])
            total = total + torch.autograd.grad(answer, scaled, create_graph=True)[0] / steps
        product = embeddings * total
        if topk is not None:
            product = product.abs().topk(min(topk, width), -1).values
        return F.normalize(product.norm(dim=-1) * mask, dim=-1)

    def published() -> float:
        student.zero_grad()
        goal = published_map(teacher, 768).detach()
        value = (published_map(student, None) - goal).square().sum() / (goal != 0).sum()
        value.backward()
        return value.item()

    kept = observe(teacher, data, term.teacher_map)

    def sinkd() -> float:
        student.zero_grad()
        value = term(observe(student, data, term.student_map), View(features=kept_features), data, Progress())
        value.backward()
        return value.item()

    kept_features = {term.teacher_map: kept[term.teacher_map].detach()}
    return published if plain else sinkd


def observe(model: torch.nn.Module, data: dict[str, Tensor], feature: Feature) -> View:
    """A feature of one forward pass."""
    inputs = {name: value for name, value in data.items() if name != "labels"}
    with watched(model) as embeddings:
        logits = model(**inputs).logits
    return View(features={feature: feature.read(Forward(model, inputs, logits, embeddings=embeddings[0]), data)})


def prepared(name: str, plain: bool, given: argparse.Namespace) -> Callable[[], float]:
    if name in LOSSES:
        return loss(name, plain, given.batch, given.length, given.width)
    return training_step(name, plain, given.batch, given.length, given.width, given.layers)


def status(name: str) -> float:
    """Bytes of this process by the system's count: VmRSS, what it holds, or VmHWM, the most that it held."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(float(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


def extra_memory(name: str, plain: bool, given: argparse.Namespace) -> float:
    """Megabytes that a first pass adds at its peak, gradients among them: on a CPU that of a fresh process."""
    if device.on_cuda() or given.rehearse:
        return device.peak_bytes(prepared(name, plain, given)) / 1e6
    command = [sys.executable, "-m", "benchmarks.features", *sys.argv[1:], "--measure", name, str(int(plain))]
    # large pieces go back to the system at once, so that what is measured is what is held
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    return float(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--width", type=int, default=768, help="a multiple of 64")
    parser.add_argument("--layers", type=int, default=4, help="the teacher's; the student has half as many")
    parser.add_argument("--rounds", type=int, default=5, help="how often each is timed, taking turns")
    parser.add_argument("--only", help="only these rows, with commas")
    parser.add_argument("--rehearse", action="store_true", help="small sizes, which say nothing about speed")
    out = {"type": Path, "default": Path("benchmarks/features.json"), "help": "where the JSON goes"}
    parser.add_argument("--out", "--json", dest="out", **out)
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    device.add_device(parser)
    given = parser.parse_args()
    device.use(given.device)
    if given.rehearse:
        given.batch, given.length, given.width, given.layers, given.rounds = 4, 24, 128, 2, 1
    if given.measure:
        name, plain = given.measure[0], given.measure[1] == "1"
        prepared(name, plain, argparse.Namespace(batch=2, length=24, width=128, layers=2))()  # libraries' own buffers
        step = prepared(name, plain, given)
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        before = status("VmRSS")
        step()
        print((status("VmHWM") - before) / 1e6)
        return

    size = f"B {given.batch}, L {given.length}, D {given.width}"
    columns = ["", "sinkd ms", "plain ms", "faster", "sinkd MB", "plain MB", "memory"]
    table = Table(f"forward and backward, {size} ({machine()})", columns)
    rows = []
    for name in given.only.split(",") if given.only else LOSSES + STEPS:
        pair = [prepared(name, plain, given) for plain in (False, True)]
        values = [step() for step in pair]
        if abs(values[0] - values[1]) > 1e-3 * abs(values[1]):
            raise SystemExit(f"{name}: sinkd gives {values[0]}, the plain version {values[1]}")
        times = device.in_turns({"sinkd": pair[0], "plain": pair[1]}, given.rounds)
        ours, theirs = (1000 * statistics.median(taken) for taken in times.values())
        del pair
        memory = [extra_memory(name, plain, given) for plain in (False, True)]
        rows.append({"name": name, "ms": [ours, theirs], "mb": memory, "values": values})
        cells = [f"{ours:.3g}", f"{theirs:.3g}", f"{theirs / ours:.1f}x", f"{memory[0]:.0f}", f"{memory[1]:.0f}"]
        table.add(name, *cells, f"{memory[0] / max(memory[1], 0.1):.2f}")
        write("features", given.out, rows=rows)
    publish("features", given.out, table, rows=rows)


if __name__ == "__main__":
    main()
