"""The mean of several models' probabilities."""

import pytest
import torch

from sinkd.losses.feature import LOGITS, Logits
from sinkd.losses.mean_view import MeanView
from sinkd.losses.term import View


class Other(Logits):
    name = "other"


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_probabilities_are_averaged_at_the_temperature_of_the_term(temperature):
    logits = 5 * torch.randn(2, 7, 3)
    logits[0, 0, 1] = -torch.inf
    mean = MeanView([View(each) for each in logits], [0.25, 0.75])
    expected = 0.25 * (logits[0] / temperature).softmax(-1) + 0.75 * (logits[1] / temperature).softmax(-1)
    torch.testing.assert_close((mean.softened(temperature) / temperature).softmax(-1), expected)
    torch.testing.assert_close(mean.logits.exp(), 0.25 * logits[0].softmax(-1) + 0.75 * logits[1].softmax(-1))


def test_scores_are_averaged_as_they_are():
    one, two = torch.randn(2, 7, 1)
    torch.testing.assert_close(MeanView([View(one), View(two)], [0.5, 0.5]).softened(3.0), (one + two) / 2)


def test_other_features_are_those_of_the_first():
    first, second = View(torch.zeros(2, 3), {Other(): "first"}), View(torch.zeros(2, 3), {Other(): "second"})
    mean = MeanView([first, second], [0.5, 0.5])
    assert (mean[Other()], LOGITS in mean, first[Other()]) == ("first", True, "first")
