"""Scores of one split, as GLUE defines them; scikit-learn and scipy compute them.

Each function takes logits (n, C) and labels (n,), as NumPy arrays, and gives {name: number in -1..1}. A number always:
where a score is not defined (a correlation of constant predictions, F1 without a positive row) it is 0.0.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

Scores = dict[str, float]
Scorer = Callable[[np.ndarray, np.ndarray], Scores]


def accuracy(logits: np.ndarray, labels: np.ndarray) -> Scores:
    """The share of rows whose largest logit is the label's."""
    return {"accuracy": float((logits.argmax(axis=-1) == labels).mean())}


def matthews(logits: np.ndarray, labels: np.ndarray) -> Scores:
    """Matthews' correlation coefficient, "mcc" (CoLA), and accuracy."""
    from sklearn.metrics import matthews_corrcoef

    return {"mcc": float(matthews_corrcoef(labels, logits.argmax(axis=-1)))} | accuracy(logits, labels)


def binary_f1(logits: np.ndarray, labels: np.ndarray) -> Scores:
    """Accuracy, and the F1 of label 1 (MRPC, QQP)."""
    from sklearn.metrics import f1_score

    return accuracy(logits, labels) | {"f1": float(f1_score(labels, logits.argmax(axis=-1), zero_division=0))}


def macro_f1(logits: np.ndarray, labels: np.ndarray) -> Scores:
    """Accuracy, and "f1": the plain mean of the F1 of each label that occurs in the split or its predictions."""
    from sklearn.metrics import f1_score

    predictions = logits.argmax(axis=-1)
    return accuracy(logits, labels) | {"f1": float(f1_score(labels, predictions, average="macro", zero_division=0))}


def correlation(logits: np.ndarray, labels: np.ndarray) -> Scores:
    """Pearson's and Spearman's correlation (STS-B); 0.0 where predictions or labels are all the same."""
    from scipy.stats import pearsonr, spearmanr

    scores, truth = logits.reshape(-1).astype(np.float64), labels.reshape(-1).astype(np.float64)
    if len(scores) < 2 or np.ptp(scores) <= 1e-12 * np.abs(scores).max() or np.ptp(truth) == 0:
        return {"pearson": 0.0, "spearman": 0.0}
    return {"pearson": float(pearsonr(scores, truth)[0]), "spearman": float(spearmanr(scores, truth)[0])}
