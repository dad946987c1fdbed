"""A folder belongs to one run, which starts, resumes, is returned or refused; it has the documented content."""

import hashlib
import json
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification, AutoTokenizer

from sinkd import DistillationArguments, SinkdError
from sinkd.errors import Terminated
from sinkd.models.seal import SEAL
from sinkd.tasks import load_task
from sinkd.training.arguments import FinetuneArguments
from sinkd.training.inference import Model, megabytes, parameters
from sinkd.training.manifest import read_manifest
from sinkd.training.outcome import Outcome, Summary, read_outcome
from sinkd.training.run import distill, finetune
from sinkd.training.settings import resolve_settings
from sinkd.training.trainer import TaskTrainer
from small_encoders import write_encoder
from small_families import CONFIGS


@pytest.fixture(scope="module")
def start(world, taught):
    """Distils into a folder, as the command does."""

    def start(folder: Path, *flags: object) -> Summary:
        paths = ["--teacher_path", taught, "--student_path", world.student]
        args = resolve_settings(DistillationArguments, world.flags(folder, *paths, *flags), "test")
        return distill(args, load_task("cola", args.data_dir))

    return start


@pytest.fixture(scope="module")
def teach(world):
    """Trains on labels into a folder; `replaced` are attributes of the task to change."""

    def teach(folder: Path, *flags: object, **replaced: object) -> Outcome:
        task = load_task("cola", world.data)
        for name, value in replaced.items():
            object.__setattr__(task, name, value)
        return finetune(resolve_settings(FinetuneArguments, world.flags(folder, *flags), "test"), task).outcomes[0]

    return teach


SINKHORN = ["--distill_loss", "kd+sinkhorn", "--num_train_epochs", "2", "--logging_steps", "5"]


@pytest.fixture(scope="module")
def finished(start, tmp_path_factory):
    """A finished run, which tests must not change."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    summary = start(folder, *SINKHORN)
    return folder, summary.outcomes[0]


@pytest.fixture
def copied(finished, tmp_path):
    """A copy of a finished run's folder, which tests may change."""
    shutil.copytree(finished[0], tmp_path / "run")
    return tmp_path / "run"


def content(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.fixture
def no_training(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("training began")

    monkeypatch.setattr(TaskTrainer, "train", refuse)


# What a folder holds


def test_the_folder_contains_the_model_its_tokenizer_and_its_manifest(finished):
    folder, _ = finished
    names = {path.name for path in folder.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "metrics.json", "manifest.json", "runs"} <= names
    assert not names & {"best", ".writing", "training_args.bin"}
    assert [p.name for p in sorted(folder.glob("checkpoint-*"))] == ["checkpoint-10", "checkpoint-20"]


def test_metrics_json_has_the_documented_content(finished):
    folder, outcome = finished
    metrics = json.loads((folder / "metrics.json").read_text())
    assert {"task", "metric", "best", "final", "history", "seconds", "samples_per_second"} <= metrics.keys()
    assert (metrics["task"], metrics["metric"], metrics["seed"]) == ("glue/cola", "mcc", 0)
    assert [(entry["step"], entry["epoch"]) for entry in metrics["history"]] == [(10, 1.0), (20, 2.0)]
    assert metrics["best"] == max(entry["mcc"] for entry in metrics["history"])
    assert metrics["final"] == metrics["history"][-1]["mcc"]
    assert metrics["scores"].keys() == {"mcc", "accuracy"}
    assert metrics["seconds"] > 0 and metrics["samples_per_second"] > 0
    assert read_outcome(folder) == outcome


def test_manifest_json_has_the_documented_content(finished, world):
    folder, _ = finished
    manifest = json.loads((folder / "manifest.json").read_text())
    assert {"argv", "config", "versions", "seed", "inputs", "world_size"} <= manifest.keys()
    assert (manifest["seed"], manifest["world_size"]) == (0, 1)
    assert manifest["config"]["distill_loss"] == "kd+sinkhorn"
    assert {"python", "sinkd", "torch", "transformers"} <= manifest["versions"].keys()
    inputs = manifest["inputs"]
    assert {"train file", "dev file", "teacher", "starting model", "tokenizer"} == inputs.keys()
    train = load_task("cola", world.data).files["train"]
    assert inputs["train file"] == hashlib.sha256(train.read_bytes()).hexdigest()


def test_tensorboard_holds_each_part_and_the_transports_figures(finished):
    folder, _ = finished
    (events,) = (folder / "runs").rglob("events.out.tfevents.*")
    log = EventAccumulator(str(events))
    log.Reload()
    names = set(log.Tags()["scalars"])
    parts = {f"train/parts/{name}" for name in ("ce", "kd", "sinkhorn")}
    figures = {"train/sinkhorn/marginal_error", "train/sinkhorn/curvature", "train/rows_per_second", "train/loss"}
    assert parts | figures | {"eval/mcc", "eval/accuracy"} <= names
    assert [event.step for event in log.Scalars("train/parts/kd")] == [5, 10, 15, 20]


# The same run again, and another one


def test_the_same_command_returns_a_finished_run_without_training(start, copied, no_training, finished):
    before = content(copied)
    again = start(copied, *SINKHORN).outcomes[0]
    assert (again.best, again.history) == (finished[1].best, finished[1].history)
    assert content(copied) == before


def test_a_run_that_was_killed_before_its_metrics_is_finished_without_training(start, copied, finished):
    best = copied / "best"
    best.mkdir()
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        shutil.copy(copied / name, best)
    (copied / "metrics.json").unlink()
    weights = (copied / "model.safetensors").read_bytes()
    (copied / "model.safetensors").write_bytes(b"half a mod")
    (copied / ".writing" / "checkpoint-20").mkdir(parents=True)
    outcome = start(copied, *SINKHORN).outcomes[0]
    assert (outcome.best, outcome.history) == (finished[1].best, finished[1].history)
    assert (copied / "model.safetensors").read_bytes() == weights
    assert not best.exists() and not (copied / ".writing").exists()


def test_the_best_model_is_kept_until_its_score_is_written(start, tmp_path, monkeypatch):
    def killed(path, text):
        raise KeyboardInterrupt

    monkeypatch.setattr("sinkd.training.run.write_text", killed)
    with pytest.raises(KeyboardInterrupt):
        start(tmp_path / "run", *SINKHORN, "--num_train_epochs", "1")
    assert (tmp_path / "run" / "best" / "model.safetensors").is_file()


@pytest.mark.parametrize(
    ("flags", "difference"),
    [
        (["--alpha", "0.5"], "alpha was 0.8 and is 0.5"),
        (["--seed", "1"], "seed was 0 and is 1"),
        (["--num_train_epochs", "3"], "num_train_epochs was 2.0 and is 3.0"),
        (["--max_train_rows", "100"], "max_train_rows was None and is 100"),
        (["--sinkhorn_cost", "l1"], "sinkhorn_cost was 'lorentz' and is 'l1'"),
    ],
)
def test_another_run_is_refused_with_the_difference(start, copied, no_training, flags, difference):
    before = content(copied)
    with pytest.raises(SinkdError, match="holds another run") as caught:
        start(copied, *SINKHORN, *flags)
    assert difference in str(caught.value)
    assert "choose another folder, or --overwrite" in str(caught.value)
    assert content(copied) == before


def test_other_data_and_other_models_are_another_run(start, copied, no_training, world, taught, tmp_path):
    data = tmp_path / "glue"
    shutil.copytree(world.data, data)
    train = data / "CoLA" / "train.tsv"
    train.write_text("\n".join(train.read_text().splitlines()[:-1]) + "\n")
    with pytest.raises(SinkdError, match="train file was"):
        start(copied, *SINKHORN, "--data_dir", data)
    with pytest.raises(SinkdError, match="teacher was"):
        changed = tmp_path / "teacher"
        shutil.copytree(taught, changed)
        model = AutoModelForSequenceClassification.from_pretrained(changed)
        model.classifier.bias.data += 1
        model.save_pretrained(changed)
        (changed / SEAL).unlink()
        start(copied, *SINKHORN, "--teacher_path", changed)
    with pytest.raises(SinkdError, match="starting model was"):
        tokenizer = AutoTokenizer.from_pretrained(taught)
        other = write_encoder(tmp_path / "student", tokenizer, layers=1, width=16, heads=2, seed=9)
        start(copied, *SINKHORN, "--student_path", other)


def test_the_location_of_data_and_models_does_not_change_the_run(start, copied, no_training, world, taught, tmp_path):
    shutil.copytree(world.data, tmp_path / "elsewhere")
    shutil.copytree(taught, tmp_path / "moved")
    flags = ["--data_dir", tmp_path / "elsewhere", "--teacher_path", tmp_path / "moved", "--logging_steps", 1]
    start(copied, *SINKHORN[:-2], *flags)


def test_overwrite_replaces_a_run_and_removes_nothing_foreign(start, copied):
    (copied / "notes.txt").write_text("mine")
    (copied / "checkpoint-mine").mkdir()
    (copied / "checkpoint-mine" / "keep").write_text("mine")
    summary = start(copied, *SINKHORN, "--num_train_epochs", "1", "--overwrite")
    assert len(summary.outcomes[0].history) == 1
    assert (copied / "notes.txt").read_text() == (copied / "checkpoint-mine" / "keep").read_text() == "mine"
    assert [p.name for p in copied.glob("checkpoint-[0-9]*")] == ["checkpoint-10"]
    assert len(list((copied / "runs").rglob("events*"))) == 1
    assert read_manifest(copied).config["num_train_epochs"] == 1.0


@pytest.mark.parametrize("overwrite", [[], ["--overwrite"]])
@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        ({"runs/marathon": "3:59"}, "is not empty and holds no run"),
        ({"manifest.json": '{"name": "a web page"}', "model.safetensors": "mine"}, "is no manifest of this version"),
        ({"manifest.json": "{}"}, "is no manifest of this version"),
    ],
)
def test_a_folder_that_is_no_runs_is_left_alone(start, tmp_path, no_training, overwrite, files, sentence):
    home = tmp_path / "home"
    for name, text in files.items():
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text(text)
    before = content(home)
    with pytest.raises(SinkdError, match=sentence):
        start(home, *SINKHORN, *overwrite)
    assert content(home) == before


def test_a_manifest_left_incomplete_by_a_kill_does_not_block_a_run(start, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / ".manifest.json.4711").write_text('{"arg')
    assert len(start(folder, "--max_steps", "1").outcomes) == 1


def test_layers_to_copy_without_copying_are_refused(start, tmp_path, no_training):
    with pytest.raises(SinkdError, match="give --student_init copy with it"):
        start(tmp_path / "run", *SINKHORN, "--copy_layers", "spaced")


def test_sigterm_in_the_last_step_of_a_seed_stops_those_that_follow(start, tmp_path, monkeypatch):
    evaluate = TaskTrainer.evaluate

    def interrupted(trainer, *args, **kwargs):
        signal.raise_signal(signal.SIGTERM)
        return evaluate(trainer, *args, **kwargs)

    monkeypatch.setattr(TaskTrainer, "evaluate", interrupted)
    flags = [*SINKHORN, "--num_train_epochs", "1", "--seeds", "0,1"]
    with pytest.raises(Terminated, match="seed-0 is finished"):
        start(tmp_path / "run", *flags)
    assert (tmp_path / "run" / "seed-0" / "metrics.json").is_file() and not (tmp_path / "run" / "seed-1").exists()
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_a_run_does_not_write_over_the_models_it_starts_from(start, taught, no_training):
    before = (taught / "model.safetensors").read_bytes()
    with pytest.raises(SinkdError, match="--output_dir and --teacher_path are the same folder"):
        start(taught, *SINKHORN, "--overwrite")
    assert (taught / "model.safetensors").read_bytes() == before


# Seeds and protocols


def test_seeds_repeat_the_run_and_report_mean_and_spread(start, tmp_path, finished):
    folder = tmp_path / "run"
    summary = start(folder, *SINKHORN, "--seeds", "1,0")
    best = [outcome.best for outcome in summary.outcomes]
    assert [outcome.seed for outcome in summary.outcomes] == [1, 0]
    assert [Path(outcome.folder) for outcome in summary.outcomes] == [folder / "seed-1", folder / "seed-0"]
    assert (summary.mean, summary.spread) == pytest.approx((np.mean(best), np.std(best, ddof=1)))
    written = json.loads((folder / "metrics.json").read_text())
    assert (written["mean"], written["spread"]) == (summary.mean, summary.spread)
    places = (folder / "seed-1", folder / "seed-0", finished[0])
    weights = [(place / "model.safetensors").read_bytes() for place in places]
    assert weights[0] != weights[1] == weights[2], "a seed among several ends as it does alone"


def test_more_seeds_go_on_from_fewer(start, tmp_path):
    flags = ["--distill_loss", "ce", "--max_steps", "2"]
    first = start(tmp_path / "run", *flags, "--seeds", "0").outcomes[0]
    assert start(tmp_path / "run", *flags, "--seeds", "0,1").outcomes[0] == first


def test_seeds_do_not_write_over_a_run_of_one_seed(start, copied, no_training):
    before = content(copied)
    with pytest.raises(SinkdError, match="holds a run of one seed"):
        start(copied, *SINKHORN, "--seeds", "0,1")
    assert content(copied) == before


@pytest.mark.parametrize(
    ("flags", "steps"),
    [
        (["--per_gpu_batch_size", "14", "--protocol", "published"], [5, 10, 15, 20, 24]),
        (["--max_steps", "7"], [7]),  # a short run is evaluated at its end
    ],
)
def test_a_run_is_evaluated_on_time_and_reports_the_maximum(start, tmp_path, flags, steps):
    outcome = start(tmp_path / "run", *SINKHORN, *flags).outcomes[0]
    assert [entry["step"] for entry in outcome.history] == steps
    assert outcome.best == max(entry["mcc"] for entry in outcome.history)
    assert (tmp_path / "run" / f"checkpoint-{steps[-1]}").is_dir()


def test_the_published_protocol_evaluates_teachers_every_twenty_steps(teach, world, tmp_path):
    flags = ["--model_path", world.student, "--per_gpu_batch_size", 4, "--protocol", "published"]
    history = teach(tmp_path / "run", *flags).history
    assert [entry["step"] for entry in history] == [20, 40]


def test_without_evaluation_the_last_model_is_kept_and_scored(start, tmp_path):
    outcome = start(tmp_path / "run", "--max_steps", "2", "--eval_strategy", "no", "--save_strategy", "no").outcomes[0]
    assert outcome.best == outcome.final
    assert (tmp_path / "run" / "model.safetensors").is_file()
    assert not list((tmp_path / "run").glob("checkpoint-*"))


# The trained model at work


@pytest.fixture(scope="module")
def loaded(finished, world):
    folder, _ = finished
    args = resolve_settings(FinetuneArguments, world.flags(folder), "test")
    return Model.load(str(folder), load_task("cola", world.data), args)


def test_evaluation_gives_the_best_score_of_the_training_run(finished, loaded):
    _, outcome = finished
    scores = loaded.scores()
    assert {name: scores[name] for name in outcome.scores} == outcome.scores
    assert outcome.scores["mcc"] == outcome.best


def test_size_of_a_model(finished, loaded):
    count = sum(parameter.numel() for parameter in loaded.trainer.model.parameters())
    assert parameters(finished[0]) == count
    assert megabytes(finished[0]) == pytest.approx(4 * count / 1e6, rel=0.1)


def test_the_best_model_is_kept_not_the_last(teach, taught, tmp_path):
    # A learning rate that destroys the model after a good start: the last evaluation is worse than the best.
    scores = iter([0.3, 0.9, 0.1])
    flags = ["--model_path", taught, "--learning_rate", 0.5, "--num_train_epochs", 3]
    outcome = teach(tmp_path / "run", *flags, scorer=lambda said, labels, index: {"mcc": next(scores)})
    assert (outcome.best, outcome.final) == (0.9, 0.1)
    weights = (tmp_path / "run" / "model.safetensors").read_bytes()
    saved = {p.name: (p / "model.safetensors").read_bytes() for p in (tmp_path / "run").glob("checkpoint-*")}
    assert [name for name, value in saved.items() if value == weights] == ["checkpoint-20"]


# Families


@pytest.mark.parametrize("name", ["distilbert", "roberta"])
def test_a_student_may_be_of_another_family_with_the_teachers_vocabulary(name, start, taught, tmp_path):
    # The teacher's tokenizer gives segment ids, which not every family takes.
    tokenizer = AutoTokenizer.from_pretrained(taught)
    ids = {f"{which}_token_id": getattr(tokenizer, f"{which}_token_id") for which in ("pad", "cls", "sep")}
    sizes = CONFIGS[name] | ids | {"vocab_size": len(tokenizer), "max_position_embeddings": 130}
    AutoModel.from_config(AutoConfig.for_model(name, **sizes)).save_pretrained(tmp_path / "student")
    flags = ["--distill_loss", "kd+sinkhorn", "--max_steps", "3"]
    more = ["--student_path", tmp_path / "student", "--keep_layers", "1"]
    outcome = start(tmp_path / "run", *flags, *more).outcomes[0]
    assert len(outcome.history) == 1
    trained = AutoModelForSequenceClassification.from_pretrained(tmp_path / "run")
    assert trained.config.model_type == name
    # And it may teach in turn.
    start(tmp_path / "next", *flags, "--teacher_path", tmp_path / "run")


def test_a_run_shorter_than_its_logging_steps_logs_its_parts_and_evaluation_slows_no_rows(start, tmp_path, monkeypatch):
    evaluate = TaskTrainer.answers
    monkeypatch.setattr(TaskTrainer, "answers", lambda self, rows: time.sleep(2) or evaluate(self, rows))
    flags = ["--distill_loss", "kd+sinkhorn", "--max_steps", "6", "--eval_strategy", "steps", "--eval_steps", "2"]
    start(tmp_path / "run", *flags, "--logging_steps", "500")
    events = EventAccumulator(str(next((tmp_path / "run" / "runs").rglob("events*")).parent)).Reload()
    scalars = {name: events.Scalars(name)[-1].value for name in events.Tags()["scalars"]}
    assert {"train/parts/ce", "train/parts/kd", "train/parts/sinkhorn"} <= set(scalars)
    assert scalars["train/rows_per_second"] > 6 * 16 / 4  # four of the six seconds that evaluations waited
