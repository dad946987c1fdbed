"""Train only those rows of an embedding that the training text uses.

A small encoder spends much of a step on its embedding: its gradient, its norm and AdamW's moments are dense over tens
of thousands of rows, of which a task's text uses a few thousand. A row that no batch reads has gradient 0, and AdamW
without weight decay (or SGD) leaves it as it is; so those rows can be left out, and the result is the same.
"""

from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel


class UsedRows(nn.Embedding):
    """An `nn.Embedding` that trains `rows`, its used rows (n, D), in place of its whole `weight` (V, D).

    Made in place by `trim`, undone by `restore`. The whole weight is brought up to date when training pauses (`eval`)
    and whenever it is saved; saved states look as those of the plain embedding, and load from them.
    """

    rows: nn.Parameter
    used: Tensor  # (n,) row numbers, rising
    padding_row: int | None  # where the padding's row stands among `rows`
    position: Tensor  # (V,) where a row of the weight stands among `rows`

    def forward(self, ids: Tensor) -> Tensor:
        """(..., L) token ids to (..., L, D)."""
        if not self.training:
            return super().forward(ids)
        return F.embedding(self.position[ids], self.rows, self.padding_row)

    def train(self, mode: bool = True) -> "UsedRows":
        if self.training and not mode:
            self.update_weight()
        return super().train(mode)

    @torch.no_grad()
    def update_weight(self) -> None:
        """Write the trained rows into the whole weight."""
        self.weight[self.used] = self.rows.to(self.weight.dtype)

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        self.update_weight()
        super()._save_to_state_dict(destination, prefix, keep_vars)
        del destination[f"{prefix}rows"]

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        state_dict = {**state_dict, f"{prefix}rows": state_dict[f"{prefix}weight"][self.used.cpu()]}
        super()._load_from_state_dict(state_dict, prefix, *args)


def trim(model: PreTrainedModel, ids: np.ndarray) -> UsedRows | None:
    """Make the model's input embedding train the rows `ids` alone; None, and no change, where that would not be exact.

    ids: the token ids that training reads. An embedding that is frozen, shared with another module, or of a kind with
    rules of its own is left alone.
    """
    embedding: Any = model.get_input_embeddings()
    if type(embedding) is not nn.Embedding or not embedding.weight.requires_grad:
        return None
    plain = embedding.max_norm is None and not embedding.sparse and not embedding.scale_grad_by_freq
    owners = [module for module in model.modules() if any(p is embedding.weight for p in module.parameters(False))]
    if not plain or len(owners) > 1:
        return None
    if embedding.padding_idx is not None:
        ids = np.append(ids, embedding.padding_idx)
    weight = embedding.weight
    used = torch.from_numpy(np.unique(ids)).to(weight.device, torch.int64)
    position = torch.zeros(len(weight), dtype=torch.int64, device=weight.device)
    position[used] = torch.arange(len(used), device=weight.device)
    padding = embedding.padding_idx
    embedding.__class__ = UsedRows
    object.__setattr__(embedding, "padding_row", None if padding is None else int(position[padding]))
    embedding.register_buffer("used", used, persistent=False)
    embedding.register_buffer("position", position, persistent=False)
    embedding.rows = nn.Parameter(weight.detach()[used].clone())
    weight.requires_grad_(False)
    return embedding  # type: ignore[return-value]  # mypy narrowed it to the class that it was


def restore(embedding: UsedRows) -> None:
    """Make it a plain embedding again, with the trained rows in its weight."""
    embedding.update_weight()
    del embedding.rows, embedding.used, embedding.position, embedding.padding_row
    embedding.__class__ = nn.Embedding  # type: ignore[assignment]
    embedding.weight.requires_grad_(True)


def used_ids(rows: Dataset, padding: int) -> np.ndarray:
    """The token ids in a tokenised data set's rows, and the padding's, without reading it into memory at once."""
    found = [np.array([padding])]
    for table in rows.select_columns(["input_ids"]).with_format("arrow").iter(batch_size=10_000):
        found.append(np.unique(table["input_ids"].combine_chunks().flatten().to_numpy(zero_copy_only=False)))
    return np.unique(np.concatenate(found))
