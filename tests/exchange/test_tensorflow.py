"""Google's TensorFlow checkpoints become models with the same answers, or the error names the wrong variable."""

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoModelForPreTraining, AutoModelForSequenceClassification, AutoTokenizer

from processes import ROOT, python
from refused import refused
from sinkd import SinkdError
from sinkd.cli.main import main
from sinkd.exchange.tensorflow import convert, find_bert, read_words, to_model

HERE = Path(__file__).parent
VOCABULARY = 60


def load(name: str):
    spec = importlib.util.spec_from_file_location(name, HERE / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


google, oracle = load("tensorflow_bert"), load("numpy_bert")


def model_variables(classes: int = 0) -> dict[str, np.ndarray]:
    """What is left of a checkpoint without the optimiser's variables."""
    kept = google.shapes(VOCABULARY, classes)
    return {name: value for name, value in google.values(VOCABULARY, classes).items() if name in kept}


@torch.no_grad()
def answers_alike(model, variables: dict) -> None:
    """Hidden states, pooler and masked words of a model equal those of the NumPy forward over the variables."""
    random = np.random.default_rng(3)
    ids, kinds = random.integers(0, VOCABULARY, (3, 11)), random.integers(0, 2, (3, 11))
    mask = np.arange(11) < np.array([[11], [7], [2]])
    config = google.config(VOCABULARY)
    expected = oracle.hidden_states(variables, config, ids, mask, kinds)
    inputs = {"input_ids": ids, "attention_mask": mask.astype(np.int64), "token_type_ids": kinds}
    tensors = {name: torch.from_numpy(value) for name, value in inputs.items()}
    body = model.base_model.eval()(**tensors, output_hidden_states=True)
    for found, wanted in zip(body.hidden_states, expected, strict=True):
        assert np.abs(found.numpy() - wanted)[mask].max() < 1e-5
    assert np.abs(body.pooler_output.numpy() - oracle.pooled(variables, expected[-1])).max() < 1e-5
    if hasattr(model, "cls"):
        found = model.eval()(**tensors)
        assert np.abs(found.prediction_logits.numpy() - oracle.word_logits(variables, expected[-1]))[mask].max() < 1e-4
        weight, bias = (variables[f"cls/seq_relationship/output_{name}"] for name in ("weights", "bias"))
        relation = oracle.pooled(variables, expected[-1]) @ weight.T + bias
        assert np.abs(found.seq_relationship_logits.numpy() - relation).max() < 1e-5


# Names and weights, without TensorFlow


def test_every_variable_is_mapped_to_its_weight():
    variables = model_variables()
    answers_alike(to_model(variables, google.config(VOCABULARY)), variables)


def test_checkpoints_without_heads_and_with_a_classifier_are_converted():
    variables = {name: value for name, value in model_variables().items() if name.startswith("bert/")}
    body = to_model(variables, google.config(VOCABULARY))
    assert type(body).__name__ == "BertModel"
    answers_alike(body, variables)
    variables = model_variables(classes=3)
    classifier = to_model(variables, google.config(VOCABULARY))
    assert type(classifier).__name__ == "BertForSequenceClassification"
    assert np.array_equal(classifier.classifier.weight.detach().numpy(), variables["output_weights"])
    answers_alike(classifier, variables)


@pytest.mark.parametrize(
    "name",
    [
        "bert/encoder/layer_1/output/LayerNorm/gamma",
        "bert/embeddings/token_type_embeddings",
        "bert/pooler/dense/kernel",
        "cls/predictions/transform/LayerNorm/beta",
        "cls/seq_relationship/output_bias",
    ],
)
def test_a_missing_variable_is_named_as_google_names_it(name):
    variables = model_variables()
    del variables[name]
    refused(lambda: to_model(variables, google.config(VOCABULARY)), f'lacks "{name}"')


@pytest.mark.parametrize("name", ["bert/encoder/layer_0/adapter/kernel2", "albert/pooler/bias", "good_old_step"])
def test_an_unknown_variable_is_named(name):
    variables = model_variables() | {name: np.zeros(2)}
    refused(lambda: to_model(variables, google.config(VOCABULARY)), f'"{name}"', "a BERT of 2 layers does not have")


def test_a_config_of_another_model_is_detected_from_the_weights():
    def with_config(**changes):
        return lambda: to_model(model_variables(), google.config(VOCABULARY) | changes)

    one = ["bert/encoder/layer_1/", "15 more", "a BERT of 1 layers does not have"]
    refused(with_config(num_hidden_layers=1), *one)
    refused(with_config(num_hidden_layers=3), 'lacks "bert/encoder/layer_2/', "15 more")
    shapes = ["bert/encoder/layer_0/intermediate/dense/", "(24,", "(25,"]
    refused(with_config(intermediate_size=25), *shapes)


# Where a checkpoint lies


@pytest.fixture
def folder(tmp_path):
    for name in ("bert_model.ckpt.index", "bert_model.ckpt.data-00000-of-00001", "bert_config.json", "vocab.txt"):
        (tmp_path / name).write_text("{}")
    return tmp_path


@pytest.mark.parametrize(
    "name", ["", "bert_model.ckpt", "bert_model.ckpt.index", "bert_model.ckpt.data-00000-of-00001"]
)
def test_a_checkpoint_is_found_by_its_folder_prefix_or_file(folder, name):
    assert find_bert(folder / name) == folder / "bert_model.ckpt"


def test_missing_files_are_named(folder, tmp_path):
    (folder / "model.ckpt-100.index").touch()
    assert find_bert(folder).name == "bert_model.ckpt"
    (folder / "vocab.txt").unlink()
    with pytest.raises(SinkdError, match=r"lacks vocab\.txt"):
        find_bert(folder)
    with pytest.raises(SinkdError, match=r"no TensorFlow checkpoint .*other\.ckpt: looked for .*other\.ckpt\.index"):
        find_bert(folder / "other.ckpt")
    (folder / "bert_model.ckpt.index").rename(folder / "model.ckpt-200.index")
    with pytest.raises(SinkdError, match=r"several checkpoints \(model\.ckpt-100, model\.ckpt-200\)"):
        find_bert(folder)
    (tmp_path / "empty").mkdir()
    with pytest.raises(SinkdError, match="holds no TensorFlow checkpoint"):
        find_bert(tmp_path / "empty")


def test_without_tensorflow_it_is_said_how_to_install_it(folder, tmp_path, monkeypatch, refusal):
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    monkeypatch.setitem(sys.modules, "tensorflow.train", None)
    assert "pip install 'sinkd[tf]'" in refusal("convert", folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_that_is_not_empty_is_not_written_to(folder, tmp_path):
    with pytest.raises(SinkdError, match="exists already"):
        convert(folder, folder)


@pytest.mark.parametrize(
    ("config", "fragment"),
    [
        ("[1]", "holds no JSON object"),
        ("{", "is not JSON"),
        ('{"hidden_size": "a"}', "describes no BERT"),
        ('{"hidden_act": "foo"}', "describes no BERT (KeyError: 'foo')"),
        ('{"num_attention_heads": 7}', "describes no BERT"),
    ],
)
def test_a_config_that_makes_no_model_is_one_sentence(folder, tmp_path, refusal, config, fragment):
    (folder / "bert_config.json").write_text(config)
    assert f"{folder / 'bert_config.json'} {fragment}" in refusal("convert", folder, tmp_path / "out")


def test_a_vocabulary_has_an_entry_a_line_and_is_utf_8(folder, tmp_path, refusal):
    (folder / "vocab.txt").write_bytes("[PAD]\n\u2028\n\x85a\n".encode())
    assert read_words(folder / "vocab.txt") == ["[PAD]", "\u2028", "\x85a"]
    (folder / "vocab.txt").write_bytes(b"[PAD]\n\xff\n")
    assert "vocab.txt, line 2: found byte 0xff" in refusal("convert", folder, tmp_path / "out")


def test_an_output_that_cannot_be_written_leaves_nothing_behind(folder, tmp_path, monkeypatch, capsys, refusal):
    words = [f"w{i}" for i in range(VOCABULARY)]
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words[5:]]) + "\n")
    (folder / "bert_config.json").write_text(json.dumps(google.config(VOCABULARY)))
    monkeypatch.setattr(sys.modules["sinkd.exchange.tensorflow"], "read_variables", lambda prefix: model_variables())
    (tmp_path / "plain").touch()
    assert "plain/out cannot be written (Not a directory)" in refusal("convert", folder, tmp_path / "plain" / "out")

    def full(self, folder):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("transformers.BertTokenizer.save_pretrained", full)
        assert main(["convert", str(folder), str(tmp_path / "out")]) == 2
    assert "out cannot be written (No space left on device); make room" in capsys.readouterr().err
    assert not [path for path in tmp_path.iterdir() if "out" in path.name]
    (tmp_path / "out").mkdir()
    assert main(["convert", str(folder), str(tmp_path / "out")]) == 0
    assert (tmp_path / "out" / "vocab.txt").read_bytes() == (folder / "vocab.txt").read_bytes()


# The whole way, through TensorFlow's own Saver


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A checkpoint as Google's code writes it, its optimiser included; made by another process."""
    folder = tmp_path_factory.mktemp("google")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"[unused{i}]" for i in range(15))]
    words += ["the", "dog", "barks", "##s"]
    words += [f"w{i}" for i in range(VOCABULARY - len(words))]
    (folder / "words.txt").write_text("\n".join(words) + "\n")
    done = python(HERE / "tensorflow_bert.py", folder, folder / "words.txt")
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.slow
def test_a_checkpoint_of_tensorflows_saver_becomes_a_teacher_that_is_fine_tuned(written, tmp_path, shared_data):
    out = tmp_path / "bert"
    done = python("-m", "sinkd", "convert", written / "bert_model.ckpt", out)
    assert (done.returncode, done.stderr) == (0, "")
    size = sum(int(np.prod(shape)) for shape in google.shapes(VOCABULARY).values())
    assert done.stdout == f"{out}: BertForPreTraining, 2 layers of width 16, {size:,} parameters\n"
    assert {path.name for path in out.iterdir()} >= {"config.json", "model.safetensors", "vocab.txt", "tokenizer.json"}
    variables = dict(np.load(written / "weights.npz"))
    answers_alike(AutoModelForPreTraining.from_pretrained(out), variables)
    answers_alike(AutoModel.from_pretrained(out), variables)
    assert AutoTokenizer.from_pretrained(out).tokenize("The DOGS") == ["the", "dog", "##s"]

    flags = ["--do_train", "--task_name", "rte", "--data_dir", shared_data / "glue", "--model_path", out]
    flags += ["--max_train_rows", 64, "--max_seq_length", 32, "--num_train_epochs", 1, "--per_gpu_batch_size", 32]
    tuned = python(ROOT / "main_glue.py", *flags, "--output_dir", tmp_path / "teacher")
    assert tuned.returncode == 0, tuned.stderr
    AutoModelForSequenceClassification.from_pretrained(tmp_path / "teacher")
    assert json.loads((tmp_path / "teacher" / "metrics.json").read_text())["task"] == "glue/rte"

    broken = written / "bert_model.ckpt.data-00000-of-00001"
    broken.write_bytes(broken.read_bytes()[:100])
    done = python("-m", "sinkd", "convert", written, tmp_path / "again")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "cannot be read" in done.stderr and not (tmp_path / "again").exists()
