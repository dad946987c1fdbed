"""A model for other runtimes: ONNX by `torch.onnx`, in float32 or with int8 weights by ONNX Runtime.

torch's own exporter (`dynamo=True`) is the one that is kept with torch itself. transformers has exporters of its own,
called experimental there, that work around it; optimum-onnx keeps a list of model families, where torch takes any.
"""

import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from sinkd.errors import SinkdError

HOW_TO_INSTALL = "exporting needs onnx, onnxscript and onnxruntime; pip install 'sinkd[onnx]' brings them"
OPSET = 20
LONGEST = 1 << 16  # rows of a batch, and tokens where a model sets no bound


class _Logits(nn.Module):
    """A model as a function of its inputs, in the order of `names`, to logits alone."""

    def __init__(self, model: PreTrainedModel, names: tuple[str, ...]):
        super().__init__()
        self.model, self.names = model, names

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.model(**dict(zip(self.names, inputs, strict=True))).logits


def export_onnx(model: PreTrainedModel, inputs: Mapping[str, Tensor], file: Path) -> Path:
    """Write a model to an ONNX file that takes batches of any number of rows and tokens.

    Parameters
    ----------
    inputs : what the model reads, {name: (B, L)}, by which it is traced; at least two rows of three tokens.
    file : the weights are in it too, up to the 2 GB that one such file holds, and beside it from there on.

    Raises
    ------
    SinkdError : the packages for it are not installed.
    """
    need_packages()
    file.parent.mkdir(parents=True, exist_ok=True)
    names = tuple(inputs)
    most = getattr(model.config, "max_position_embeddings", None) or LONGEST
    axes = {0: torch.export.Dim("batch", min=1, max=LONGEST), 1: torch.export.Dim("length", min=1, max=most)}
    traced = _Logits(model.eval(), names).eval()
    large = sum(parameter.nbytes for parameter in model.parameters()) > 1.8e9
    with _quiet():
        torch.onnx.export(
            traced,
            tuple(inputs.values()),
            str(file),
            input_names=list(names),
            output_names=["logits"],
            dynamic_shapes=(tuple(axes for _ in names),),
            opset_version=OPSET,
            dynamo=True,
            external_data=large,
            verbose=False,
        )
    return file


def quantize_onnx(file: Path, target: Path) -> Path:
    """Write the model in `file` with int8 weights; what flows through it is quantised as it comes (dynamic)."""
    need_packages()
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    model = onnx.load(file)
    del model.graph.value_info[:]  # sizes as traced, which older versions of ONNX Runtime hold against dynamic ones
    with _quiet():
        quantize_dynamic(model, str(target), weight_type=QuantType.QInt8, per_channel=True)
    return target


class OnnxModel:
    """An ONNX file at work on this machine's CPU, by ONNX Runtime."""

    def __init__(self, file: Path):
        need_packages()
        import onnxruntime

        self.file = file
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        self.session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        self.names = tuple(entry.name for entry in self.session.get_inputs())

    def logits(self, batch: Mapping[str, Tensor]) -> np.ndarray:
        """Logits (B, C) of a batch {name: (B, L)}; what the model does not read may be in it too."""
        return self.session.run(None, {name: batch[name].numpy() for name in self.names})[0]

    @property
    def megabytes(self) -> float:
        """Size of the file, and of weights beside it, in 10^6 bytes."""
        return sum(path.stat().st_size for path in self.file.parent.glob(f"{self.file.name}*")) / 1e6


def need_packages() -> None:
    """Raises SinkdError where a package for exporting is not installed."""
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise SinkdError(HOW_TO_INSTALL) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporter tells about itself at length; what matters is whether the result answers alike."""
    logger = logging.getLogger("torch.onnx")
    level, root = logger.level, logging.root.level
    logger.setLevel(logging.ERROR)
    logging.root.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
        logging.root.setLevel(root)
