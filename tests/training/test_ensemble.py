"""Several teachers: each is cached by itself, and their probabilities are averaged."""

import json

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification

from sinkd import DistillationArguments, DistillationTrainer, SinkdError
from sinkd.cli.main import main
from sinkd.models import load_tokenizer, student_and_teachers
from sinkd.models.encoder import load_encoder
from sinkd.tasks import Collator, encode, load_task
from sinkd.training.run import cache_teacher
from sinkd.training.settings import resolve_settings
from sinkd.training.teacher import Teacher
from small_encoders import train_tokenizer, write_encoder
from training.logged import distilled


@pytest.fixture(scope="module")
def second(world, tmp_path_factory):
    """Another teacher of the same task, with a vocabulary of its own."""
    texts = load_task("cola", world.data).read("train")["text"]
    folder = tmp_path_factory.mktemp("second")
    start = write_encoder(folder / "start", train_tokenizer(texts, 150), layers=1, width=16, heads=2, seed=5)
    assert main(["finetune", "--model_path", str(start), *world.flags(folder / "teacher")]) == 0
    return folder / "teacher"


def test_transport_between_tokens_is_for_answers_in_words(world, taught, capsys, tmp_path):
    models = ["--teacher_path", taught, "--student_path", world.student, "--distill_loss", "kl:1+semantic:1"]
    assert main(["distill", *map(str, world.flags(tmp_path / "out", *models))]) == 2
    assert "semantic transports the tokens of a language model's answer" in capsys.readouterr().err


@pytest.fixture
def flags(world, taught, second, tmp_path):
    def flags(name, *more):
        models = ["--teacher_path", taught, second, "--student_path", world.student, "--logging_steps", "1"]
        return world.flags(tmp_path / name, *models, "--teacher_cache_dir", tmp_path / "answers", *more)

    return flags


def probabilities(folder, world, split):
    task, tokenizer = load_task("cola", world.data), load_tokenizer(str(folder), "T")
    batch = Collator(tokenizer)(list(encode(task.read(split), tokenizer, 128)))
    labels = batch.pop("labels")
    with torch.no_grad():
        return AutoModelForSequenceClassification.from_pretrained(folder).eval()(**batch).logits.softmax(-1), labels


@pytest.mark.parametrize("objective", ["kd+sinkhorn", "kd+sinkhorn_hidden"])
def test_cached_and_live_teachers_give_the_same_losses(flags, objective):
    cached, live = (
        distilled(flags(kind, "--distill_loss", objective, "--teacher_cache", kind))[0]["loss"]
        for kind in ("auto", "off")
    )
    assert len(cached) == 10
    np.testing.assert_allclose(cached, live, atol=1e-5)


def test_each_teacher_is_freed_before_the_next_is_asked(flags, taught, second, monkeypatch, world):
    seen = []
    answers = Teacher.answers

    def spy(teacher, *args, **kwargs):
        found = answers(teacher, *args, **kwargs)
        seen.append((teacher.folder, [other.loaded for other in teachers]))
        return found

    teachers = []
    made = Teacher.__init__
    monkeypatch.setattr(Teacher, "__init__", lambda self, *args: (made(self, *args), teachers.append(self))[0])
    monkeypatch.setattr(Teacher, "answers", spy)
    args = resolve_settings(DistillationArguments, flags("out", "--distill_loss", "kd"), "test")
    assert [len(store) for store in cache_teacher(args, load_task("cola", world.data))] == [160, 160]
    # Training rows, then dev rows.
    assert seen == [(taught, [True, False])] * 2 + [(second, [False, True])] * 2


def test_the_reported_teacher_is_the_weighted_mean(flags, taught, second, world, tmp_path):
    _, outcome = distilled(flags("out", "--distill_loss", "kd", "--teacher_weights", "3", "1"))
    (one, labels), (two, _) = (probabilities(folder, world, "dev") for folder in (taught, second))
    said = (0.75 * one + 0.25 * two).argmax(-1)
    assert outcome.teacher_scores["accuracy"] == pytest.approx(float((said == labels).float().mean()))
    inputs = json.loads((tmp_path / "out" / "manifest.json").read_text())["inputs"]
    assert {"teacher", "teacher 2", "teacher 2's tokenizer"} <= inputs.keys()


def test_weights_change_the_loss_and_equal_ones_are_the_default(flags):
    first = {
        name: distilled(
            flags(name or "default", "--distill_loss", "kd", *(["--teacher_weights", *name.split()] if name else []))
        )[0]["loss"][0]
        for name in ("", "2 2", "1 9")
    }
    assert first["2 2"] == first[""] != first["1 9"]


@pytest.mark.parametrize("weights", [["1"], ["1", "0"], ["1", "-2"]])
def test_weights_that_do_not_fit_are_refused(flags, refusal, weights):
    assert f"--teacher_weights is {' '.join(weights)}; give one positive weight" in refusal(
        "distill", *flags("out", "--teacher_weights", *weights)
    )


def test_rows_in_another_order_than_the_teachers_are_refused(flags, second, world, tmp_path):
    args = resolve_settings(DistillationArguments, flags("out", "--teacher_path", second), "test")
    student, (family,) = student_and_teachers(load_task("cola", world.data), args)
    trainer = DistillationTrainer(
        model=load_encoder(str(world.student), student.task, "S"),
        teacher=Teacher(str(second), family),
        objective="kd",
        args=args,
        family=student,
        train_dataset=student.train.shuffle(seed=1),
        eval_dataset=student.dev,
    )
    with pytest.raises(SinkdError, match="or the same in another order"):
        trainer.train()
