"""`loss.py` at the root: the published system's name for its loss."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch

from sinkd.losses import SinkhornLoss


def test_sinkhorn_of_the_root_is_the_published_loss() -> None:
    spec = importlib.util.spec_from_file_location("loss", Path(__file__).parents[2] / "loss.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    student, teacher = torch.randn(4, 3), torch.randn(4, 3)
    for loss, same in (
        (module.Sinkhorn(), SinkhornLoss.published()),
        (module.Sinkhorn(T=3, curvature=0.5), SinkhornLoss.published(temperature=3, curvature=0.5)),
        (module.Sinkhorn(use_hyperbolic=False), SinkhornLoss.published(cost="l1")),
    ):
        assert torch.equal(loss(student, teacher), same(student, teacher))
    assert len(list(module.Sinkhorn(learnable_curvature=True).parameters())) == 1
