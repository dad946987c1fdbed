"""--class_prior means what it says or is refused in a sentence, and labelled rows may contradict it."""

import pytest
import torch

from sinkd.errors import SinkdError
from sinkd.training.class_prior import contradiction, parse_class_prior

LABELS = ["negative", "positive"]


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
