"""Every family goes through every command on one tiny step; rows that a model cannot read are refused by each."""

import csv
import random

import pytest
from transformers import AutoModel

from sinkd.cli.main import main
from small_families import (
    ENCODERS,
    LANGUAGE_MODELS,
    LAYERS,
    POSITIONS,
    family_language_model,
    family_model,
    family_tokenizer,
    write_family,
)
from small_language_models import word_tokenizer, write_copa, write_templates

WORDS = [f"w{n}" for n in range(60)]
STEP = ["--max_steps", "1", "--report_to", "none", "--per_gpu_batch_size", "4", "--quiet"]

# A handful in every run of the tests, the others with the slow ones.
FAST = {"camembert", "xlnet", "gpt2"}
FAST_LANGUAGE_MODELS = {"opt", "bart", "qwen3_next"}

REFUSED = {"xlnet", "longformer"}  # by torch's exporter


def some(kinds, fast):
    return [kind if kind in fast else pytest.param(kind, marks=pytest.mark.slow) for kind in kinds]


def sinkd(*command) -> None:
    assert main([str(part) for part in command]) == 0


def refused(capsys, *command) -> str:
    capsys.readouterr()
    assert main([str(part) for part in command]) == 2
    return capsys.readouterr().err.splitlines()[-1]


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """The flags of a table of pairs, 8 to train on and as many to answer, one of them of 70 words."""
    folder, draw = tmp_path_factory.mktemp("table"), random.Random(0)
    rows = [(" ".join(draw.choices(WORDS, k=5)), " ".join(draw.choices(WORDS, k=3 + i)), i % 2) for i in range(8)]
    rows[3] = (" ".join(draw.choices(WORDS, k=40)), " ".join(draw.choices(WORDS, k=30)), 1)
    with open(folder / "pairs.csv", "w", newline="") as file:
        csv.writer(file).writerows([("a", "b", "label"), *rows])
    splits = [part for split in ("train", "dev", "test") for part in (f"--{split}_file", folder / "pairs.csv")]
    return [*splits, "--text_columns", "a,b", "--label_column", "label"]


@pytest.mark.parametrize("kind", some([*ENCODERS, "gpt2", "gpt_neo", "llama", "opt", "bloom"], FAST))
def test_a_family_of_classifiers_does_all(kind, table, tmp_path):
    model = family_model(kind, AutoModel)
    write_family(tmp_path / "model", model, family_tokenizer(kind, WORDS))
    reading = [*table, "--max_seq_length", 24]
    teacher, student, small = (tmp_path / name for name in ("teacher", "student", "small"))
    sinkd("finetune", *reading, *STEP, "--model_path", tmp_path / "model", "--output_dir", teacher)
    base = ["distill", *reading, *STEP, "--teacher_path", teacher]
    sinkd(*base, "--student_path", tmp_path / "model", "--keep_layers", 2, "--output_dir", small)
    sinkd(*base, "--student_path", small, "--student_init", "copy", "--output_dir", student)
    sinkd("evaluate", *reading, "--model_path", student)
    sinkd("predict", *reading, "--model_path", student)
    assert AutoModel.from_pretrained(student).config.num_hidden_layers == LAYERS // 2


@pytest.mark.parametrize("kind", some(LANGUAGE_MODELS, FAST_LANGUAGE_MODELS))
def test_a_family_of_language_models_does_all(kind, tmp_path):
    reading = ["--task_name", "superglue/copa", "--data_dir", write_copa(tmp_path / "data", 4, 4)]
    reading += ["--templates_dir", write_templates(tmp_path / "templates"), "--template_name", "plain"]
    write_family(tmp_path / "model", family_language_model(kind, max_position_embeddings=128), word_tokenizer("left"))
    sinkd("finetune", *reading, *STEP, "--model_path", tmp_path / "model", "--output_dir", tmp_path / "teacher")
    teacher, student = ("--teacher_path", tmp_path / "teacher"), ("--student_path", tmp_path / "model")
    sinkd("distill", *reading, *STEP, *teacher, *student, "--output_dir", tmp_path / "student")
    sinkd("evaluate", *reading, "--model_path", tmp_path / "student")
    sinkd("predict", *reading, "--model_path", tmp_path / "student")


@pytest.mark.parametrize("kind", some(["roberta", "mpnet", "camembert"], {"camembert"}))
def test_every_command_refuses_rows_that_a_model_cannot_read(kind, table, tmp_path, capsys):
    write_family(tmp_path / "model", family_model(kind, AutoModel), family_tokenizer(kind, WORDS))
    trained, most = tmp_path / "trained", POSITIONS - 2
    start = ("--model_path", tmp_path / "model", "--output_dir", trained)
    long = [*table, "--max_seq_length", 60]
    fitting = [*table, "--max_seq_length", most]
    expected = f"tokens do not fit the model, which reads {most}; give --max_seq_length {most}"
    assert expected in refused(capsys, "finetune", *long, *STEP, *start)
    sinkd("finetune", *fitting, *STEP, *start)
    for command in ("evaluate", "predict"):
        assert expected in refused(capsys, command, *long, "--model_path", trained)
    taught = [*STEP, "--teacher_path", trained, "--student_path", tmp_path / "model"]
    assert expected in refused(capsys, "distill", *long, *taught, "--output_dir", tmp_path / "student")
    sinkd("cache-teacher", *long, "--teacher_path", trained)  # a teacher reads what fits it


def test_a_language_models_teacher_refuses_rows_too(tmp_path, capsys):
    reading = ["--task_name", "superglue/copa", "--data_dir", write_copa(tmp_path / "data", 4, 4)]
    reading += ["--templates_dir", write_templates(tmp_path / "templates")]
    for name, most in {"teacher": 8, "student": 128}.items():
        model = family_language_model("opt", max_position_embeddings=most)
        write_family(tmp_path / name, model, word_tokenizer())
    paths = [part for name in ("teacher", "student") for part in (f"--{name}_path", tmp_path / name)]
    found = refused(capsys, "distill", *reading, *STEP, *paths, "--output_dir", tmp_path / "run")
    assert "tokens do not fit the teacher, which reads 8; give a smaller --max_length" in found


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["distilbert", "mpnet", "albert", "xlnet"])
def test_a_family_of_encoders_is_exported_or_refused(kind, table, tmp_path, capsys):
    write_family(tmp_path / "model", family_model(kind, num_labels=2), family_tokenizer(kind, WORDS))
    command = ["export", *table, "--max_seq_length", 24, "--model_path", tmp_path / "model"]
    command += ["--output_dir", tmp_path / "onnx"]
    if kind in REFUSED:
        assert "torch.onnx cannot export a " in refused(capsys, *command)
    else:
        sinkd(*command)
