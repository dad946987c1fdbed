"""Checkpoints of transformers 3 load without conversion (pickled tensors, old names); no other pickle is opened."""

import json
import os
import pickle

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification

from sinkd import SinkdError
from sinkd.cli.main import main
from sinkd.models import load_encoder, load_language_model
from sinkd.tasks import load_task
from small_language_models import write_language_model


class Evil:
    """An object whose pickle, when opened, makes a file."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.fixture(params=["zip", "before torch 1.6"])
def published(taught, tmp_path, request):
    """The taught model as transformers 3 would have left it, inside a run's folder of the published layout."""
    folder = tmp_path / "student" / "checkpoints" / "best_checkpoint"
    folder.mkdir(parents=True)
    state = AutoModelForSequenceClassification.from_pretrained(taught).state_dict()
    old = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
    for new, name in old.items():
        state = {key.replace(new, name): tensor for key, tensor in state.items()}
    state["bert.embeddings.position_ids"] = torch.arange(512)[None]
    assert sum("gamma" in key for key in state) == 5
    torch.save(state, folder / "pytorch_model.bin", _use_new_zipfile_serialization=request.param == "zip")
    config = json.loads((taught / "config.json").read_text())
    for name in ("id2label", "label2id", "problem_type", "dtype", "transformers_version"):
        config.pop(name)
    config |= {"finetuning_task": "cola", "gradient_checkpointing": False, "position_embedding_type": "absolute"}
    (folder / "config.json").write_text(json.dumps(config))
    words = json.loads((taught / "tokenizer.json").read_text())["model"]["vocab"]
    (folder / "vocab.txt").write_text("".join(f"{word}\n" for word in sorted(words, key=words.get)))
    special = {f"{name}_token": f"[{name.upper()}]" for name in ("unk", "sep", "pad", "cls", "mask")}
    (folder / "special_tokens_map.json").write_text(json.dumps(special))
    settings = {
        "do_lower_case": True,
        "model_max_length": 512,
        "name_or_path": "/home/someone/bert",
        "tokenizer_file": None,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(special | settings | {"special_tokens_map_file": None}))
    (folder / "training_args.bin").write_bytes(pickle.dumps(Evil(tmp_path / "opened")))
    return tmp_path / "student"


def test_a_published_folder_evaluates_as_the_model_that_it_holds(published, taught, world, tmp_path, capsys):
    flags = ["--task_name", "cola", "--data_dir", str(world.data)]
    assert main(["evaluate", *flags, "--model_path", str(taught)]) == 0
    expected = capsys.readouterr().out.splitlines()[2].split()[:2]
    assert main(["evaluate", *flags, "--model_path", str(published)]) == 0
    assert capsys.readouterr().out.splitlines()[2].split()[:2] == expected
    assert not (tmp_path / "opened").exists()


def test_a_config_that_names_no_model_type_is_berts(published, taught, world):
    folder = published / "checkpoints" / "best_checkpoint"
    config = json.loads((folder / "config.json").read_text())
    del config["model_type"]
    (folder / "config.json").write_text(json.dumps(config))
    loaded = load_encoder(str(published), load_task("cola", world.data), "--model_path", must_have_head=True)
    kept = AutoModelForSequenceClassification.from_pretrained(taught).state_dict()
    assert all(torch.equal(tensor, kept[name]) for name, tensor in loaded.state_dict().items())


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_malicious_pickle_instead_of_weights_is_refused_unopened(published, world, tmp_path, refusal, wrapped):
    weights = published / "checkpoints" / "best_checkpoint" / "pytorch_model.bin"
    if wrapped:
        torch.save({"bert.pooler.dense.bias": Evil(tmp_path / "opened")}, weights)
    else:
        weights.write_bytes(pickle.dumps(Evil(tmp_path / "opened"), protocol=2))
    flags = ["--task_name", "cola", "--data_dir", str(world.data), "--model_path", str(published)]
    error = refusal("evaluate", *flags)
    assert "is refused" in error and "posix.mkdir" in error
    assert "weights_only" not in error  # torch's error suggests opening it anyway
    assert not (tmp_path / "opened").exists()
    pickle.loads(pickle.dumps(Evil(tmp_path / "opened")))
    assert (tmp_path / "opened").is_dir()  # what opening it would have done


@pytest.mark.parametrize("kind", ["t5", "gpt_neo"])
def test_a_language_models_weights_are_tensors_or_refused(kind, tmp_path):
    folder = write_language_model(tmp_path / kind, kind, width=16)
    state = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    weights = folder / "pytorch_model.bin"
    (folder / "training_args.bin").write_bytes(pickle.dumps(Evil(tmp_path / "opened")))
    torch.save(state, weights)
    loaded = load_language_model(str(folder), "--teacher_path").state_dict()
    assert all(torch.equal(tensor, loaded[name]) for name, tensor in state.items())

    whole = weights.read_bytes()
    wrong = {
        "is refused: its pytorch_model.bin holds more than tensors": pickle.dumps(
            Evil(tmp_path / "opened"), protocol=2
        ),
        "pytorch_model.bin is truncated or damaged": whole[: len(whole) // 2],
        "pytorch_model.bin is truncated": b"",
    }
    for fragment, content in wrong.items():
        weights.write_bytes(content)
        with pytest.raises(SinkdError) as caught:
            load_language_model(str(folder), "--teacher_path")
        assert fragment in str(caught.value) and f"--teacher_path {folder}" in str(caught.value)
        assert "\n" not in str(caught.value) and "weights_only" not in str(caught.value)
    assert not (tmp_path / "opened").exists()


def test_a_config_that_is_no_object_is_one_sentence(published):
    (published / "checkpoints" / "best_checkpoint" / "config.json").write_text("[]")
    with pytest.raises(SinkdError, match=r"config\.json holds no JSON object"):
        load_encoder(str(published), None, "--model_path")
