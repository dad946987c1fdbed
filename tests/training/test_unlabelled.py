"""Students of tables without labels: the teacher's answers alone, and evaluation only where there are dev labels."""

import csv
import json
import signal
from pathlib import Path

import pytest
from transformers import TrainerCallback

from sinkd import DistillationArguments
from sinkd.cli.command import load_named_task
from sinkd.cli.main import main
from sinkd.errors import Terminated
from sinkd.tasks import load_task
from sinkd.training.run import distill
from sinkd.training.settings import resolve_settings

LABELS = ["--labels", "unacceptable,acceptable"]


@pytest.fixture(scope="module")
def tables(world, tmp_path_factory) -> Path:
    """CoLA's rows as a user may have them: labelled tables, the training text alone, and the same as plain lines."""
    folder = tmp_path_factory.mktemp("tables")
    task = load_task("cola", world.data)
    for split in ("train", "dev"):
        rows = task.read(split)
        with (folder / f"{split}.csv").open("w", newline="", encoding="utf-8") as file:
            words = (task.labels[label] for label in rows["label"])
            csv.writer(file).writerows([("text", "verdict"), *zip(rows["text"], words, strict=True)])
        with (folder / f"{split}-text.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([("text",), *((text,) for text in rows["text"])])
        (folder / f"{split}.txt").write_text("".join(f"{text}\n" for text in rows["text"]), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def flags(world, taught):
    """A command line without data: two epochs of ten steps."""

    def flags(folder: Path, *more: object) -> list[str]:
        paths = ["--teacher_path", taught, "--student_path", world.student, "--output_dir", folder]
        common = ["--num_train_epochs", 2, "--per_gpu_batch_size", 16, "--learning_rate", 1e-3, "--report_to", "none"]
        return [str(part) for part in (*paths, *common, "--text_columns", "text", *more)]

    return flags


@pytest.fixture(scope="module")
def unevaluated(flags, tables, tmp_path_factory) -> Path:
    """A finished run on text alone."""
    folder = tmp_path_factory.mktemp("unevaluated") / "run"
    assert main(["distill", *flags(folder, "--train_file", tables / "train-text.csv", *LABELS)]) == 0
    return folder


def weights(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


def test_the_last_model_is_kept_and_the_card_says_that_nothing_was_evaluated(unevaluated):
    metrics = json.loads((unevaluated / "metrics.json").read_text())
    assert (metrics["best"], metrics["final"], metrics["scores"], metrics["history"]) == (None, None, {}, [])
    assert weights(unevaluated) == weights(unevaluated / "checkpoint-20") != weights(unevaluated / "checkpoint-10")
    card = (unevaluated / "README.md").read_text()
    assert "Nothing was evaluated, since there was no dev set." in card and "| dev set" not in card
    assert "| objective | `kd:0.8` |" in card and "It answers with unacceptable, acceptable." in card
    assert "eval_results" not in card and "model-index" not in card


def test_log_and_table_say_what_is_missing(flags, tables, tmp_path, capsys, caplog):
    more = ["--train_file", tables / "train-text.csv", *LABELS, "--seeds", "0,1", "--max_steps", 2]
    with caplog.at_level("INFO", "sinkd"):
        assert main(["distill", *flags(tmp_path / "run", *more)]) == 0
    said = [record.message for record in caplog.records if "label" in record.message]
    assert said == ["no training row has a label: without ce the objective is kd:0.8"]
    shown = capsys.readouterr()
    assert f"nothing was evaluated, since there is no dev set; in {tmp_path / 'run'}\n" in shown.out
    assert "kd, seed 1: epoch 0.2 of 1\n" in shown.err


@pytest.mark.parametrize(
    "data",
    [
        ["--train_file", "train-text.csv", "--dev_file", "dev.csv", "--label_column", "verdict", *LABELS],
        ["--unlabeled_file", "train.txt", "--dev_file", "dev.csv", "--label_column", "verdict", *LABELS],
    ],
    ids=["table", "text"],
)
def test_the_same_text_gives_the_same_model_wherever_it_is_and_dev_labels_are_scored(
    flags, tables, unevaluated, tmp_path, data
):
    files = [tables / word if (tables / word).is_file() else word for word in data]
    assert main(["distill", *flags(tmp_path / "run", *files)]) == 0
    assert weights(tmp_path / "run" / "checkpoint-20") == weights(unevaluated)
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert [entry["step"] for entry in metrics["history"]] == [10, 20]


class StopAt(TrainerCallback):
    """Sends this process a signal at a step."""

    def __init__(self, step: int, number: int):
        self.step, self.number = step, number

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            signal.raise_signal(self.number)


def test_a_stopped_run_resumes_to_the_same_weights(flags, tables, unevaluated, tmp_path):
    def start(*callbacks):
        line = flags(tmp_path / "run", "--train_file", tables / "train-text.csv", *LABELS)
        args = resolve_settings(DistillationArguments, line, "test")
        return distill(args, load_named_task(args), callbacks)

    with pytest.raises(KeyboardInterrupt, match="run/checkpoint-7 is kept, and the same command goes on from there"):
        start(StopAt(6, signal.SIGINT))
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    with pytest.raises(Terminated):
        start(StopAt(12, signal.SIGTERM))
    (outcome,) = start().outcomes
    assert outcome.best is None
    assert weights(tmp_path / "run") == weights(unevaluated)


def test_scores_need_no_labels_either(flags, tables, world, tmp_path):
    """A labelled table without a dev file trains the teacher, whose student sees text alone."""
    with (tables / "scores.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("text", "score"), *((f"the dog sees {i} cats", i / 7) for i in range(32))])
    kind = ["--table_kind", "regression", "--text_columns", "text", "--max_steps", "2", "--report_to", "none"]
    teach = ["--train_file", tables / "scores.csv", "--label_column", "score", "--model_path", world.teacher]
    assert main(["finetune", *kind, *map(str, teach), "--output_dir", str(tmp_path / "teacher")]) == 0
    line = flags(tmp_path / "run", *kind, "--unlabeled_file", tables / "train.txt", "--teacher_path")
    assert main(["distill", *line, str(tmp_path / "teacher"), "--distill_loss", "kd+sinkhorn"]) == 0
    for run in ("teacher", "run"):
        assert json.loads((tmp_path / run / "metrics.json").read_text())["best"] is None
        assert json.loads((tmp_path / run / "config.json").read_text())["problem_type"] == "regression"


def test_cache_teacher_needs_no_labels(flags, tables, tmp_path, capsys):
    more = ["--unlabeled_file", tables / "dev.txt", *LABELS, "--teacher_cache_dir", tmp_path / "cache"]
    assert main(["cache-teacher", *flags(tmp_path / "run", *more)]) == 0
    assert capsys.readouterr().out.startswith("64 answers of ")


@pytest.mark.parametrize(
    ("command", "more", "sentence"),
    [
        (
            "distill",
            ["--distill_loss", "ce"],
            "the objective ce:1 learns from hard labels, and no training row has one",
        ),
        ("finetune", [], "has no training rows with labels, and sinkd finetune learns from nothing else"),
        ("evaluate", [], "has no dev set; sinkd predict writes its answers"),
    ],
)
def test_what_needs_labels_is_refused_in_one_sentence(flags, tables, world, tmp_path, refusal, command, more, sentence):
    line = ["--train_file", str(tables / "train-text.csv"), *LABELS]
    if command == "distill":
        line = flags(tmp_path / "run", *line, *more)
    else:
        line += ["--text_columns", "text", "--model_path", str(world.student), "--output_dir", str(tmp_path / "run")]
    assert sentence in refusal(command, *line)
    assert not (tmp_path / "run").exists()


def test_a_run_without_any_text_is_refused(flags, tables, tmp_path, refusal):
    line = flags(tmp_path / "run", "--dev_file", tables / "dev.csv", "--label_column", "verdict", *LABELS)
    for command in ("distill", "cache-teacher"):
        assert "has no train file; give text to train on by --unlabeled_file" in refusal(command, *line)
