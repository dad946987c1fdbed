"""A teacher may use its own tokenizer, unless the objective compares an entry for each token."""

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification

from sinkd import DistillationArguments
from sinkd.cli.main import main
from sinkd.models import load_tokenizer
from sinkd.tasks import Collator, encode, load_task
from sinkd.training.run import cache_teacher
from sinkd.training.settings import resolve_settings
from small_encoders import train_tokenizer, write_encoder
from training.logged import distilled


@pytest.fixture(scope="module")
def other_student(world, tmp_path_factory):
    """A student with a smaller vocabulary than the teacher's."""
    texts = load_task("cola", world.data).read("train")["text"]
    folder = tmp_path_factory.mktemp("other") / "student"
    return write_encoder(folder, train_tokenizer(texts, 150), layers=1, width=16, heads=2, seed=2)


@pytest.fixture
def flags(world, taught, other_student, tmp_path):
    def flags(name, *more):
        models = ["--teacher_path", taught, "--student_path", other_student, "--logging_steps", "1"]
        return world.flags(tmp_path / name, *models, "--teacher_cache_dir", tmp_path / "answers", *more)

    return flags


@pytest.mark.parametrize("objective", ["kd+sinkhorn", "kd+sinkhorn_hidden"])
def test_cached_and_live_answers_of_another_tokenizer_are_the_same(flags, objective):
    cached, live = (
        distilled(flags(cache, "--distill_loss", objective, "--teacher_cache", cache))[0]["loss"]
        for cache in ("auto", "off")
    )
    assert len(cached) == 10
    np.testing.assert_allclose(cached, live, atol=1e-5)


def test_the_teacher_answers_its_own_reading_of_the_rows(flags, world, taught):
    args = resolve_settings(DistillationArguments, flags("out", "--distill_loss", "kd"), "test")
    task, tokenizer = load_task("cola", world.data), load_tokenizer(str(taught), "test")
    (answers,) = cache_teacher(args, task)
    rows = encode(task.read("train"), tokenizer, args.max_seq_length)
    teacher = AutoModelForSequenceClassification.from_pretrained(taught).eval()
    batch = Collator(tokenizer)([rows[i] for i in (0, 5)])
    batch.pop("labels")
    with torch.no_grad():
        expected = teacher(**batch).logits
    torch.testing.assert_close(torch.stack([answers[i]["logits"] for i in (0, 5)]), expected, atol=1e-5, rtol=0)


def test_a_run_keeps_the_students_tokenizer_and_names_both(flags, other_student, tmp_path):
    assert main(["distill", *flags("out", "--distill_loss", "kd")]) == 0
    student, kept = (load_tokenizer(str(path), "test") for path in (other_student, tmp_path / "out"))
    assert kept.get_vocab() == student.get_vocab()
    assert "teacher's tokenizer" in (tmp_path / "out" / "manifest.json").read_text()
    assert main(["distill", *flags("out", "--distill_loss", "kd")]) == 0  # finished: the same run


@pytest.mark.parametrize(
    ("more", "what"),
    [
        (["--distill_loss", "kd+saliency"], " for saliency"),
        (["--distill_loss", "kd+mgskd", "--mgskd_heads", "4"], " for mgskd"),
        (["--distill_loss", "kd", "--student_init", "copy"], " where layers are copied"),
    ],
)
def test_objectives_that_compare_tokens_are_refused(flags, capsys, more, what):
    assert main(["distill", *flags("out", *more)]) == 2
    expected = f"teacher and student must read the same tokens{what}, and their tokenizers differ in size"
    assert expected in capsys.readouterr().err


def test_a_teacher_with_fewer_positions_reads_the_beginning_of_a_row(world, tmp_path, refusal):
    task, tokenizer = load_task("cola", world.data), load_tokenizer(str(world.teacher), "test")
    config = AutoConfig.from_pretrained(world.teacher, max_position_embeddings=6, architectures=None)
    AutoModelForSequenceClassification.from_config(config).save_pretrained(tmp_path / "short")
    tokenizer.save_pretrained(tmp_path / "short")
    models = ["--teacher_path", tmp_path / "short", "--student_path", world.student]
    argv = world.flags(tmp_path / "out", *models, "--teacher_cache_dir", tmp_path / "answers")
    (answers,) = cache_teacher(resolve_settings(DistillationArguments, argv, "test"), task)
    rows = encode(task.read("train"), tokenizer, 6)
    assert max(encode(task.read("train"), tokenizer, 128)["length"]) > 6
    teacher = AutoModelForSequenceClassification.from_pretrained(tmp_path / "short").eval()
    batch = Collator(tokenizer)([rows[i] for i in range(8)])
    batch.pop("labels")
    with torch.no_grad():
        torch.testing.assert_close(torch.stack([answers[i]["logits"] for i in range(8)]), teacher(**batch).logits)
    assert "for saliency, and their tokenizers differ in length (at most 6 and 128 tokens)" in refusal(
        "distill", *argv, "--distill_loss", "kd+saliency"
    )
