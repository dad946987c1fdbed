"""SuperGLUE's scores against values worked out by hand."""

import pytest

from sinkd.tasks import choice_metrics


def test_accuracy_is_the_share_of_right_rows():
    assert choice_metrics.accuracy(["a", "b", "a"], [["a"], ["a"], ["b", "a"]], ["0", "1", "2"]) == {"accuracy": 2 / 3}


def test_cb_has_accuracy_and_macro_f1():
    right = ["entailment", "entailment", "entailment", "contradiction", "contradiction", "neutral"]
    said = ["entailment", "entailment", "contradiction", "contradiction", "entailment", "entailment"]
    # entailment: 2 right of 4 said and 3 true, F1 4/7; contradiction: 1 of 2 and 2, F1 1/2; neutral: none, 0
    scores = choice_metrics.commitment(said, [[label] for label in right], list("012345"))
    assert scores == pytest.approx({"accuracy": 3 / 6, "f1": (4 / 7 + 1 / 2 + 0) / 3})


def test_cb_counts_the_labels_that_occur():
    scores = choice_metrics.commitment(["neutral", "neutral"], [["neutral"], ["neutral"]], ["0", "1"])
    assert scores == {"accuracy": 1.0, "f1": 1.0}


def test_multirc_has_f1_over_answers_and_exact_match_over_questions():
    rows = [  # index, right, said: questions 0-0 and 0-1 of one paragraph, 1-0 of another with the same number
        ("0-0-0", "True", "True"),
        ("0-0-1", "False", "False"),
        ("0-1-2", "True", "False"),
        ("0-1-3", "True", "True"),
        ("1-0-4", "False", "True"),
        ("1-0-5", "False", "False"),
    ]
    index, right, said = zip(*rows, strict=True)
    scores = choice_metrics.multirc(said, [[answer] for answer in right], index)
    # 2 true positives, 1 false positive, 1 false negative; only question 0-0 has every answer right
    assert scores == pytest.approx({"f1a": 2 / 3, "em": 1 / 3, "accuracy": 4 / 6})


def test_a_question_of_multirc_may_come_in_pieces():
    pieces = (["True", "True", "False"], [["True"], ["True"], ["True"]], ["0-0-0", "0-1-1", "0-0-2"])
    assert choice_metrics.multirc(*pieces)["em"] == 1 / 2


def test_multirc_without_a_true_answer_scores_zero_f1():
    assert choice_metrics.multirc(["False"], [["False"]], ["0-0-0"]) == {"f1a": 0.0, "em": 1.0, "accuracy": 1.0}


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
    assert choice_metrics.normalised(text) == normal


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
    assert choice_metrics.word_f1(text, truth) == pytest.approx(f1)


def test_record_takes_the_best_of_its_answers_and_the_mean_over_queries():
    said = ["Angela Merkel", "the Oslo", "Tom"]
    answers = [["Merkel", "Chancellor Angela Merkel"], ["Oslo", "Norway"], ["Mira"]]
    # best F1: 4/5 (two of two, two of three), 1, 0; only the second matches exactly, and none is the very entity
    scores = choice_metrics.record(said, answers, ["0-0", "0-1", "1-2"])
    assert scores == pytest.approx({"f1": (4 / 5 + 1 + 0) / 3, "em": 1 / 3, "accuracy": 0.0})
