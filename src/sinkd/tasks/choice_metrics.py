"""Scores of chosen answers, as SuperGLUE defines them. scikit-learn computes F1.

Each function takes, for n rows: what was chosen, as the label's name or for ReCoRD the entity; what is right, one name
or several; and the rows' indices ("0-1-2" in MultiRC: paragraph, question, answer). It gives {name: number in 0..1}.
"""

from __future__ import annotations

import re
import string
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence

from sinkd.tasks.metrics import Scores

ChoiceScorer = Callable[[Sequence[str], Sequence[Sequence[str]], Sequence[str]], Scores]

_PUNCTUATION = str.maketrans("", "", string.punctuation)


def accuracy(chosen: Sequence[str], accepted: Sequence[Sequence[str]], index: Sequence[str]) -> Scores:
    """The share of rows whose choice is right."""
    right = sum(answer in answers for answer, answers in zip(chosen, accepted, strict=True))
    return {"accuracy": right / len(chosen)}


def commitment(chosen: Sequence[str], accepted: Sequence[Sequence[str]], index: Sequence[str]) -> Scores:
    """CB: accuracy, and "f1": the plain mean of the F1 of each label that occurs, chosen or right."""
    from sklearn.metrics import f1_score

    right = [answers[0] for answers in accepted]
    f1 = f1_score(right, list(chosen), average="macro", zero_division=0)
    return accuracy(chosen, accepted, index) | {"f1": float(f1)}


def multirc(chosen: Sequence[str], accepted: Sequence[Sequence[str]], index: Sequence[str]) -> Scores:
    """MultiRC: "f1a", the F1 of True over all answers; "em", the share of questions with every answer right; and the
    accuracy over all answers."""
    from sklearn.metrics import f1_score

    right = [answers[0] == "True" for answers in accepted]
    said = [answer == "True" for answer in chosen]
    questions: dict[str, list[bool]] = defaultdict(list)
    for row, truth, answer in zip(index, right, said, strict=True):
        questions[row.rpartition("-")[0]].append(truth == answer)
    whole = sum(map(all, questions.values())) / len(questions)
    f1a = float(f1_score(right, said, zero_division=0))
    return {"f1a": f1a, "em": whole} | accuracy(chosen, accepted, index)


def record(chosen: Sequence[str], accepted: Sequence[Sequence[str]], index: Sequence[str]) -> Scores:
    """ReCoRD: "f1" of words and "em", exact match, both after SQuAD's normalisation; each query counts its best answer.
    And the accuracy of the choice as it is."""
    f1 = [max(word_f1(answer, right) for right in answers) for answer, answers in zip(chosen, accepted, strict=True)]
    em = [
        any(normalised(answer) == normalised(right) for right in answers)
        for answer, answers in zip(chosen, accepted, strict=True)
    ]
    return {"f1": sum(f1) / len(f1), "em": sum(em) / len(em)} | accuracy(chosen, accepted, index)


def normalised(text: str) -> str:
    """SQuAD's normal form: lower case, without punctuation and articles, single spaces (Rajpurkar et al. 2016)."""
    bare = text.lower().translate(_PUNCTUATION)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", bare).split())


def word_f1(text: str, truth: str) -> float:
    """F1 of the words of two texts in normal form, as bags: 2 * shared / (words of one + words of the other)."""
    words, right = normalised(text).split(), normalised(truth).split()
    shared = sum((Counter(words) & Counter(right)).values())
    return 2 * shared / (len(words) + len(right)) if shared else 0.0
