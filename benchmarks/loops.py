"""What `benchmarks.step` measures: rows, models, and loops of training steps over them."""

import copy
import time
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
from benchmarks import device
from benchmarks.loss import published as published_sinkhorn
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import BertConfig, BertForSequenceClassification

from sinkd.losses.objective import Objective
from sinkd.losses.term import View
from sinkd.training.gpu import static_masks

CLASSES = 3
WARM = 6  # steps before the clock starts: a CUDA graph is recorded in the third


class Sizes(NamedTuple):
    """What is measured: batches, and how much of it."""

    batches: tuple[int, ...] = (16, 128)
    length: int = 128
    width: int = 768
    layers: tuple[int, int] = (12, 6)
    vocabulary: int = 30522
    rounds: int = 3
    rows: int = 1024
    """Rows of a round."""
    product: int = 8192


SMALL = Sizes((4, 8), 16, 64, (2, 1), 1000, 2, 32, 256)


class Lesson:
    """Teacher, student, rows and the teacher's answers to them."""

    def __init__(self, sizes: Sizes, where: str):
        self.sizes, self.device = sizes, where
        torch.manual_seed(0)
        self.teacher, self.student = (self.model(layers) for layers in sizes.layers)
        self.teacher.eval().requires_grad_(False)
        self.ids = torch.randint(1000 % sizes.vocabulary, sizes.vocabulary, (sizes.rows, sizes.length))
        self.labels = torch.randint(CLASSES, (sizes.rows,))
        started = time.perf_counter()
        with torch.no_grad(), self.autocast():
            answers = [self.teacher(part.to(where)).logits.float().cpu() for part in self.ids.split(256)]
        self.answers = torch.cat(answers)
        self.cached_per_second = sizes.rows / (time.perf_counter() - started)
        if device.on_cuda():
            self.ids, self.labels, self.answers = (x.pin_memory() for x in (self.ids, self.labels, self.answers))

    def model(self, layers: int) -> nn.Module:
        width = self.sizes.width
        config = BertConfig(
            vocab_size=self.sizes.vocabulary,
            hidden_size=width,
            num_hidden_layers=layers,
            num_attention_heads=width // 64,
            intermediate_size=4 * width,
            num_labels=CLASSES,
        )
        with torch.device(self.device):
            return BertForSequenceClassification(config)

    def autocast(self) -> Any:
        return torch.autocast(self.device, torch.bfloat16)

    def batches(self, batch: int) -> Iterable[tuple[Tensor, ...]]:
        for parts in zip(*(x.split(batch) for x in (self.ids, self.labels, self.answers)), strict=True):
            yield tuple(part.to(self.device, non_blocking=True) for part in parts)

    @property
    def parameters(self) -> dict[str, int]:
        whole = sum(parameter.numel() for parameter in self.student.parameters())
        embeddings = sum(parameter.numel() for parameter in self.student.bert.embeddings.parameters())
        return {"whole": whole, "without embeddings": whole - embeddings}


Loss = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Of (logits, labels, the teacher's answers)."""


def objective() -> Objective:
    return Objective.parse("kd+sinkhorn", alpha=0.9, beta=0.8, temperature=1.0)


def distilling() -> Loss:
    whole = objective()
    return lambda logits, labels, taught: whole(View(logits), View(taught), {"labels": labels}).total


def hard(logits: Tensor, labels: Tensor, taught: Tensor) -> Tensor:
    return F.cross_entropy(logits.float(), labels)


def none(logits: Tensor, labels: Tensor, taught: Tensor) -> Tensor:
    return logits.float().mean()


class Loop:
    """Steps of a copy of the student under a loss, with SDPA, fused AdamW, pinned batches.

    `compiled` is what PyTorch compiles: nothing, the "model", or the "loss" with it.
    """

    def __init__(self, lesson: Lesson, loss: Loss, compiled: str = ""):
        self.lesson, self.loss = lesson, loss
        self.student = copy.deepcopy(lesson.student).train()
        self.optimizer = torch.optim.AdamW(self.student.parameters(), lr=5e-5, weight_decay=0.0, fused=True)
        how = {"mode": "reduce-overhead"} if device.on_cuda() else {"backend": "eager"}
        self.run = torch.compile(self.student, dynamic=False, **how) if compiled == "model" else self.student
        self.value = torch.compile(self.forward, dynamic=False, **how) if compiled == "loss" else self.forward
        self.compiled = compiled

    def forward(self, ids: Tensor, labels: Tensor, taught: Tensor) -> Tensor:
        return self.loss(self.run(ids).logits, labels, taught)

    def step(self, ids: Tensor, labels: Tensor, taught: Tensor) -> Tensor:
        if self.compiled and device.on_cuda():
            torch.compiler.cudagraph_mark_step_begin()
        with self.lesson.autocast(), static_masks():
            loss = self.value(ids, labels, taught)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.student.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss.detach()

    def warm_up(self, batch: int) -> None:
        for number, parts in enumerate(self.lesson.batches(batch)):
            if number == WARM:
                break
            self.step(*parts)
        device.wait()

    def rows_per_second(self, batch: int) -> float:
        device.wait()
        started = time.perf_counter()
        for parts in self.lesson.batches(batch):
            last = self.step(*parts)
        if not last.isfinite():
            raise SystemExit(f"the loss is {last.item()}")
        return self.lesson.sizes.rows / (time.perf_counter() - started)


class Published(Loop):
    """As the published code does: the teacher live, every hidden state and attention, eager, float32."""

    def __init__(self, lesson: Lesson, bf16: bool):
        super().__init__(lesson, none)
        self.bf16 = bf16
        self.teacher = copy.deepcopy(lesson.teacher)
        for model in (self.teacher, self.student):
            model.set_attn_implementation("eager")
        self.optimizer = torch.optim.AdamW(self.student.parameters(), lr=5e-5, eps=1e-8, weight_decay=0.0)
        self.sinkhorn = published_sinkhorn("lorentz")

    def step(self, ids: Tensor, labels: Tensor, taught: Tensor) -> Tensor:
        shown = {"output_hidden_states": True, "output_attentions": True}
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "token_type_ids": torch.zeros_like(ids)}
        with self.lesson.autocast() if self.bf16 else nullcontext():
            logits = self.student(**inputs, **shown).logits.float()
            with torch.no_grad():
                answers = self.teacher(**inputs, **shown).logits.float()
        kd = -(torch.softmax(answers, -1) * torch.log_softmax(logits, -1)).sum(-1).mean()
        loss = 0.9 * kd + 0.1 * F.cross_entropy(logits, labels) + 0.8 * self.sinkhorn(logits, answers)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.student.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss.detach()
