"""The random state that a forward pass draws from, so that another pass can draw the same dropout."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


class RandomState:
    """The state of the random generators that a forward pass on `device` may draw from."""

    def __init__(self, device: torch.device):
        self.device = device
        self.cpu = torch.get_rng_state()
        self.cuda = torch.cuda.get_rng_state(device) if device.type == "cuda" else None

    def restore(self) -> None:
        """Have the generators go on from here."""
        torch.set_rng_state(self.cpu)
        if self.cuda is not None:
            torch.cuda.set_rng_state(self.cuda, self.device)

    @contextmanager
    def replayed(self) -> Iterator[None]:
        """Within it the generators go on from here; after it, from where they were."""
        now = RandomState(self.device)
        self.restore()
        try:
            yield
        finally:
            now.restore()
