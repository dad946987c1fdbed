"""The random state that a forward pass draws from, so that another pass can draw the same dropout."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


class RandomState:
    """The state of the random generators that a forward pass on `device` may draw from.

    On a CUDA device those of all of the machine's: a model may be spread over several, and each draws on its own.
    """

    def __init__(self, device: torch.device):
        self.device = device
        self.cpu = torch.get_rng_state()
        self.cuda = torch.cuda.get_rng_state_all() if device.type == "cuda" else []

    def restore(self) -> None:
        """Have the generators go on from here."""
        torch.set_rng_state(self.cpu)
        for number, state in enumerate(self.cuda):
            torch.cuda.set_rng_state(state, number)

    @contextmanager
    def replayed(self) -> Iterator[None]:
        """Within it the generators go on from here; after it, from where they were."""
        now = RandomState(self.device)
        self.restore()
        try:
            yield
        finally:
            now.restore()
