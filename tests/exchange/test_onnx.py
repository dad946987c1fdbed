"""`sinkd export`: an ONNX file answers as the model for any batch and length; int8 reports its loss of score."""

import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertTokenizer,
)

from sinkd.cli.main import main
from sinkd.exchange.onnx import OnnxModel, export_onnx
from sinkd.tasks import load_task
from small_encoders import write_encoder
from small_families import family_model


def rows(printed: str) -> dict[str, list[str]]:
    """The table's cells by the name of its row."""
    lines = printed.splitlines()[2:-1]
    return {cells[0]: cells[1:] for cells in (re.split(r"\s{2,}", line.strip()) for line in lines)}


@pytest.fixture(scope="module")
def exported(taught, tmp_path_factory):
    """A copy of the taught model, with what the command wrote and printed."""
    folder = tmp_path_factory.mktemp("exported") / "model"
    shutil.copytree(taught, folder)
    with pytest.MonkeyPatch.context() as patch:
        printed: list[str] = []
        patch.setattr("builtins.print", lambda *words, **kwargs: printed.append(" ".join(map(str, words))))
        assert main(["export", str(folder), "--format", "onnx", "--quantize", "int8"]) == 0
    return folder, "\n".join(printed)


def test_a_run_is_exported_with_its_own_dev_set_and_settings(exported):
    folder, printed = exported
    names = {path.name for path in (folder / "onnx").iterdir()}
    assert {"model.onnx", "model_int8.onnx", "config.json", "tokenizer.json"} <= names
    table = rows(printed)
    assert list(table) == ["PyTorch", "ONNX", "ONNX, int8"]
    assert printed.splitlines()[1].split()[:4] == ["MB", "rows/s", "mcc", "accuracy"]
    assert table["PyTorch"][2:4] == table["ONNX"][2:4]
    assert table["ONNX"][4] == "64 of 64" and float(table["ONNX"][5]) < 1e-4
    assert float(table["ONNX, int8"][0]) < 0.7 * float(table["ONNX"][0])
    assert 1e-4 < float(table["ONNX, int8"][5]) < 1


def test_any_batch_and_any_length_answers_as_the_model_does(exported):
    folder, _ = exported
    model, tokenizer = (
        AutoModelForSequenceClassification.from_pretrained(folder).eval(),
        AutoTokenizer.from_pretrained(folder),
    )
    there = OnnxModel(folder / "onnx" / "model.onnx")
    assert there.session.get_inputs()[0].shape == ["batch", "length"]
    for texts in (["the dog"], ["a", "the dog sees " * 50, "", "the cat"], ["the"] * 33):
        batch = tokenizer(texts, padding=True, truncation=True, max_length=300, return_tensors="pt")
        with torch.no_grad():
            here = model(**batch).logits.numpy()
        assert np.abs(there.logits(batch) - here).max() < 1e-5 * max(1, np.abs(here).max())


@pytest.mark.slow
def test_a_student_gives_the_same_predictions_on_real_rte(world, shared_data, tmp_path, capsys):
    words = (shared_data / "tokenizers" / "bert-base-uncased" / "vocab.txt").read_text(encoding="utf-8").splitlines()
    tokenizer = BertTokenizer(vocab={word: i for i, word in enumerate(words)}, do_lower_case=True)
    start = write_encoder(tmp_path / "start", tokenizer, layers=2, width=32, heads=2)
    data = ["--task_name", "rte", "--data_dir", str(shared_data / "glue"), "--max_seq_length", "64"]
    flags = ["--max_train_rows", "320", "--num_train_epochs", "1", "--learning_rate", "1e-3"]
    assert main(["finetune", *data, *flags, "--model_path", str(start), "--output_dir", str(tmp_path / "student")]) == 0
    capsys.readouterr()
    assert main(["export", str(tmp_path / "student"), "--output_dir", str(tmp_path / "out")]) == 0
    table = rows(capsys.readouterr().out)
    assert table["ONNX"][3] == "277 of 277"
    assert table["ONNX"][2] == table["PyTorch"][2]

    # Once more without sinkd's code.
    import onnxruntime

    task = load_task("rte", shared_data / "glue")
    dev = task.read("dev")
    session = onnxruntime.InferenceSession(str(tmp_path / "out" / "model.onnx"))
    cut = AutoTokenizer.from_pretrained(tmp_path / "out")
    logits = []
    for one, two in zip(dev["text"], dev["text_pair"], strict=True):
        batch = cut(one, two, truncation=True, max_length=64, return_tensors="np")
        logits.append(session.run(["logits"], {entry.name: batch[entry.name] for entry in session.get_inputs()})[0])
    accuracy = task.scores(np.concatenate(logits), np.array(dev["label"]))["accuracy"]
    assert f"{accuracy:.4f}" == table["PyTorch"][2]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["roberta", "modernbert"])
def test_other_families_are_exported_too(kind, tmp_path):
    model, ids = family_model(kind), torch.randint(5, 300, (4, 30))
    inputs = {"input_ids": ids, "attention_mask": torch.arange(30).lt(torch.tensor([[30], [3], [17], [1]])).long()}
    there = OnnxModel(export_onnx(model, {name: value[:2, :9] for name, value in inputs.items()}, tmp_path / "m.onnx"))
    with torch.no_grad():
        assert np.abs(there.logits(inputs) - model(**inputs).logits.numpy()).max() < 1e-5


@pytest.mark.slow
def test_without_a_dev_set_built_in_sentences_are_compared(taught, tmp_path, capsys, refusal):
    shutil.copytree(taught, tmp_path / "model")
    (tmp_path / "model" / "manifest.json").unlink()
    assert main(["export", str(tmp_path / "model"), "--output_dir", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    assert "on built-in sentences" in printed and rows(printed)["ONNX"][2] == "8 of 8"
    assert "name a task with a dev set by --task_name" in refusal("export", tmp_path / "model", "--quantize", "int8")


@pytest.mark.slow
def test_an_export_with_different_answers_fails_and_is_not_named_model_onnx(taught, tmp_path, monkeypatch, capsys):
    def lying(self, batch):
        return original(self, batch) + 0.1

    original = OnnxModel.logits
    monkeypatch.setattr(OnnxModel, "logits", lying)
    assert main(["export", str(taught), "--output_dir", str(tmp_path / "out")]) == 1
    error = capsys.readouterr().err
    assert "differ from the PyTorch model's by up to 0.1" in error
    assert (tmp_path / "out" / "model.wrong").exists() and not (tmp_path / "out" / "model.onnx").exists()


def test_only_a_folder_without_a_model_is_written_to_and_no_file_of_another_export_stays(taught, tmp_path, refusal):
    shutil.copytree(taught, tmp_path / "model")
    config = (tmp_path / "model" / "config.json").read_bytes()
    (tmp_path / "plain").touch()
    for place, said in {
        "model": "holds a model (model.safetensors)",
        "plain": "cannot be written (File exists)",
    }.items():
        assert f"{tmp_path / place} {said}" in refusal("export", taught, "--output_dir", tmp_path / place)
    assert (tmp_path / "model" / "config.json").read_bytes() == config
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "model_int8.onnx").write_bytes(b"another model's")
    assert main(["export", str(taught), "--output_dir", str(tmp_path / "out")]) == 0
    assert {path.name for path in (tmp_path / "out").glob("*.onnx")} == {"model.onnx"}


def test_wrong_input_is_one_sentence(world, tmp_path, monkeypatch, refusal):
    assert "the model is missing" in refusal("export")
    assert "no classifier on top; fine-tune it on a task first" in refusal("export", world.student)
    assert "does not exist" in refusal("export", tmp_path / "nowhere")
    assert "--output_dir is missing" in refusal("export", "someone/model")
    assert "--format" in refusal("export", world.student, "--format", "torchscript")


def test_without_the_packages_it_is_said_how_to_install_them(taught, tmp_path, monkeypatch, refusal):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    assert "pip install 'sinkd[onnx]'" in refusal("export", taught, "--output_dir", tmp_path / "out")
    assert not Path(tmp_path / "out").exists()
