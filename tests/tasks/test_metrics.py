"""Scores as GLUE defines them, against their formulas written out."""

import numpy as np
import pytest

from sinkd.tasks import metrics


def logits_of(predictions, classes=2):
    return np.eye(classes)[np.asarray(predictions)]


def test_matthews_is_the_formula_of_the_confusion_matrix():
    labels, predictions = np.array([1, 1, 1, 0, 0, 0, 1, 0]), np.array([1, 1, 0, 0, 0, 1, 1, 0])
    tp, tn, fp, fn = 3, 3, 1, 1
    expected = (tp * tn - fp * fn) / np.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))
    assert metrics.matthews(logits_of(predictions), labels) == pytest.approx({"mcc": expected, "accuracy": 6 / 8})


def test_binary_f1_is_that_of_label_one():
    labels, predictions = np.array([1, 1, 1, 0]), np.array([1, 0, 1, 1])
    assert metrics.binary_f1(logits_of(predictions), labels) == pytest.approx({"accuracy": 0.5, "f1": 2 / 3})


def test_macro_f1_is_the_mean_over_the_labels():
    labels, predictions = np.array([0, 0, 1, 2]), np.array([0, 1, 1, 2])
    assert metrics.macro_f1(logits_of(predictions, 3), labels)["f1"] == pytest.approx((2 / 3 + 2 / 3 + 1) / 3)


def test_correlations_of_a_monotone_but_curved_prediction():
    labels = np.arange(1.0, 6.0)
    scores = metrics.correlation(np.exp(labels)[:, None], labels)
    assert scores["spearman"] == pytest.approx(1.0)
    assert scores["pearson"] == pytest.approx(np.corrcoef(np.exp(labels), labels)[0, 1])


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("constant", [0.0, 0.1, -3.7])
def test_constant_predictions_score_zero_without_a_warning(constant):
    assert metrics.correlation(np.full((4, 1), constant), np.arange(4.0)) == {"pearson": 0.0, "spearman": 0.0}
    assert metrics.correlation(np.arange(4.0)[:, None], np.full(4, 2.5)) == {"pearson": 0.0, "spearman": 0.0}
    assert metrics.matthews(logits_of([1, 1, 1]), np.array([0, 1, 1]))["mcc"] == 0.0
    assert metrics.binary_f1(logits_of([0, 0, 0]), np.array([0, 1, 1]))["f1"] == 0.0
