"""Export a trained encoder to ONNX, float32 or with int8 weights, and check it against the model.

Uses `torch.onnx.export(dynamo=True)`, which torch maintains. The exporters in transformers are experimental, and
optimum-onnx supports only listed model families, where torch takes any.
"""

import logging
import shutil
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import PreTrainedModel

from sinkd.errors import SinkdError, first_sentence, writing
from sinkd.models import Encoder, find_checkpoint, load_encoder, load_tokenizer
from sinkd.models.family import Reading, positions
from sinkd.models.forward import model_inputs
from sinkd.report import Table
from sinkd.tasks import Task
from sinkd.tasks.metrics import Scores
from sinkd.training.arguments import TaskArguments
from sinkd.training.inference import megabytes

OPSET = 20
LONGEST = 1 << 16  # rows of a batch, and tokens if a model sets no limit
TOLERANCE = 1e-3  # relative to the largest logit: float32 sums in another order may differ by this much
FILES = ("model.onnx", "model.onnx.data", "model_int8.onnx", "model_int8.onnx.data", "model.wrong")

# Answered if there is no dev set: from one word to a few dozen.
SENTENCES = (
    "Yes.",
    "The dog that barked at the postman belongs to my neighbour.",
    "Nobody knows why the lamp in the hall was left on all night.",
    "When the last train had gone, the two of them walked home along the river, talked about the concert, and found "
    "that neither could remember who had sung the second song, nor whether it had been sung at all.",
)

Batch = Mapping[str, Tensor]
Splits = dict[str, list[Batch]]


@dataclass(frozen=True)
class Answers:
    """The answers of one form of the model: its size in 10^6 bytes, logits (N, C) of each split, and seconds."""

    name: str
    megabytes: float
    logits: dict[str, np.ndarray]
    seconds: float


def export(path: str, task: Task | None, args: TaskArguments, output: Path, int8: bool = False) -> Table:
    """Export the encoder at `path` to the folder `output`, and compare each file's answers with the model's.

    Args:
        path: A folder, or a name on the hub.
        task: Its dev set is answered and scored; None uses built-in sentences.
        int8: Also write the model with int8 weights.

    Returns:
        A row for PyTorch and for each file: size, speed, scores, and the difference from PyTorch.

    Raises:
        SinkdError: if a package for exporting is not installed, or `output` contains a model or is not writable.
        RuntimeError: if the float32 file answers differently; it is renamed to model.wrong.
    """
    need_packages()
    folder = Path(find_checkpoint(path, "--model_path"))
    tokenizer = load_tokenizer(path, "--model_path", args.do_lower_case)
    model = load_encoder(path, task, "--model_path", must_have_head=True).eval()
    family = Encoder(tokenizer, task, Reading.of(args))  # type: ignore[arg-type]  # without a task it only runs models
    splits = _batches(family, positions(model), args)
    first = next(iter(splits.values()))[0]
    names = [name for name in ("input_ids", "attention_mask", "token_type_ids") if name in first]
    _empty(output)
    with writing(output):
        model.config.save_pretrained(output)
        tokenizer.save_pretrained(output)
    file = export_onnx(model, {name: first[name] for name in names}, output / "model.onnx")

    def by_torch(batch: Batch) -> np.ndarray:
        with torch.inference_mode():
            return model(**model_inputs(model, batch)).logits.numpy()

    size = megabytes(folder) or sum(parameter.nbytes for parameter in model.parameters()) / 1e6
    answers = [_ask("PyTorch", size, by_torch, splits), _ask_onnx("ONNX", file, splits)]
    _need_same(answers[0], answers[1], file)
    files = [file]
    if int8:
        files.append(quantize_onnx(file, output / "model_int8.onnx"))
        answers.append(_ask_onnx("ONNX, int8", files[-1], splits))
    on = "built-in sentences" if task is None else f"{task.name}, dev set"
    scores = [{} if task is None else family.dev_scores(found.logits) for found in answers]
    table = _table(f"{path} on {on}", answers, scores)
    table.note = f"wrote {' and '.join(map(str, files))}"
    return table


def need_packages() -> None:
    """Raise SinkdError if a package for exporting is not installed."""
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise SinkdError(
            "exporting needs onnx, onnxscript and onnxruntime; pip install 'sinkd[onnx]' brings them"
        ) from error


class _Logits(nn.Module):
    """A model as a function from its inputs, in the order of `names`, to logits."""

    def __init__(self, model: PreTrainedModel, names: Sequence[str]):
        super().__init__()
        self.model, self.names = model, names

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.model(**model_inputs(self.model, dict(zip(self.names, inputs, strict=True)))).logits


def export_onnx(model: PreTrainedModel, inputs: Batch, file: Path) -> Path:
    """Write a model to an ONNX file for batches of any number of rows and tokens.

    Args:
        inputs: Example inputs, {name: (B, L)}.
        file: The file. It contains the weights up to ONNX's limit of 2 GB; larger weights go to a second file.

    Raises:
        SinkdError: if torch cannot export such a model (XLNet).
    """
    names = tuple(inputs)
    # Two rows to trace: an axis of length 1 would become a constant.
    example = tuple(value[:1].repeat(2, 1) for value in inputs.values())
    most = positions(model) or LONGEST
    axes = {0: torch.export.Dim("batch", min=1, max=LONGEST), 1: torch.export.Dim("length", min=1, max=most)}
    try:
        with _quiet(), writing(file):
            torch.onnx.export(
                _Logits(model.eval(), names).eval(),
                example,
                str(file),
                input_names=list(names),
                output_names=["logits"],
                dynamic_shapes=(tuple(axes for _ in names),),
                opset_version=OPSET,
                dynamo=True,
                external_data=sum(parameter.nbytes for parameter in model.parameters()) > 1.8e9,
                verbose=False,
            )
    except SinkdError:  # half a file
        file.unlink(missing_ok=True)
        raise
    except torch.onnx.OnnxExporterError as error:
        kind, cause = type(model).__name__, first_sentence(error.__cause__ or error)
        raise SinkdError(f"torch.onnx cannot export a {kind}: {cause}") from error
    return file


def quantize_onnx(file: Path, target: Path) -> Path:
    """Write the model in `file` with int8 weights; activations are quantised at run time (dynamic)."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    model = onnx.load(file)
    del model.graph.value_info[:]  # traced sizes, which older versions of ONNX Runtime enforce on dynamic axes
    with _quiet(), writing(target):
        quantize_dynamic(model, str(target), weight_type=QuantType.QInt8, per_channel=True)
    return target


class OnnxModel:
    """An ONNX file, run by ONNX Runtime on the CPU."""

    def __init__(self, file: Path):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        self.session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])

    def logits(self, batch: Batch) -> np.ndarray:
        """Logits (B, C) of a batch {name: (B, L)}; entries that the model does not read are ignored."""
        return self.session.run(None, {entry.name: batch[entry.name].numpy() for entry in self.session.get_inputs()})[0]


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter's reports; the file's answers are checked here."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


def _empty(folder: Path) -> None:
    """Make the folder, and remove an earlier export from it. Raises SinkdError if it contains a model."""
    weights = [name for name in ("model.safetensors", "pytorch_model.bin") if (folder / name).is_file()]
    if weights:
        raise SinkdError(f"--output_dir {folder} holds a model ({weights[0]}); choose a folder for the export alone")
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for name in FILES:
            (folder / name).unlink(missing_ok=True)


def _batches(family: Encoder, most: int | None, args: TaskArguments) -> Splits:
    """Batches of each dev split; without a task, the built-in sentences together and one at a time."""
    collate = family.collator
    if family.task is None:
        length = min(args.max_seq_length, most or LONGEST)
        rows = [{**family.tokenizer(text, truncation=True, max_length=length)} for text in SENTENCES]
        return {"": [collate(rows), *(collate([row]) for row in rows)]}
    size = args.per_device_eval_batch_size
    family.refuse_long_rows(most, *family.dev.values())
    return {split: list(DataLoader(rows, size, collate_fn=collate)) for split, rows in family.dev.items()}


def _ask(name: str, megabytes: float, logits: Callable[[Batch], np.ndarray], splits: Splits) -> Answers:
    logits(next(iter(splits.values()))[0])  # warm-up
    started = time.perf_counter()
    found = {split: np.concatenate([logits(batch) for batch in batches]) for split, batches in splits.items()}
    return Answers(name, megabytes, found, time.perf_counter() - started)


def _ask_onnx(name: str, file: Path, splits: Splits) -> Answers:
    size = sum(path.stat().st_size for path in file.parent.glob(f"{file.name}*")) / 1e6  # including separate weights
    return _ask(name, size, OnnxModel(file).logits, splits)


def _difference(one: Answers, other: Answers) -> float:
    return max(float(np.abs(logits - other.logits[split]).max()) for split, logits in one.logits.items())


def _need_same(here: Answers, there: Answers, file: Path) -> None:
    """Rename the file and raise RuntimeError if its answers differ from the model's."""
    largest = max(float(np.abs(logits).max()) for logits in here.logits.values())
    difference = _difference(here, there)
    if not difference <= TOLERANCE * max(1.0, largest):
        wrong = shutil.move(file, file.with_suffix(".wrong"))
        raise RuntimeError(
            f"the logits of the exported model differ from the PyTorch model's by up to {difference:.2g}, where the "
            f"largest is {largest:.2g}; it is kept as {wrong}"
        )


def _table(title: str, answers: Sequence[Answers], scores: Sequence[Scores]) -> Table:
    table = Table(title, ["", "MB", "rows/s", *scores[0], "same answers", "largest difference"])
    here = np.concatenate([*answers[0].logits.values()])
    for found, scored in zip(answers, scores, strict=True):
        there = np.concatenate([*found.logits.values()])
        is_score = here.shape[1] == 1
        same = np.round(there, 2) == np.round(here, 2) if is_score else there.argmax(1) == here.argmax(1)
        table.add(
            found.name,
            f"{found.megabytes:.2f}",
            f"{len(here) / found.seconds:,.0f}",
            *(f"{value:.4f}" for value in scored.values()),
            f"{same.sum()} of {len(here)}",
            f"{_difference(answers[0], found):.1e}",
        )
    return table
