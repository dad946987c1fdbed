"""Faster training on a CPU, with the same results up to rounding.

`CpuTrainer` switches everything on; `TaskTrainer` derives from it. `fast_layers` also works outside a trainer, for
example for teachers.
"""

import functools
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from transformers import Trainer
from transformers.training_args import OptimizerNames

from sinkd.losses.input_embedding import input_table
from sinkd.transport.matmul import fast_linear, multiplies_bfloat16, uses_onednn

logger = logging.getLogger(__name__)

# Unless this module exists, TensorBoard's writer imports an installed TensorFlow, which takes seconds and is not used.
sys.modules.setdefault("tensorboard.compat.notf", ModuleType("tensorboard.compat.notf"))


class FastLinear(nn.Linear):
    """An `nn.Linear` that multiplies float32 matrices with oneDNN (`transport/matmul.py`)."""

    def forward(self, x: Tensor) -> Tensor:
        # Under autocast PyTorch calls oneDNN itself. For small weights the call costs more than it saves. The number of
        # rows must not matter: libraries round differently, and the result must not depend on micro-batches.
        if torch.is_autocast_enabled("cpu") or self.weight.numel() < 2**16:
            return super().forward(x)
        rows = x.reshape(-1, x.shape[-1])
        if not uses_onednn(rows, self.weight):
            return super().forward(x)
        return _Linear.apply(rows, self.weight, self.bias).unflatten(0, x.shape[:-1])


class _Linear(torch.autograd.Function):
    """a b^T + bias. Its backward pass calls itself, so it can be differentiated any number of times."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(a, b)
        return fast_linear(a, b, bias)

    @staticmethod
    def backward(ctx: Any, d_result: Tensor) -> tuple[Tensor | None, ...]:
        a, b = ctx.saved_tensors
        for_a, for_b, for_bias = ctx.needs_input_grad
        return (
            _Linear.apply(d_result, b.mT, None) if for_a else None,
            _Linear.apply(d_result.mT, a.mT, None) if for_b else None,
            d_result.sum(0) if for_bias else None,
        )


class FastDropout(nn.Dropout):
    """An `nn.Dropout` that compares uniform numbers with p, in a third of the time of PyTorch's Bernoulli numbers.

    Masks have the same distribution (p to within 2^-24) and use the global generator, so a resumed run repeats them.
    """

    def forward(self, x: Tensor) -> Tensor:
        # a model that is on the CPU when training begins may be moved to a GPU by FSDP, DeepSpeed or --bf16_full_eval
        if not self.training or not 0 < self.p < 1 or self.inplace or x.device.type != "cpu":
            return super().forward(x)
        # always drawn in float32: bfloat16 has too few digits to compare
        return x * torch.rand(x.shape).ge_(self.p).mul_(1 / (1 - self.p)).to(x.dtype)


FAST: dict[type[nn.Module], type[nn.Module]] = {nn.Dropout: FastDropout, nn.Linear: FastLinear}


@contextmanager
def fast_layers(*models: nn.Module) -> Iterator[None]:
    """Inside the block, models on a CPU use the fast layers. Subclasses of PyTorch's layers are not changed."""
    on_cpu = [model for model in models if all(parameter.device.type == "cpu" for parameter in model.parameters())]
    replaced = [(layer, type(layer)) for model in on_cpu for layer in model.modules() if type(layer) in FAST]
    for layer, plain in replaced:
        layer.__class__ = FAST[plain]
    try:
        yield
    finally:
        for layer, plain in replaced:
            layer.__class__ = plain


class TrimmedEmbedding(nn.Embedding):
    """An `nn.Embedding` that trains only the rows that the training text uses.

    Gradient, norm and moments of a small encoder's embedding are dense over tens of thousands of rows, of which a task
    uses a few thousand. The gradient of the others is 0, and the optimisers below do not change them.

    Trains `rows` (n, D) instead of `weight` (V, D), which is updated when training pauses (`eval`) and when it is
    saved. Saved states look like those of the plain embedding.
    """

    rows: nn.Parameter
    used: Tensor  # (n,) row numbers, ascending
    position: Tensor  # (V,) where a row of the weight is in `rows`
    padding_row: int | None

    def forward(self, ids: Tensor) -> Tensor:
        if not self.training:
            return super().forward(ids)
        return F.embedding(self.position[ids], self.rows, self.padding_row)

    def train(self, mode: bool = True) -> "TrimmedEmbedding":
        if self.training and not mode:
            self.update_weight()
        return super().train(mode)

    @torch.no_grad()
    def update_weight(self) -> None:
        """Write the trained rows into the weight."""
        self.weight[self.used] = self.rows.to(self.weight.dtype)

    def restore(self) -> None:
        """Become a plain embedding again, with the trained rows in its weight."""
        self.update_weight()
        del self.rows, self.used, self.position, self.padding_row
        self.__class__ = nn.Embedding  # type: ignore[assignment]
        self.weight.requires_grad_(True)

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        self.update_weight()
        super()._save_to_state_dict(destination, prefix, keep_vars)
        del destination[f"{prefix}rows"]

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        state_dict = {**state_dict, f"{prefix}rows": state_dict[f"{prefix}weight"][self.used.cpu()]}
        super()._load_from_state_dict(state_dict, prefix, *args)


def trim_embedding(model: Any, rows: Dataset, padding: int) -> TrimmedEmbedding | None:
    """Make the model's input embedding train only the rows for `padding` and the token ids in `rows`.

    Returns None, without a change, if the result could differ: for an embedding that is frozen, shared or has special
    rules, and for language models, which may generate any token.
    """
    embedding = input_table(model)
    if type(embedding) is not nn.Embedding or model.get_output_embeddings() is not None:
        return None
    weight = embedding.weight
    owners = [module for module in model.modules() if any(p is weight for p in module.parameters(False))]
    special = embedding.max_norm is not None or embedding.sparse or embedding.scale_grad_by_freq
    if special or len(owners) > 1 or not weight.requires_grad:
        return None
    found = [np.array([padding] if embedding.padding_idx is None else [padding, embedding.padding_idx])]
    for table in rows.select_columns(["input_ids"]).with_format("arrow").iter(batch_size=10_000):
        found.append(np.unique(table["input_ids"].combine_chunks().flatten().to_numpy(zero_copy_only=False)))
    used = torch.from_numpy(np.unique(np.concatenate(found))).to(weight.device, torch.int64)
    position = torch.zeros(len(weight), dtype=torch.int64, device=weight.device)
    position[used] = torch.arange(len(used), device=weight.device)
    trimmed: Any = embedding
    trimmed.__class__ = TrimmedEmbedding
    trimmed.register_buffer("used", used, persistent=False)
    trimmed.register_buffer("position", position, persistent=False)
    trimmed.padding_row = None if embedding.padding_idx is None else int(position[embedding.padding_idx])
    trimmed.rows = nn.Parameter(weight.detach()[used])
    weight.requires_grad_(False)
    return trimmed


# Optimisers that update entries independently and do not change an entry whose gradients are all 0. Others depend on
# the shape of the matrix (Adafactor, GaLore, APOLLO, StableAdamW) or quantise neighbouring entries together (4 and
# 8 bits).
ENTRYWISE = {
    OptimizerNames.ADAMW_TORCH,
    OptimizerNames.ADAMW_TORCH_FUSED,
    OptimizerNames.ADAMW_TORCH_XLA,
    OptimizerNames.ADAMW_TORCH_NPU_FUSED,
    OptimizerNames.ADAMW_ANYPRECISION,
    OptimizerNames.PAGED_ADAMW,
    OptimizerNames.ADAGRAD,
    OptimizerNames.RMSPROP,
    OptimizerNames.SGD,
}


@torch.no_grad()
def clip_gradients(model: nn.Module, max_norm: float) -> Tensor:
    """PyTorch's `clip_grad_norm_`, but without multiplying by 1 if there is nothing to clip; returns the norm.

    For a CPU only: reading the norm synchronises an accelerator.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.grad is not None]
    norm = get_total_norm([parameter.grad for parameter in parameters if parameter.grad is not None])
    if not norm + 1e-6 <= max_norm:  # PyTorch's factor is max_norm / (norm + 1e-6); NaN must reach every gradient
        clip_grads_with_norm_(parameters, max_norm, norm)
    return norm


@functools.cache  # once per process
def advise_on_bfloat16(used: bool) -> None:
    """Log if `--bf16` would help but is not used, or is used but hurts."""
    helps = multiplies_bfloat16()
    if helps and not used:
        logger.info("this processor multiplies bfloat16: --bf16 trains about 1.5 times as fast, with less precision")
    if used and helps is False:
        logger.warning("this processor does not multiply bfloat16: --bf16 trains several times more slowly on it")


class CpuTrainer(Trainer):
    """A `Trainer` with all the CPU optimisations of this module."""

    optimizer: torch.optim.Optimizer | None  # set by the Trainer
    _operations_per_token: int | None = None

    def tokenised_rows(self) -> Any:
        """The data set with all `input_ids` that the model reads in training."""
        return self.train_dataset

    def train(self, *args, **kwargs):
        if self.args.device.type == "cpu" and self.args.should_log and not getattr(self.args, "quiet", False):
            advise_on_bfloat16(self.args.bf16)
        # Counted before the embedding is trimmed, since the Trainer does not count an embedding's parameters.
        self._operations_per_token = self.floating_point_ops({"input_ids": torch.zeros(1)})
        rows, tokenizer, trimmed = self.tokenised_rows(), self.processing_class, None
        exact = self.args.weight_decay == 0 and self.args.optim in ENTRYWISE and self.optimizer is None
        known = isinstance(rows, Dataset) and tokenizer is not None
        if self.args.trim_embedding and exact and known and not self._parameters_are_sharded():
            trimmed = trim_embedding(self.model, rows, tokenizer.pad_token_id)
        try:
            with fast_layers(self.model):
                return super().train(*args, **kwargs)
        finally:
            self._operations_per_token = None
            if trimmed is not None:
                trimmed.restore()
                self.optimizer = self.lr_scheduler = None  # they refer to rows that no longer exist

    def evaluation_loop(self, *args, **kwargs):
        with fast_layers(self.model):
            return super().evaluation_loop(*args, **kwargs)

    def floating_point_ops(self, inputs):
        """The Trainer's count, without walking through all parameters at every step."""
        if self._operations_per_token is None or "input_ids" not in inputs:
            return super().floating_point_ops(inputs)
        return self._operations_per_token * inputs["input_ids"].numel()

    def _clip_grad_norm(self, model):
        scaled = self.args.world_size > 1 or self._parameters_are_sharded() or self.accelerator.scaler is not None
        if scaled or self.args.device.type != "cpu":
            return super()._clip_grad_norm(model)
        return clip_gradients(model, self.args.max_grad_norm)

    def _parameters_are_sharded(self):
        return self.is_fsdp_enabled or self.is_deepspeed_enabled
