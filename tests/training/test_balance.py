"""A run with `--class_prior`: the teacher's answers to every row are balanced by one bias."""

import json
import logging

import numpy as np
import pytest
import torch

from sinkd import DistillationArguments, match_class_prior
from sinkd.cli.main import main
from sinkd.losses.feature import LOGITS
from sinkd.tasks import load_task
from sinkd.training.balance import prior_for
from sinkd.training.run import cache_teacher
from sinkd.training.settings import resolve_settings


@pytest.fixture
def flags(world, taught, tmp_path):
    def flags(name, *more):
        models = ["--teacher_path", taught, "--student_path", world.student, "--logging_steps", "1"]
        return world.flags(tmp_path / name, *models, "--teacher_cache_dir", tmp_path / "answers", *more)

    return flags


def test_the_bias_is_in_the_manifest_the_card_and_the_teachers_scores(flags, world, tmp_path, caplog, capsys):
    caplog.set_level(logging.INFO, "sinkd")
    assert main(["distill", *flags("out", "--class_prior", "0.3,0.7")]) == 0
    args = resolve_settings(DistillationArguments, flags("other"), "test")
    (answers,) = cache_teacher(args, load_task("cola", world.data))
    logits = answers.column(LOGITS)
    expected = match_class_prior(logits, torch.tensor([0.3, 0.7], dtype=torch.float64))
    (balance,) = json.loads((tmp_path / "out" / "manifest.json").read_text())["balances"]
    np.testing.assert_allclose(balance["bias"], expected, atol=1e-9)
    balanced = ((logits + expected) / 0.1).softmax(-1).mean(0)
    np.testing.assert_allclose(balanced, [0.3, 0.7], rtol=1e-5)
    card = (tmp_path / "out" / "README.md").read_text()
    assert f"{balance['before'][0]:.1%} to {balance['after'][0]:.1%} (bias {expected[0]:+.3f})" in card
    outcome = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert outcome["teacher_scores"] == balance["scores_after"]
    assert "its dev mcc:" in caplog.text
    assert main(["distill", *flags("out", "--class_prior", "0.3,0.7")]) == 0  # finished: the same run
    assert main(["distill", *flags("out")]) == 2
    assert "class_prior was '0.3,0.7' and is None" in capsys.readouterr().err


def test_balancing_needs_the_cache(flags, capsys):
    assert main(["distill", *flags("out", "--class_prior", "uniform", "--teacher_cache", "off")]) == 2
    assert "give --class_prior none, or leave out --teacher_cache off" in capsys.readouterr().err


def test_what_a_teacher_is_balanced_to_by_default():
    rows = torch.tensor([0, 0, 0, 1, -100, -100])
    assert prior_for(None, False, ("a", "b"), rows) is None
    assert prior_for(None, True, ("a", "b"), rows).tolist() == [0.75, 0.25]
    assert prior_for(None, True, ("a", "b"), rows[4:]).tolist() == [0.5, 0.5]
    assert prior_for("none", True, ("a", "b"), rows) is None
    assert prior_for(None, True, (), torch.tensor([0.5])) is None


def test_a_prior_that_contradicts_the_labels_is_warned_of(caplog):
    prior_for("0.9,0.1", True, ("a", "b"), torch.tensor([0, 1] * 50))
    assert "a wrong prior costs accuracy" in caplog.text
