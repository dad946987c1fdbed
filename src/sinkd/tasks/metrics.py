"""Scores of one split, as GLUE and SuperGLUE define them; scikit-learn and scipy compute them.

Each function takes n answers, the truth and the rows' indices, and returns {name: number in -1..1}. Answers and truth
are label ids or numbers (n,); for `record`, texts and lists of the right texts. An undefined score (a correlation of
constant predictions, F1 without a positive row) is 0.0.
"""

from __future__ import annotations

import re
import string
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

Scores = dict[str, float]
Scorer = Callable[[Any, Any, Sequence[str]], Scores]

_PUNCTUATION = str.maketrans("", "", string.punctuation)


def accuracy(said: np.ndarray, truth: np.ndarray, index: Sequence[str] = ()) -> Scores:
    """The share of rows whose answer is the label."""
    return {"accuracy": float((said == truth).mean())}


def matthews(said: np.ndarray, truth: np.ndarray, index: Sequence[str] = ()) -> Scores:
    """Matthews' correlation coefficient, "mcc" (CoLA), and accuracy."""
    from sklearn.metrics import matthews_corrcoef

    return {"mcc": float(matthews_corrcoef(truth, said))} | accuracy(said, truth)


def binary_f1(said: np.ndarray, truth: np.ndarray, index: Sequence[str] = ()) -> Scores:
    """Accuracy, and the F1 of label 1 (MRPC, QQP)."""
    return accuracy(said, truth) | {"f1": _f1(truth == 1, said == 1)}


def macro_f1(said: np.ndarray, truth: np.ndarray, index: Sequence[str] = ()) -> Scores:
    """Accuracy, and "f1": the plain mean of the F1 of each label that occurs, said or true (CB, a user's table)."""
    return accuracy(said, truth) | {"f1": _f1(truth, said, average="macro")}


def correlation(said: np.ndarray, truth: np.ndarray, index: Sequence[str] = ()) -> Scores:
    """Pearson's and Spearman's correlation (STS-B); 0.0 if predictions or labels are all the same."""
    from scipy.stats import pearsonr, spearmanr

    said, truth = said.astype(np.float64), truth.astype(np.float64)
    if len(said) < 2 or np.ptp(said) <= 1e-12 * np.abs(said).max() or np.ptp(truth) == 0:
        return {"pearson": 0.0, "spearman": 0.0}
    return {"pearson": float(pearsonr(said, truth)[0]), "spearman": float(spearmanr(said, truth)[0])}


def multirc(said: np.ndarray, truth: np.ndarray, index: Sequence[str]) -> Scores:
    """MultiRC: "f1a", the F1 of label 1 over all answers; "em", the share of questions with every answer right; and
    accuracy. An index is "0-1-2" for paragraph, question and answer."""
    questions: dict[str, list[bool]] = defaultdict(list)
    for row, right in zip(index, said == truth, strict=True):
        questions[row.rpartition("-")[0]].append(bool(right))
    exact = sum(map(all, questions.values())) / len(questions)
    return {"f1a": _f1(truth == 1, said == 1), "em": exact} | accuracy(said, truth)


def record(said: Sequence[str], truth: Sequence[Sequence[str]], index: Sequence[str] = ()) -> Scores:
    """ReCoRD: "f1" of words and "em" (exact match), each with the best of a row's answers after SQuAD's normalisation;
    and accuracy without normalisation."""
    pairs = list(zip(said, truth, strict=True))
    f1 = [max(word_f1(text, answer) for answer in answers) for text, answers in pairs]
    exact = [any(normalised(text) == normalised(answer) for answer in answers) for text, answers in pairs]
    same = [text in answers for text, answers in pairs]
    return {name: sum(found) / len(pairs) for name, found in (("f1", f1), ("em", exact), ("accuracy", same))}


def normalised(text: str) -> str:
    """Return SQuAD's normal form: lower case, no punctuation or articles, single spaces (Rajpurkar et al. 2016)."""
    bare = text.lower().translate(_PUNCTUATION)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", bare).split())


def word_f1(text: str, truth: str) -> float:
    """Return the F1 of two texts' words in normal form: 2 * shared / (words of one + words of the other)."""
    words, right = normalised(text).split(), normalised(truth).split()
    shared = sum((Counter(words) & Counter(right)).values())
    return 2 * shared / (len(words) + len(right)) if shared else 0.0


def _f1(truth: np.ndarray, said: np.ndarray, average: str = "binary") -> float:
    from sklearn.metrics import f1_score

    return float(f1_score(truth, said, average=average, zero_division=0))
