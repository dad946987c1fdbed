"""A run with `--class_prior`: the teacher's answers to every row are balanced by one bias."""

import json
import logging

import numpy as np
import pytest
import torch

from sinkd import DistillationArguments, SinkdError, match_class_prior
from sinkd.cli.main import main
from sinkd.losses.feature import LOGITS
from sinkd.tasks import load_task
from sinkd.training.balance import contradiction, parse_class_prior, prior_for
from sinkd.training.run import cache_teacher
from sinkd.training.settings import resolve_settings

LABELS = ["negative", "positive"]


@pytest.fixture
def flags(world, taught, tmp_path):
    def flags(name, *more):
        models = ["--teacher_path", taught, "--student_path", world.student, "--logging_steps", "1"]
        return world.flags(tmp_path / name, *models, "--teacher_cache_dir", tmp_path / "answers", *more)

    return flags


def test_the_bias_is_in_the_manifest_the_card_and_the_teachers_scores(flags, world, tmp_path, caplog, refusal):
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
    assert "class_prior was '0.3,0.7' and is None" in refusal("distill", *flags("out"))


def test_balancing_needs_the_cache(flags, refusal):
    assert "give --class_prior none, or leave out --teacher_cache off" in refusal(
        "distill", *flags("out", "--class_prior", "uniform", "--teacher_cache", "off")
    )


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


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("uniform", [0.5, 0.5]),
        ("labels", [0.25, 0.75]),
        ("0.3,0.7", [0.3, 0.7]),
        (" 0.1, 0.9", [0.1, 0.9]),
        ("0.3333,0.6666", [0.3333 / 0.9999, 0.6666 / 0.9999]),
    ],
)
def test_shares_of_the_labels(text, expected):
    prior = parse_class_prior(text, LABELS, [10, 30])
    torch.testing.assert_close(prior, torch.tensor(expected, dtype=torch.float64))


def test_none_is_no_prior():
    assert parse_class_prior("none", LABELS, [10, 30]) is None


@pytest.mark.parametrize(
    ("text", "counts", "message"),
    [
        ("labels", [0, 0], "needs labelled training rows and there are none; give uniform or numbers"),
        ("labels", [3, 0], "no training row has the label 'positive'"),
        ("0.3,0.6", [1, 1], "--class_prior 0.3,0.6 sums to 0.9; it must sum to 1"),
        ("0,1", [1, 1], "gives 'negative' a share of 0; it must be greater than 0"),
        ("0.5,nan", [1, 1], "gives 'positive' a share of nan"),
        ("0.2,0.3,0.5", [1, 1], "has 3 numbers for 2 labels, in the order negative, positive"),
        ("even", [1, 1], "--class_prior is 'even'; it must be none, uniform, labels or 2 numbers such as 0.3,0.7"),
    ],
)
def test_anything_else_is_refused(text, counts, message):
    with pytest.raises(SinkdError, match=message):
        parse_class_prior(text, LABELS, counts)


@pytest.mark.parametrize(
    ("shares", "counts", "contradicted"),
    [
        ([0.5, 0.5], [500, 500], False),
        ([0.5, 0.5], [300, 700], True),
        ([0.5, 0.5], [3, 7], False),  # too few rows to tell: 1.3 standard errors
        ([0.5, 0.5], [48_000, 52_000], False),  # 13 standard errors, but a difference of 0.04
        ([0.5, 0.5], [45_000, 55_000], True),
        ([0.5, 0.5], [0, 0], False),
    ],
)
def test_labelled_rows_contradict_a_prior_that_is_surely_and_clearly_wrong(shares, counts, contradicted):
    said = contradiction(torch.tensor(shares, dtype=torch.float64), LABELS, counts)
    assert (said is not None) == contradicted


def test_the_contradiction_names_the_class_that_is_furthest_off():
    said = contradiction(torch.tensor([0.1, 0.2, 0.7], dtype=torch.float64), ["a", "b", "c"], [150, 600, 250])
    assert said.startswith("--class_prior says 0.70 for 'c', but 0.25 of the 1000 labelled training rows")
