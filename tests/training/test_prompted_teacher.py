"""A prompted language model teaches an encoder: cached or live, and one run for each prompt."""

import json

import numpy as np
import pytest

from sinkd import DistillationArguments
from sinkd.cli.main import main
from sinkd.tasks import load_task
from sinkd.training.run import cache_teacher
from sinkd.training.settings import resolve_settings
from small_language_models import word_tokenizer, write_language_model

ASK = ["--teacher_prompt", "{{sentence}} is", "--teacher_answers", "the man ||| because"]


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    return write_language_model(tmp_path_factory.mktemp("lm") / "teacher", "gpt2")


@pytest.fixture
def flags(world, teacher, tmp_path):
    def flags(name, *more):
        models = ["--teacher_path", teacher, "--student_path", world.student]
        return world.flags(tmp_path / name, *models, "--teacher_cache_dir", tmp_path / "answers", *more)

    return flags


def test_cached_and_live_answers_train_the_same_student(flags, tmp_path):
    for cache in ("auto", "off"):
        more = [*ASK, "--class_prior", "none", "--distill_loss", "kd+sinkhorn", "--teacher_cache", cache]
        assert main(["distill", *flags(cache, *more)]) == 0
    cached, live = (json.loads((tmp_path / cache / "metrics.json").read_text()) for cache in ("auto", "off"))
    assert cached["scores"] == pytest.approx(live["scores"], abs=1e-6)
    manifest = json.loads((tmp_path / "auto" / "manifest.json").read_text())
    assert manifest["config"]["teacher_answers"] == ASK[3] and "teacher's prompt" in manifest["inputs"]


def test_each_prompt_has_answers_of_its_own_and_the_label_matters_to_none(flags, world):
    def answers(*more):
        args = resolve_settings(DistillationArguments, flags("out", *ASK, *more), "test")
        (answers,) = cache_teacher(args, load_task("cola", world.data))
        return np.array([row["logits"].tolist() for row in (answers[i] for i in range(len(answers)))])

    first, again = answers(), answers("--teacher_answers", "because ||| the man")
    np.testing.assert_allclose(again, first[:, ::-1], atol=1e-4)
    assert first.shape == (160, 2) and first.std(0).min() > 0.01


def test_the_teacher_is_cached_before_the_student_is_chosen(world, flags, tmp_path):
    tokenizer = word_tokenizer()
    tokenizer.pad_token = None  # as GPT-2's
    teacher = write_language_model(tmp_path / "teacher", "gpt2", tokenizer)
    homes = []
    for student in (["--student_path", world.student], []):
        folder = ["--teacher_cache_dir", tmp_path / "answers"]
        argv = world.flags(tmp_path / "out", "--teacher_path", teacher, *student, *ASK, *folder)
        (answers,) = cache_teacher(resolve_settings(DistillationArguments, argv, "test"), load_task("cola", world.data))
        homes.append(answers.home)
    assert homes[0] == homes[1]


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ([], "is a language model; say how to ask it by --teacher_prompt and --teacher_answers"),
        ([*ASK, "--distill_loss", "kd+sinkhorn_hidden"], "a prompted language model shows no"),
        ([*ASK, "--student_init", "copy"], "--student_init copy copies a classifier's layers"),
        ([*ASK[:3], "a ||| a"], "read as the same tokens"),
    ],
)
def test_what_a_prompted_teacher_cannot_do_is_refused(flags, refusal, more, reason):
    assert reason in refusal("distill", *flags("out", *more))


def test_a_classifier_is_asked_without_a_prompt(flags, teacher, taught, tmp_path, refusal):
    assert main(["distill", *flags("both", *ASK, "--teacher_path", teacher, taught)]) == 0
    assert "teacher 2" in json.loads((tmp_path / "both" / "manifest.json").read_text())["inputs"]
    assert "is no language model, which a prompt and answers are for" in refusal(
        "distill", *flags("out", *ASK, "--teacher_path", taught)
    )
