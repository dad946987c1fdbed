"""The card in a run's folder describes the run and its results, and contains no secret."""

import json
import re
import shutil

import pytest
from huggingface_hub import ModelCard

from sinkd import DistillationArguments
from sinkd.cli.main import main
from sinkd.exchange.card import licence_of, shown_command
from sinkd.models import family_of
from sinkd.tasks import load_task
from sinkd.training.arguments import FinetuneArguments
from sinkd.training.ensemble import Ensemble
from sinkd.training.inference import teacher_scores
from sinkd.training.manifest import describe
from sinkd.training.settings import resolve_settings
from sinkd.training.teacher import Teacher


@pytest.fixture(scope="module")
def start(world, tmp_path_factory):
    """The student that the runs start from, with a card that tells its licence."""
    folder = tmp_path_factory.mktemp("start") / "student"
    shutil.copytree(world.student, folder)
    (folder / "README.md").write_text("---\nlicense: mit\n---\nA model.\n")
    return folder


@pytest.fixture(scope="module")
def distilled(world, taught, start, tmp_path_factory, request):
    """A finished distillation."""
    folder = tmp_path_factory.mktemp("distilled") / "run"
    flags = ["--teacher_path", taught, "--student_path", start, "--distill_loss", "kd+sinkhorn", "--curvature", "0.5"]
    argv = ["distill", *map(str, world.flags(folder, *flags)), "--hub_token", "hf_secret"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["/usr/bin/sinkd", *argv])
        assert main(argv) == 0
    return folder


def test_a_students_card_tells_task_teacher_objective_results_and_command(distilled, taught, start):
    text = (distilled / "README.md").read_text()
    metrics, manifest = (json.loads((distilled / f"{name}.json").read_text()) for name in ("metrics", "manifest"))
    teacher = json.loads((taught / "metrics.json").read_text())
    assert f"A student for glue/cola: `{start}`, taught by `{taught}`" in text
    assert f"| this model | {metrics['scores']['mcc']:.4f} | {metrics['scores']['accuracy']:.4f} |" in text
    assert f"| its teacher | {teacher['scores']['mcc']:.4f} | {teacher['scores']['accuracy']:.4f} |" in text
    assert "The teacher's scores: as its own run reports." in text
    assert "| objective | `ce:0.2+kd:0.8+sinkhorn:1` |" in text
    for setting in (
        "temperature | 2",
        "sinkhorn_cost | lorentz",
        "sinkhorn_weight | 0.001",
        "curvature | 0.5",
        "seed | 0",
    ):
        assert f"| {setting} |" in text
    assert re.search(
        r"\| parameters \| [\d,]+ \|\n\| MB on disk \| [\d.]+ \|\n\| dev rows a second, .+ \| [\d,]+ \|", text
    )
    assert "whose licence is mit" in text and "arXiv:2402.17110" in text
    assert f"sinkd distill --task_name cola --data_dir {manifest['argv'][5]}" in text


def test_its_metadata_is_readable_by_the_hub(distilled):
    data = ModelCard.load(distilled / "README.md").data
    metrics = json.loads((distilled / "metrics.json").read_text())
    assert (data.license, data.pipeline_tag, data.library_name) == ("mit", "text-classification", "transformers")
    assert {"sinkd", "knowledge-distillation"} <= set(data.tags)
    (result,) = data.eval_results
    assert (result.dataset_type, result.dataset_config) == ("nyu-mll/glue", "cola")
    assert (result.metric_type, result.metric_value) == ("matthews_correlation", round(metrics["best"], 4))


def test_the_code_in_the_card_runs(distilled, monkeypatch):
    monkeypatch.chdir(distilled.parent)
    (program,) = re.findall(r"```python\n(.*?)```", (distilled / "README.md").read_text(), re.DOTALL)
    names: dict = {}
    exec(program, names)
    assert names["model"].config.id2label == {0: "unacceptable", 1: "acceptable"}
    assert len(names["tokenizer"]("the dog")["input_ids"]) > 2


def test_neither_card_nor_manifest_tells_the_token(distilled):
    for name in ("README.md", "manifest.json"):
        assert "hf_secret" not in (distilled / name).read_text()
    assert "--hub_token ..." in (distilled / "README.md").read_text()


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        ("main_glue.py", "python3 main_glue.py --do_train"),
        ("T0/distillation.py", "python3 T0/distillation.py --do_train"),
        ("/usr/bin/sinkd", "sinkd --do_train"),
        ("/usr/lib/sinkd/__main__.py", "python -m sinkd --do_train"),
        ("/somewhere/main_glue.py", "python3 main_glue.py --do_train"),
    ],
)
def test_the_command_in_a_card_is_one_that_a_shell_runs(taught, tmp_path, monkeypatch, typed, told):
    monkeypatch.setattr("sys.argv", [typed, "--do_train"])
    describe(FinetuneArguments(output_dir=str(tmp_path)), {}).write(tmp_path)
    assert shown_command(tmp_path) == told


def test_a_teachers_card_names_no_teacher(taught, world):
    text = (taught / "README.md").read_text()
    assert f"A teacher for glue/cola: `{world.teacher}`" in text
    assert "its teacher" not in text and "objective" not in text
    assert "whose licence holds for them too" in text
    assert ModelCard.load(taught / "README.md").data.license is None


def test_a_teacher_without_a_run_on_this_dev_file_is_evaluated_if_loaded(world, taught, tmp_path):
    def scores(path, load=True):
        flags = world.flags(tmp_path / "out", "--teacher_path", path, "--student_path", world.student)
        args = resolve_settings(DistillationArguments, flags, "test")
        task = load_task("cola", args.data_dir)
        teacher = Teacher(str(path), family_of(task, args, str(path), "test"))
        assert not (load and teacher.model is None)
        found = teacher_scores(args, task, Ensemble([teacher]))
        assert args.output_dir == str(tmp_path / "out") and teacher.loaded == load
        return found

    reported = scores(taught, load=False)
    alone = tmp_path / "published"
    shutil.copytree(taught, alone)
    (alone / "metrics.json").unlink()
    measured = scores(alone)
    assert (reported[1], measured[1]) == ("as its own run reports", "measured by this run")
    assert measured[0] == pytest.approx(reported[0])
    unknown = scores(alone, load=False)
    assert unknown[0] == {} and "not known" in unknown[1]
    # A report on other rows is no report on these.
    shutil.copy2(taught / "metrics.json", alone)
    manifest = json.loads((alone / "manifest.json").read_text())
    manifest["inputs"]["dev file"] = "0"
    (alone / "manifest.json").write_text(json.dumps(manifest))
    assert scores(alone)[1] == "measured by this run"


def test_the_same_command_writes_a_missing_card_and_keeps_one_that_was_edited(world, taught, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(taught, folder)
    command = ["finetune", "--model_path", str(world.teacher), *world.flags(folder)]
    (folder / "README.md").write_text("mine")
    assert main(command) == 0
    assert (folder / "README.md").read_text() == "mine"
    (folder / "README.md").unlink()
    assert main(command) == 0
    assert "A teacher for glue/cola" in (folder / "README.md").read_text()


@pytest.mark.parametrize("text", ["no card at all", "---\n: : :\n---\n", "---\ntags: [a]\n---\n"])
def test_a_readme_without_a_licence_is_not_an_error(tmp_path, text):
    (tmp_path / "README.md").write_text(text)
    assert licence_of(str(tmp_path)) is None
    assert licence_of("someone/model") is None
