"""Scores as GLUE and SuperGLUE define them, against their formulas written out."""

import numpy as np
import pytest

from sinkd.tasks import metrics


def test_matthews_is_the_formula_of_the_confusion_matrix():
    labels, predictions = np.array([1, 1, 1, 0, 0, 0, 1, 0]), np.array([1, 1, 0, 0, 0, 1, 1, 0])
    tp, tn, fp, fn = 3, 3, 1, 1
    expected = (tp * tn - fp * fn) / np.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))
    assert metrics.matthews(predictions, labels) == pytest.approx({"mcc": expected, "accuracy": 6 / 8})


def test_binary_f1_is_that_of_label_one():
    labels, predictions = np.array([1, 1, 1, 0]), np.array([1, 0, 1, 1])
    assert metrics.binary_f1(predictions, labels) == pytest.approx({"accuracy": 0.5, "f1": 2 / 3})


def test_correlations_of_a_monotone_but_curved_prediction():
    labels = np.arange(1.0, 6.0)
    scores = metrics.correlation(np.exp(labels), labels)
    assert scores["spearman"] == pytest.approx(1.0)
    assert scores["pearson"] == pytest.approx(np.corrcoef(np.exp(labels), labels)[0, 1])


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("constant", [0.0, 0.1, -3.7])
def test_constant_predictions_score_zero_without_a_warning(constant):
    assert metrics.correlation(np.full(4, constant), np.arange(4.0)) == {"pearson": 0.0, "spearman": 0.0}
    assert metrics.correlation(np.arange(4.0), np.full(4, 2.5)) == {"pearson": 0.0, "spearman": 0.0}
    assert metrics.matthews(np.array([1, 1, 1]), np.array([0, 1, 1]))["mcc"] == 0.0
    assert metrics.binary_f1(np.array([0, 0, 0]), np.array([0, 1, 1]))["f1"] == 0.0


def test_macro_f1_is_the_mean_over_the_labels_that_occur():
    # label 0: 2 right of 4 said and 3 true, F1 4/7; label 1: 1 of 2 and 2, F1 1/2; label 2: none, 0
    scores = metrics.macro_f1(np.array([0, 0, 1, 1, 0, 0]), np.array([0, 0, 0, 1, 1, 2]))
    assert scores == pytest.approx({"accuracy": 3 / 6, "f1": (4 / 7 + 1 / 2 + 0) / 3})
    assert metrics.macro_f1(np.array([2, 2]), np.array([2, 2])) == {"accuracy": 1.0, "f1": 1.0}


def test_multirc_has_f1_over_answers_and_exact_match_over_questions():
    rows = [  # index, right, said: questions 0-0 and 0-1 of one paragraph, 1-0 of another with the same number
        ("0-0-0", 1, 1),
        ("0-0-1", 0, 0),
        ("0-1-2", 1, 0),
        ("0-1-3", 1, 1),
        ("1-0-4", 0, 1),
        ("1-0-5", 0, 0),
    ]
    index, right, said = zip(*rows, strict=True)
    scores = metrics.multirc(np.array(said), np.array(right), index)
    # 2 true positives, 1 false positive, 1 false negative; only question 0-0 has every answer right
    assert scores == pytest.approx({"f1a": 2 / 3, "em": 1 / 3, "accuracy": 4 / 6})

    # a question's answers need not be adjacent, and without a true answer F1 is 0
    assert metrics.multirc(np.array([1, 1, 0]), np.array([1, 1, 1]), ["0-0-0", "0-1-1", "0-0-2"])["em"] == 1 / 2
    none = metrics.multirc(np.array([0]), np.array([0]), ["0-0-0"])
    assert none == {"f1a": 0.0, "em": 1.0, "accuracy": 1.0}


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("The Prime-Minister,  Mr. Smith!", "primeminister mr smith"),
        ("an apple a day", "apple day"),
        ("Theatre", "theatre"),
        ("U.S.", "us"),
        ("the a an", ""),
    ],
)
def test_normal_form_is_squads(text, normal):
    assert metrics.normalised(text) == normal


@pytest.mark.parametrize(
    ("text", "truth", "f1"),
    [
        ("Angela Merkel", "Merkel", 2 / 3),  # precision 1/2, recall 1
        ("the Merkel", "Merkel.", 1.0),
        ("New York York", "York New Town", 2 / 3),  # bags: York once
        ("Paris", "London", 0.0),
        ("the", "a", 0.0),
    ],
)
def test_f1_of_words(text, truth, f1):
    assert metrics.word_f1(text, truth) == pytest.approx(f1)


def test_record_takes_the_best_of_its_answers_and_the_mean_over_queries():
    said = ["Angela Merkel", "the Oslo", "Tom"]
    answers = [["Merkel", "Chancellor Angela Merkel"], ["Oslo", "Norway"], ["Mira"]]
    # best F1: 4/5 (two of two, two of three), 1, 0; only the second matches exactly, and none is exactly the entity
    scores = metrics.record(said, answers)
    assert scores == pytest.approx({"f1": (4 / 5 + 1 + 0) / 3, "em": 1 / 3, "accuracy": 0.0})
