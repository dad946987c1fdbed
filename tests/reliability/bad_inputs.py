"""Bad inputs: files, settings and models as people bring them, each with the command that meets it."""

import bz2
import gzip
import io
import json
import pickle
import shlex
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors.torch import load, save

GOOD = "text,label\na good film,yes\na bad film,no\n"
FINETUNE = "finetune --model_path S --text_columns text --label_column label --output_dir run"
DISTILL = "distill --teacher_path T --student_path S --task_name cola --data_dir glue --output_dir run"
EVALUATE = "evaluate --task_name cola --data_dir glue --model_path"
PROMPT = f"{DISTILL.replace('--teacher_path T', '--teacher_url http://localhost:1 --teacher_model m')} --teacher_prompt"


@dataclass(frozen=True)
class Input:
    """Files in a folder, and a command that runs there; S and T are a small student and its fine-tuned teacher.

    Attributes:
        command: The command line.
        files: Name -> content.
        changed: File of the teacher -> its new content from the old one; no checksums lie beside a changed teacher.
        sealed: Leave the teacher's checksums beside it.
    """

    command: str
    files: Mapping[str, str | bytes] = field(default_factory=dict)
    changed: Mapping[str, Callable[[bytes], bytes]] = field(default_factory=dict)
    sealed: bool = False

    @property
    def argv(self) -> list[str]:
        return shlex.split(self.command)

    def write(self, folder: Path) -> None:
        """Write the files into a folder where S and T are."""
        for name, content in self.files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
        if self.changed and not self.sealed:
            (folder / "T" / "checksums.json").unlink()
        for name, change in self.changed.items():
            path = folder / "T" / name
            path.write_bytes(change(path.read_bytes()))


def table(content: str | bytes, flags: str = "", name: str = "rows.csv") -> Input:
    """A training table."""
    return Input(f"{FINETUNE} --train_file {name} {flags}", {name: content})


def objects(*rows: object) -> Input:
    """A training table of JSON lines, after two good rows."""
    good = [{"text": "a good film", "label": "yes"}, {"text": "a bad film", "label": "no"}]
    lines = [row if isinstance(row, str) else json.dumps(row) for row in (*good, *rows)]
    return table("\n".join(lines), name="rows.jsonl")


def labels(*words: str, flags: str = "") -> Input:
    """A training table with these labels."""
    rows = "".join(f'film {number},"{word}"\n' for number, word in enumerate(words))
    return table(f"text,label\n{rows}", flags)


def settings(content: str | bytes) -> Input:
    """The file of `--config`."""
    return Input(f"{FINETUNE} --train_file rows.csv --config own.yaml", {"own.yaml": content, "rows.csv": GOOD})


def sweep(content: str) -> Input:
    """The file of `sinkd sweep`."""
    return Input("sweep --config sweep.yaml --output_dir run", {"sweep.yaml": content})


def teacher(name: str, change: Callable[[bytes], bytes], sealed: bool = False) -> Input:
    """A model with a changed file."""
    return Input(f"{EVALUATE} T", {}, {name: change}, sealed)


def zipped(**members: str) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as written:
        for name, content in members.items():
            written.writestr(name.replace("_", "/"), content)
    return file.getvalue()


def saved(write: Callable[..., None], *values: object) -> bytes:
    file = io.BytesIO()
    write(file, *values)
    return file.getvalue()


def arrow() -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, pa.schema([("text", pa.string())])):
        pass
    return sink.getvalue().to_pybytes()


def parquet(**columns: list[object]) -> bytes:
    return saved(lambda file: pq.write_table(pa.table(columns), file))


def wider(weights: bytes) -> bytes:
    return save(load(weights) | {"classifier.weight": torch.zeros(2, 7)}, metadata={"format": "pt"})


def renumbered(tokenizer: bytes) -> bytes:
    content = json.loads(tokenizer)
    content["model"]["vocab"] = dict.fromkeys(content["model"]["vocab"], 9999)
    return json.dumps(content).encode()


def config(**changes: object) -> Callable[[bytes], bytes]:
    return lambda content: json.dumps(json.loads(content) | changes).encode()


FILES = {
    "an Excel workbook": table(zipped(xl_workbook="x")),
    "a pre-2007 Excel workbook": table(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(99)),
    "a ZIP archive": table(zipped(rows=GOOD)),
    "an Excel workbook in a gzip file": table(gzip.compress(zipped(xl_workbook="x"))),
    "a bzip2 archive": table(bz2.compress(GOOD.encode()), name="rows.csv.bz2"),
    "a NumPy array": table(saved(np.save, np.zeros(3))),
    "a NumPy archive": table(saved(np.savez, np.zeros(3))),
    "a pickle": table(pickle.dumps([1])),
    "an Arrow file": table(arrow()),
    "a Parquet file of another name": table(parquet(text=["a"])),
    "a damaged Parquet file": table(parquet(text=["a"])[:-20], name="rows.parquet"),
    "an SQLite database": table(b"SQLite format 3\0" + bytes(99)),
    "a pointer of Git LFS": table("version https://git-lfs.github.com/spec/v1\noid sha256:12"),
    "a web page": table("<!DOCTYPE html>\n<html>"),
    "UTF-16 without byte order mark": table(GOOD.encode("utf-16-le")),
    "truncated UTF-16": table(b"\xff\xfea"),
    "Latin-1": table("text,label\nun café,oui\n".encode("latin-1")),
    "an encoding that does not exist": table(GOOD, "--encoding latin-x"),
    "a truncated gzip file": table(gzip.compress(GOOD.encode())[:-9]),
    "no file": Input(f"{FINETUNE} --train_file rows.csv"),
    "an empty file": table(""),
    "a header alone": table("text,label\n"),
    "a header without a needed column": table("sentence,label\na,yes\n"),
    "a header that names a column twice": table("text,label,text\na,yes,b\n"),
    "the labels' column among the texts": table(GOOD, "--text_columns text,label"),
    "names of columns without a needed one": table(GOOD, "--column_names text,stars"),
}
ROWS = {
    "a quote that is never closed": table(f'{GOOD}"a film,yes\n'),
    "a row with a column too many": table(f"{GOOD}a film, really,yes\n"),
    "two files in one": table(GOOD + GOOD),
    "a row without text": table(f"{GOOD} ,yes\n"),
    "a JSON array instead of JSON lines": objects([{"text": "a", "label": "yes"}]),
    "a line of broken JSON": objects('{"text": "a film", "label": }'),
    "a key twice in one object": objects('{"text": "a film", "label": "yes", "label": "no"}'),
    "a number for text": objects({"text": 7, "label": "yes"}),
    "half a surrogate pair": objects('{"text": "a film \\ud83d", "label": "yes"}'),
    "an object without its label": objects({"text": "a film"}),
    "a list of labels": objects({"text": "a film", "label": ["funny", "sad"]}),
    "several labels in one cell": labels("funny", "sad", "funny;sad"),
    "a one-hot label": table(parquet(text=["a", "b"], label=[[0, 1], [1, 0]]), name="rows.parquet"),
    "an object as label": objects({"text": "a film", "label": {"name": "yes"}}),
    "a label that is missing": labels("yes", "no", "N/A"),
    "a word among scores": labels("1.5", "2.5", "many"),
    "scores with decimal commas": labels("1,5", "2,5", "3"),
    "scores with percent signs": labels("10%", "25%", "5%"),
    "a score that is not finite": labels("1.5", "inf", "2", flags="--table_kind regression"),
    "one class": labels("yes", "yes"),
    "a class that --labels does not name": labels("yes", "no", flags="--labels yes,maybe"),
    "a dev label that training never saw": Input(
        f"{FINETUNE} --train_file rows.csv --dev_file dev.csv", {"rows.csv": GOOD, "dev.csv": "text,label\na,maybe\n"}
    ),
}
SETTINGS = {
    "a settings file that is not YAML": settings("learning_rate: [1"),
    "settings that are a list": settings("- learning_rate"),
    "a misspelt key": settings("learnin_rate: 1e-4"),
    "a word for a number": settings("learning_rate: fast"),
    "a setting that is not finite": settings("adam_beta2: .inf"),
    "a misspelt flag": Input(f"{DISTILL} --distil_loss kd"),
    "a misspelt objective": Input(f"{DISTILL} --distill_loss kd+sinkhron"),
    "a sweep without tasks": sweep("objectives: [kd]"),
    "a sweep of a seed that is no number": sweep("{tasks: [cola], objectives: [kd], seeds: [one]}"),
    "a prompt that is no template": Input(f"{PROMPT} '{{{{sentence' --teacher_answers 'no ||| yes'"),
    "a prompt that reads another column": Input(f"{PROMPT} '{{{{review}}}}' --teacher_answers 'no ||| yes'"),
    "templates that are no templates": Input(
        "prompts --task_name superglue/copa --templates_dir .", {"templates.yaml": "templates: [first]"}
    ),
}
MODELS = {
    "a folder without a model": Input(f"{EVALUATE} glue"),
    "a truncated config": teacher("config.json", lambda content: content[:100]),
    "a tokenizer with a changed byte": teacher("tokenizer.json", lambda text: text.replace(b"WordPiece", b"WordPeace")),
    "a tokenizer of another model": teacher("tokenizer.json", renumbered),
    "labels of another task": teacher("config.json", config(id2label={"0": "contradiction", "1": "entailment"})),
    "weights of another shape": teacher("model.safetensors", wider),
    "truncated weights": teacher("model.safetensors", lambda weights: weights[:-4]),
    "weights with a changed bit": teacher("model.safetensors", lambda w: w[:-9] + bytes([w[-9] ^ 1]) + w[-8:], True),
}
INPUTS = FILES | ROWS | SETTINGS | MODELS
