"""sinkd: Sinkhorn knowledge distillation of language models.

The names below load on first use, so that `from sinkd import SinkhornLoss` imports only torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sinkd.errors import SinkdError
    from sinkd.losses.objective import Objective
    from sinkd.losses.sinkhorn import SinkhornLoss
    from sinkd.training.arguments import DistillationArguments
    from sinkd.training.distillation import DistillationTrainer
    from sinkd.transport import lorentz
    from sinkd.transport.class_prior import match_class_prior
    from sinkd.transport.solver import sinkhorn

__version__ = "0.1.0"

__all__ = [
    "DistillationArguments",
    "DistillationTrainer",
    "Objective",
    "SinkdError",
    "SinkhornLoss",
    "lorentz",
    "match_class_prior",
    "sinkhorn",
]

_HOMES = {
    "DistillationArguments": "sinkd.training.arguments",
    "DistillationTrainer": "sinkd.training.distillation",
    "Objective": "sinkd.losses.objective",
    "SinkdError": "sinkd.errors",
    "SinkhornLoss": "sinkd.losses.sinkhorn",
    "lorentz": "sinkd.transport.lorentz",
    "match_class_prior": "sinkd.transport.class_prior",
    "sinkhorn": "sinkd.transport.solver",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'sinkd' has no attribute {name!r}")
    home = import_module(_HOMES[name])
    value = getattr(home, name, home)  # lorentz is a module, its own home
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
