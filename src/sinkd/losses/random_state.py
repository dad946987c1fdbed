"""The state of the random generators."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


class RandomState:
    """The state of the generators that a forward pass on `device` may use, to draw the same dropout again.

    On CUDA this includes the generator of every device, since a model may be spread over several.
    """

    def __init__(self, device: torch.device):
        self.device = device
        self.cpu = torch.get_rng_state()
        self.cuda = torch.cuda.get_rng_state_all() if device.type == "cuda" else []

    def restore(self) -> None:
        """Set the generators to this state."""
        torch.set_rng_state(self.cpu)
        for number, state in enumerate(self.cuda):
            torch.cuda.set_rng_state(state, number)

    @contextmanager
    def replayed(self) -> Iterator[None]:
        """Draw from this state inside the block, and restore the present one after it."""
        now = RandomState(self.device)
        self.restore()
        try:
            yield
        finally:
            now.restore()
