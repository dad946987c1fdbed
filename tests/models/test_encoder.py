"""Loaded encoders fit the task and read text as their folder says, or are refused in one sentence."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    DistilBertConfig,
    DistilBertModel,
)

from refused import refused
from sinkd import SinkdError
from sinkd.models import Encoder, load_encoder, load_tokenizer, tokenizers_of
from sinkd.models.config import find_checkpoint
from sinkd.models.forward import model_inputs
from sinkd.models.seal import SEAL, seal
from sinkd.tasks import load_task, table_task
from sinkd.training.teacher import Teacher
from small_families import family_config

SIZES = {"vocab_size": 60, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}


@pytest.fixture(scope="module")
def cola(world):
    return load_task("cola", world.data)


@pytest.fixture
def regression(tmp_path):
    (tmp_path / "scores.tsv").write_text("text\tscore\na\t0.5\nb\t1\n")
    path = tmp_path / "scores.tsv"
    return table_task(path, path, text_columns=["text"], label_column="score")


@pytest.fixture
def model(tmp_path):
    """A folder with a classifier whose labels are these; None: an encoder without a head."""

    def model(labels: list[str] | None, name: str = "model") -> str:
        config = BertConfig(**SIZES)
        if labels is None:
            BertModel(config).save_pretrained(tmp_path / name)
        else:
            config.id2label = dict(enumerate(labels))
            config.label2id = {label: i for i, label in enumerate(labels)}
            BertForSequenceClassification(config).save_pretrained(tmp_path / name)
        return str(tmp_path / name)

    return model


# Where a model lies


def test_a_models_folder_is_found_and_the_published_layout_inside_a_runs(tmp_path, model):
    folder = Path(model(["a", "b"]))
    assert find_checkpoint(str(folder), "--teacher_path") == str(folder)
    published = tmp_path / "run" / "checkpoints" / "best_checkpoint"
    shutil.copytree(folder, published)
    assert find_checkpoint(str(tmp_path / "run"), "--teacher_path") == str(published)


def test_a_model_without_the_state_of_its_training_is_whole(tmp_path, model):
    folder = Path(model(["a", "b"]))
    (folder / "optimizer.pt").write_bytes(b"state")
    seal(folder)
    (folder / "optimizer.pt").unlink()
    assert find_checkpoint(str(folder), "--model_path") == str(folder)
    (folder / "config.json").write_text("{}")
    refused(lambda: find_checkpoint(str(folder), "--model_path"), f"{folder / 'config.json'} is not as it was written")


def test_a_folder_without_a_model_names_the_place_searched(tmp_path):
    (tmp_path / "empty").mkdir()
    path = str(tmp_path / "empty")
    best = f"{path}/checkpoints/best_checkpoint"
    refused(lambda: find_checkpoint(path, "--teacher_path"), "--teacher_path", "no config.json", path, best)


@pytest.mark.parametrize("path", ["./nowhere", "/nowhere", "models/teacher/cola", "~/nowhere", "nowhere/"])
def test_a_path_that_is_not_there_is_not_taken_for_a_hubs_name(path):
    refused(lambda: find_checkpoint(path, "--model_path"), "--model_path", path, "does not exist")


def test_a_hubs_name_is_left_to_the_hub():
    assert find_checkpoint("google-bert/bert-base-uncased", "--model_path") == "google-bert/bert-base-uncased"


def test_a_name_that_cannot_be_loaded_is_one_sentence(cola):
    refused(
        lambda: load_encoder("nobody/nothing", cola, "--model_path"), "--model_path nobody/nothing cannot be loaded"
    )


# Heads


@pytest.mark.parametrize("labels", [["LABEL_0", "LABEL_1"], ["label_0", "label_1"], ["unacceptable", "acceptable"]])
def test_a_head_that_fits_is_kept_and_takes_the_tasks_names(labels, cola, model):
    path = model(labels)
    loaded = load_encoder(path, cola, "--teacher_path", must_have_head=True)
    assert loaded.config.id2label == {0: "unacceptable", 1: "acceptable"}
    assert loaded.config.label2id == {"unacceptable": 0, "acceptable": 1}
    saved = AutoModelForSequenceClassification.from_pretrained(path)
    assert torch.equal(loaded.classifier.weight, saved.classifier.weight)
    assert loaded.dtype == torch.float32


# One of each place for a head: after the body, before it (XLM-R), two modules (ModernBERT), without bias (GPT-2).
@pytest.fixture(params=["bert", "xlm-roberta", "modernbert", "gpt2", "bart"])
def headed(request, tmp_path):
    """A folder with a classifier of each kind, whose labels are these; and the classifier."""

    def headed(labels: list[str]):
        config = family_config(request.param, eos_token_id=2)
        config.id2label, config.label2id = dict(enumerate(labels)), {label: i for i, label in enumerate(labels)}
        model = AutoModelForSequenceClassification.from_config(config).eval()
        model.save_pretrained(tmp_path / "headed")
        return str(tmp_path / "headed"), model

    return headed


IDS = torch.tensor([[5, 6, 7, 2]])


@torch.no_grad()
def test_labels_are_matched_by_name_whatever_their_case_and_order(headed, cola, tmp_path):
    path, model = headed(["Acceptable", "UNACCEPTABLE"])
    loaded = load_encoder(path, cola, "--teacher_path", must_have_head=True).eval()
    torch.testing.assert_close(loaded(IDS).logits, model(IDS).logits.flip(1))
    loaded.save_pretrained(tmp_path / "saved")
    again = load_encoder(str(tmp_path / "saved"), cola, "--teacher_path", must_have_head=True).eval()
    torch.testing.assert_close(again(IDS).logits, loaded(IDS).logits)


@pytest.mark.parametrize("names", [["no", "yes"], ["LABEL_1", "LABEL_0"], ["entailment", "neutral", "contradiction"]])
def test_a_head_of_another_task_is_replaced_for_training_and_else_refused(headed, names, cola, tmp_path, caplog):
    path, model = headed(names)
    said = f"{path} has the labels {', '.join(names)}, and glue/cola has unacceptable, acceptable"
    with caplog.at_level("INFO", "sinkd"):
        loaded = load_encoder(path, cola, "--model_path")
    assert caplog.messages == [f"--model_path {said}: it gets a new head"]
    for name, tensor in model.base_model.state_dict().items():
        assert torch.equal(loaded.base_model.state_dict()[name], tensor)
    loaded.save_pretrained(tmp_path / "saved")
    again = load_encoder(str(tmp_path / "saved"), cola, "--model_path", must_have_head=True).eval()
    with torch.no_grad():
        torch.testing.assert_close(again(IDS).logits, loaded.eval()(IDS).logits)
        assert not torch.allclose(again(IDS).logits, model(IDS).logits[:, :2])
    refused(
        lambda: load_encoder(path, cola, "--teacher_path", must_have_head=True),
        f"--teacher_path {said}; fine-tune it on glue/cola first (sinkd finetune)",
    )


def test_a_head_of_another_width_is_of_another_task(cola, model, regression):
    path = model(["LABEL_0", "LABEL_1", "LABEL_2"])
    for task, wanted in ((cola, "glue/cola has unacceptable, acceptable"), (regression, "has one number")):
        refused(lambda t=task: load_encoder(path, t, "T", must_have_head=True), "has 3 unnamed labels", wanted)
        assert load_encoder(path, task, "M").classifier.out_features == task.num_labels


def test_labels_that_differ_in_case_alone_are_told_apart(tmp_path, model):
    table = tmp_path / "case.csv"
    table.write_text("text,label\na,It\nb,it\n")
    task = table_task(table, table, text_columns=["text"], label_column="label")
    path = model(["it", "It"])
    loaded, saved = load_encoder(path, task, "T"), load_encoder(path, None, "T")
    assert torch.equal(loaded.classifier.weight, saved.classifier.weight.flip(0))


def test_the_order_of_labels_is_part_of_a_teachers_fingerprint(cola, model):
    path = model(["unacceptable", "acceptable"])
    swapped = replace(cola, labels=cola.labels[::-1])
    tasks = (cola, swapped)
    assert len({Teacher(path, Encoder(task=task)).fingerprint for task in tasks}) == 2


def test_a_student_without_a_head_gets_one_and_a_teacher_is_refused(cola, model):
    path = model(None)
    loaded = load_encoder(path, cola, "--student_path")
    assert loaded.classifier.weight.shape == (2, 8)
    plain = BertModel.from_pretrained(path)
    assert torch.equal(loaded.bert.embeddings.word_embeddings.weight, plain.embeddings.word_embeddings.weight)
    refused(
        lambda: load_encoder(path, cola, "--teacher_path", must_have_head=True),
        "no classifier on top",
        "sinkd finetune",
    )


def test_a_regression_has_one_output_and_says_so(regression, model):
    loaded = load_encoder(model(None), regression, "--student_path")
    assert loaded.config.num_labels == 1
    assert loaded.config.problem_type == "regression"
    assert loaded.classifier.weight.shape == (1, 8)


def test_overrides_reach_the_config_and_unknown_ones_are_refused(cola, model):
    path = model(None)
    loaded = load_encoder(path, cola, "--student_path", overrides={"hidden_dropout_prob": 0, "hidden_act": "relu"})
    assert all(
        m.p == 0 for n, m in loaded.named_modules() if isinstance(m, torch.nn.Dropout) and "attention.self" not in n
    )
    assert (loaded.config.hidden_dropout_prob, loaded.config.hidden_act) == (0, "relu")
    refused(
        lambda: load_encoder(path, cola, "--student_path", overrides={"dropuot": 0}),
        "--config_overrides",
        '"dropuot"',
        path,
    )


def test_a_broken_checkpoint_is_one_sentence(cola, model):
    path = model(["a", "b"])
    (Path(path) / "model.safetensors").write_bytes(b"half")
    (Path(path) / "config.json").write_text((Path(path) / "config.json").read_text().replace('"a"', '"LABEL_0"'))
    (Path(path) / "config.json").write_text((Path(path) / "config.json").read_text().replace('"b"', '"LABEL_1"'))
    refused(lambda: load_encoder(path, cola, "--teacher_path"), "--teacher_path", path, "cannot be loaded")
    (Path(path) / "config.json").write_text("{")
    refused(lambda: load_encoder(path, cola, "--teacher_path"), f"{path}/config.json is truncated or damaged")


# Weights


@pytest.fixture
def damaged(taught, tmp_path):
    """Copies the taught model with other names for its weights: old name -> new name, None to leave it out."""

    def make(rename):
        shutil.copytree(taught, tmp_path / "damaged")
        (tmp_path / "damaged" / SEAL).unlink()
        path = tmp_path / "damaged" / "model.safetensors"
        renamed = {rename(name): tensor for name, tensor in load_file(path).items() if rename(name) is not None}
        save_file(renamed, path, metadata={"format": "pt"})
        return str(path.parent)

    return make


def test_weights_under_other_names_are_refused(damaged, cola):
    path = damaged(lambda name: f"module.{name}")
    with pytest.raises(SinkdError, match=r"--teacher_path .* lacks \d+ of the model's weights, .* among them"):
        load_encoder(path, cola, "--teacher_path", must_have_head=True)


def test_a_teacher_whose_head_is_not_in_the_file_is_refused(damaged, cola):
    path = damaged(lambda name: None if name.startswith("classifier") else name)
    with pytest.raises(SinkdError, match=r"lacks 2 of the model's weights, classifier\.bias among them"):
        load_encoder(path, cola, "--teacher_path", must_have_head=True)


def test_overrides_do_not_change_settings_of_the_task(world, cola):
    with pytest.raises(SinkdError, match="--config_overrides sets num_labels, which the task decides"):
        load_encoder(str(world.student), cola, "--model_path", overrides={"num_labels": 5})


# Tokenizers

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
UNCASED = [*SPECIAL, *"abcdefghijklmnopqrstuvwxyz.,", *(f"##{c}" for c in "abcdefghijklmnopqrstuvwxyz")]
CASED = [*UNCASED, *"ABCDEFGHIJKLMNOPQRSTUVWXYZ", *(f"##{c}" for c in "ABCDEFGHIJKLMNOPQRSTUVWXYZ")]


@pytest.fixture
def vocabulary(tmp_path):
    """A folder as of a published checkpoint: config.json, vocab.txt, and a tokenizer_config.json where one is given."""

    def vocabulary(words, settings=None, name="vocabulary", config=BertConfig, encoder=BertModel) -> str:
        folder = tmp_path / name
        sizes = dict(SIZES) if config is BertConfig else {"dim": 8, "n_layers": 1, "n_heads": 2, "hidden_dim": 8}
        encoder(config(**{**sizes, "vocab_size": len(words)})).save_pretrained(folder)
        (folder / "vocab.txt").write_text("\n".join(words) + "\n")
        if settings is not None:
            (folder / "tokenizer_config.json").write_text(json.dumps(settings))
        return str(folder)

    return vocabulary


def pieces(path: str, text: str = "Ab cD", do_lower_case: bool = False) -> str:
    return " ".join(load_tokenizer(path, "--model_path", do_lower_case).tokenize(text))


def test_a_bare_vocabulary_decides_the_case_by_its_entries(vocabulary):
    assert pieces(vocabulary(UNCASED)) == "a ##b c ##d"
    assert pieces(vocabulary(CASED, name="cased")) == "A ##b c ##D"


@pytest.mark.parametrize(("said", "expected"), [(True, "a ##b c ##d"), (False, "A ##b c ##D")])
def test_a_cased_vocabulary_follows_its_folders_setting(vocabulary, said, expected):
    assert pieces(vocabulary(CASED, {"do_lower_case": said})) == expected


@pytest.mark.parametrize("settings", [None, {}, {"do_lower_case": False}, {"do_lower_case": True}])
def test_an_uncased_vocabulary_never_sees_capitals(vocabulary, settings):
    assert "[UNK]" not in pieces(vocabulary(UNCASED, settings), "Ab CD. E")


def test_an_uncased_distilbert_never_sees_capitals(vocabulary):
    path = vocabulary(UNCASED, {"do_lower_case": False}, config=DistilBertConfig, encoder=DistilBertModel)
    assert pieces(path) == "a ##b c ##d"


def test_a_saved_tokenizer_that_keeps_capitals_is_mended_too(vocabulary, tmp_path):
    path = vocabulary(UNCASED, {"do_lower_case": False})
    AutoTokenizer.from_pretrained(path, do_lower_case=False).save_pretrained(path)
    (Path(path) / "vocab.txt").unlink(missing_ok=True)
    assert AutoTokenizer.from_pretrained(path).tokenize("Ab") == ["[UNK]"]  # what makes this worth a test
    assert pieces(path) == "a ##b c ##d"


@pytest.mark.parametrize("settings", [None, {"do_lower_case": False}])
def test_lower_case_can_be_forced(vocabulary, settings):
    assert pieces(vocabulary(CASED, settings), do_lower_case=True) == "a ##b c ##d"


def test_lower_case_is_forced_on_a_saved_tokenizer_and_survives_saving(vocabulary, tmp_path):
    path = vocabulary(CASED)
    load_tokenizer(path, "--model_path").save_pretrained(path)
    assert pieces(path) == "A ##b c ##D"
    forced = load_tokenizer(path, "--model_path", True)
    forced.save_pretrained(tmp_path / "run")
    shutil.copy(Path(path) / "config.json", tmp_path / "run")
    assert pieces(str(tmp_path / "run")) == "a ##b c ##d"  # the student's command does not say --do_lower_case again


def test_berts_own_vocabulary_is_read_in_lower_case(vocabulary, shared_data):
    words = (shared_data / "tokenizers" / "bert-base-uncased" / "vocab.txt").read_text(encoding="utf-8").split("\n")
    path = vocabulary([word for word in words if word], {"do_lower_case": False})
    assert pieces(path, "The SAILORS rode the breeze.") == "the sailors rode the breeze ."


def test_a_folder_without_a_tokenizer_is_refused(model):
    path = model(["a", "b"])
    refused(lambda: load_tokenizer(path, "--model_path"), f"--model_path {path} holds no tokenizer", "vocab.txt")


def test_a_broken_tokenizer_is_one_sentence(vocabulary):
    path = vocabulary(UNCASED)
    (Path(path) / "tokenizer_config.json").write_text("{")
    refused(lambda: load_tokenizer(path, "--model_path"), f"the tokenizer of --model_path {path} cannot be loaded")


# One tokenizer for both


def test_the_teachers_tokenizer_serves_a_student_without_one(vocabulary, model):
    teacher = vocabulary(UNCASED)
    assert tokenizers_of(teacher, model(None))[0].tokenize("Ab") == ["a", "##b"]
    assert tokenizers_of(teacher, vocabulary(UNCASED, name="student"))[0].tokenize("Ab") == ["a", "##b"]


def test_one_vocabulary_in_two_spellings_is_one_tokenizer(vocabulary, tmp_path):
    teacher, student = vocabulary(UNCASED), vocabulary(UNCASED, {"do_lower_case": False}, "student")
    load_tokenizer(teacher, "--teacher_path").save_pretrained(teacher)
    tokenizers_of(teacher, student)


def test_two_tokenizers_are_refused_in_one_sentence(vocabulary, model):
    teacher = vocabulary(UNCASED)
    swapped = [*UNCASED[:5], "b", "a", *UNCASED[7:]]
    for student, difference in (
        (vocabulary(CASED, name="cased"), f"size ({len(UNCASED)} and {len(CASED)} tokens)"),
        (vocabulary(swapped, name="swapped"), 'their vocabulary (as at "a")'),
    ):
        refused(lambda student=student: tokenizers_of(teacher, student), "must read the same tokens", difference)
    lowering, keeping = (
        vocabulary(CASED, {"do_lower_case": True}, "l"),
        vocabulary(CASED, {"do_lower_case": False}, "k"),
    )
    refused(lambda: tokenizers_of(lowering, keeping), "how they cut or lower-case text")


def test_a_student_whose_embedding_is_too_small_is_refused(vocabulary, model):
    teacher = vocabulary(CASED)
    refused(lambda: tokenizers_of(teacher, model(None)), f"tokenizer has {len(CASED)} tokens", "embedding 60")


def test_tokenizers_that_join_pairs_in_other_ways_are_two(vocabulary):
    bert = vocabulary(UNCASED, name="bert")
    distilbert = vocabulary(UNCASED, {"model_input_names": ["input_ids", "attention_mask"]}, "distilbert")
    teachers, student = tokenizers_of(bert, distilbert, may_differ=True)
    assert "token_type_ids" in teachers("a", "b") and "token_type_ids" not in student("a", "b")


def test_a_compiled_model_reads_what_it_read_before(cola, model):
    network = load_encoder(model(["a", "b"]), cola, "--model_path")
    batch = {"input_ids": torch.tensor([[2, 3]]), "attention_mask": torch.ones(1, 2), "length": 2}
    assert model_inputs(torch.compile(network), batch).keys() == model_inputs(network, batch).keys() >= {"input_ids"}


def test_a_programs_own_model_always_gets_the_mask_that_it_asks_for():
    class Pooling(torch.nn.Module):
        def forward(self, input_ids, attention_mask):
            return (input_ids * attention_mask).float()

    assert model_inputs(Pooling(), {"input_ids": IDS})["attention_mask"].tolist() == [[1, 1, 1, 1]]
