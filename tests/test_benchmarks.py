"""Every benchmark runs at a small size, and writes the table that it prints."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from processes import python
from sinkd.models import load_tokenizer
from small_encoders import write_encoder
from small_language_models import word_tokenizer, write_copa, write_language_model


@pytest.fixture(scope="module")
def encoder(world, tmp_path_factory) -> Path:
    """Six layers, like the encoder for which the benchmarks are meant."""
    tokenizer = load_tokenizer(str(world.teacher), "--model_path")
    return write_encoder(tmp_path_factory.mktemp("encoder"), tokenizer, layers=6, width=16, heads=2)


@pytest.fixture(scope="module")
def sentiment(world, tmp_path_factory) -> Path:
    """The world's sentences in SST-2's layout."""
    folder = tmp_path_factory.mktemp("sentiment")
    (folder / "SST-2").mkdir()
    for split in ("train", "dev"):
        rows = [line.split("\t") for line in (world.data / "CoLA" / f"{split}.tsv").read_text().splitlines()]
        lines = ["sentence\tlabel", *(f"{sentence}\t{label}" for _, label, _, sentence in rows)]
        (folder / "SST-2" / f"{split}.tsv").write_text("\n".join(lines) + "\n")
    return folder


def run(name: str, *flags: object, cwd: Path) -> str:
    done = python("-m", f"benchmarks.{name}", *flags, cwd=cwd)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_loss(tmp_path):
    printed = run("loss", "--seconds", 0.05, "--max_classes", 3, "--out", "loss.json", cwd=tmp_path)
    rows = json.loads((tmp_path / "loss.json").read_text())["rows"]
    assert {(row["cost"], row["batch"]) for row in rows} >= {("l1", 16), ("lorentz", 512)}
    assert "over published" in printed


@pytest.mark.slow
def test_pipeline(tmp_path, world, encoder):
    flags = ["--encoder", encoder, "--data_dir", world.data, "--rows", 64, "--rounds", 1, "--out", "pipeline.json"]
    assert "fine-tuning" in run("pipeline", *flags, cwd=tmp_path)
    assert json.loads((tmp_path / "pipeline.json").read_text())["ratios"]["sinkd"]["sinkd"] == 1


@pytest.mark.slow
def test_everything_for_a_gpu_rehearses_on_a_cpu(tmp_path):
    script = Path(__file__).parents[1] / "benchmarks" / "gpu.sh"
    done = subprocess.run(
        [script, "--rehearse", "--out", tmp_path],
        env=os.environ | {"PYTHON": sys.executable, "WORKERS": "0"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    page = (tmp_path / "gpu.md").read_text()
    assert "SKIPPED" not in page and "semantic" in page and "over published" in page
    assert set(json.loads((tmp_path / "step.json").read_text())["rows per second"]["4"]) > {
        "published",
        "sinkd, trainer",
    }
    found = {
        name: json.loads((tmp_path / f"{name}.json").read_text()) for name in ("generative", "features", "kernels")
    }
    assert {row["name"] for row in found["features"]["rows"]} >= {"pairs", "saliency"}
    assert {row["loss"] for row in found["generative"]["tokens"]} == {"kl", "semantic"}
    gradient = 4 * 8 * 4 * 32128 / 1e6  # megabytes, which every loss must hold
    assert all(row["megabytes"] >= gradient for row in found["generative"]["rows"] + found["generative"]["sums"])
    few = found["kernels"]["rows"]["l1 (16, 2)"]
    assert few["sinkd"]["apart"] < 1e-5 and few["published"]["ms"] > 0


@pytest.mark.slow
def test_scale(tmp_path, world, encoder):
    flags = ["--encoder", encoder, "--data_dir", world.data, "--rows", 32, "--rounds", 1, "--out", "scale.json"]
    printed = run("scale", *flags, cwd=tmp_path)
    assert "8 rows x 4 micro-batches, transport of each" in printed
    written = json.loads((tmp_path / "scale.json").read_text())
    assert all(run["updates"] == 1 for runs in written["speed"].values() for run in runs)


@pytest.mark.slow
def test_memory(tmp_path):
    assert "tokenize" in run("memory", "--pairs", 2000, "--out", "memory.md", cwd=tmp_path)
    assert (tmp_path / "memory.md").is_file()


@pytest.mark.slow
def test_estimate_is_within_15_per_cent_of_a_processs_memory(tmp_path):
    assert "estimated MB" in run("estimate", "--cases", 1, "--out", tmp_path / "estimate.md", cwd=tmp_path)
    ((_, row),) = json.loads((tmp_path / "estimate.json").read_text())["rows"].items()
    assert row["estimated"] == pytest.approx(row["measured"], rel=0.15)


def test_every_trial_of_every_study_is_a_command_that_parses():
    from benchmarks.study import STUDIES, parser, sweeps

    counts = {}
    for name, study in STUDIES.items():
        given = parser().parse_args([name])
        counts[name] = sum(len(sweeps(study, task, given)[1].trials) for task in study.tasks)
    assert counts == {"matching": 4 * 4 * 3, "objectives": 2 * 10, "transport": 11 * 3}


@pytest.mark.slow
def test_study(tmp_path, sentiment, encoder):
    more = "kd, twice as many rows unlabelled"
    flags = ["--encoder", encoder, "--data_dir", sentiment, "--rows", 32, "--seeds", 0, "--only", "kd", more]
    command = ["study", "transport", *flags, "--out", "study.json"]
    assert "2 trials, 0 finished earlier, 2 to run" in run(*command, cwd=tmp_path)
    written = json.loads((tmp_path / "study.json").read_text())["runs"]
    assert [row["objective"] for row in written] == ["kd", more] and all("best" in row for row in written)
    assert not list((tmp_path / "experiments" / "study" / "transport").rglob("model.safetensors"))
    again = run(*command, cwd=tmp_path)
    assert "2 trials, 2 finished earlier, 0 to run" in again and "to kd" in again


@pytest.mark.slow
def test_prompted(tmp_path):
    write_language_model(tmp_path / "model", "gpt2")
    lines = [f"the {noun} {verb}\t{verb}" for noun in ("man", "woman", "king") for verb in ("ran", "fell")]
    (tmp_path / "texts.tsv").write_text("\n".join(["text\tlabel", *lines]) + "\n")
    flags = ["--model", "model", "--file", "texts.tsv", "--rounds", 1, "--out", "prompted.json"]
    assert "over plain" in run("prompted", *flags, cwd=tmp_path)
    assert json.loads((tmp_path / "prompted.json").read_text())["difference"] < 1e-4


@pytest.mark.slow
def test_models(tmp_path):
    write_copa(tmp_path / "datas" / "superglue")
    printed = run("models", "models", cwd=tmp_path)
    for name in ("t5-teacher", "t5-student", "gpt-teacher", "gpt-student"):
        assert name in printed
        assert {"config.json", "model.safetensors", "tokenizer.json"} <= {
            file.name for file in (tmp_path / "models" / name).iterdir()
        }


@pytest.mark.slow
def test_following(tmp_path):
    tokenizer = tmp_path / "tokenizer"
    word_tokenizer().save_pretrained(tokenizer)
    write_copa(tmp_path / "superglue")
    flags = ["--kind", "gpt2", "--tokenizer", tokenizer, "--data_dir", tmp_path / "superglue", "--epochs", 1]
    printed = run("following", *flags, "--tasks", "copa=by letter", "--seeds", "0", "--out", "f.json", cwd=tmp_path)
    scores = json.loads((tmp_path / "f.json").read_text())["tasks"]["copa"]
    assert set(scores) == {"teacher", "labels alone", "published", "teacher alone"}
    assert "agreement" in printed
