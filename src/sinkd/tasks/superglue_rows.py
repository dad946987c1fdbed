"""Parsers for lines of SuperGLUE's and ANLI's files, one function per task; rows have the hub's schema.

Each takes the fields of a line and whether a label is required, and yields the line's rows: one, or for MultiRC one per
answer and for ReCoRD one per query. A row without label has -1, or for ReCoRD no answers.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from datasets import ClassLabel, Features, List, Value

from sinkd.tasks.fields import Fields
from sinkd.tasks.file_formats import Record

LineParser = Callable[[Fields, bool], Iterator[Record]]

UNKNOWN = -1
TRUTH = ("False", "True")
NLI = ("entailment", "contradiction", "neutral")
BINARY_NLI = ("entailment", "not_entailment")
ANLI = ("entailment", "neutral", "contradiction")
CHOICES = ("choice1", "choice2")

_TRUE_OR_FALSE = {"false": 0, "true": 1, "0": 0, "1": 1}
_TEXT, _WHOLE = Value("string"), Value("int32")


def _label(fields: Fields, words: dict[str, int], labelled: bool) -> int:
    if not labelled and (not fields.has("label") or fields.record["label"] == UNKNOWN):
        return UNKNOWN
    return fields.one_of("label", words)


def _ids(names: tuple[str, ...]) -> dict[str, int]:
    return {name: number for number, name in enumerate(names)}


def _columns(labels: tuple[str, ...], idx: object = _WHOLE, **columns: object) -> Features:
    return Features({**columns, "idx": idx, "label": ClassLabel(names=list(labels))})


def _row(fields: Fields, words: dict[str, int], labelled: bool, **columns: object) -> Record:
    return {**columns, "idx": fields.whole("idx"), "label": _label(fields, words, labelled)}


BOOLQ = _columns(TRUTH, question=_TEXT, passage=_TEXT)


def boolq(fields: Fields, labelled: bool) -> Iterator[Record]:
    """A passage and a yes/no question."""
    question, passage = fields.text("question"), fields.text("passage")
    yield _row(fields, _TRUE_OR_FALSE, labelled, question=question, passage=passage)


CB = _columns(NLI, premise=_TEXT, hypothesis=_TEXT)
RTE = _columns(BINARY_NLI, premise=_TEXT, hypothesis=_TEXT)


def _pair(names: tuple[str, ...]) -> LineParser:
    def rows(fields: Fields, labelled: bool) -> Iterator[Record]:
        premise, hypothesis = fields.text("premise"), fields.text("hypothesis")
        yield _row(fields, _ids(names), labelled, premise=premise, hypothesis=hypothesis)

    return rows


cb, rte = _pair(NLI), _pair(BINARY_NLI)

COPA = _columns(CHOICES, premise=_TEXT, choice1=_TEXT, choice2=_TEXT, question=_TEXT)


def copa(fields: Fields, labelled: bool) -> Iterator[Record]:
    """A premise and two sentences, one of which is its cause or effect."""
    fields.one_of("question", {"cause": 0, "effect": 1})
    texts = {name: fields.text(name) for name in ("premise", *CHOICES)}
    question = fields.text("question").strip().lower()
    yield _row(fields, {"0": 0, "1": 1, **_ids(CHOICES)}, labelled, **texts, question=question)


_MULTIRC_IDX = {"paragraph": _WHOLE, "question": _WHOLE, "answer": _WHOLE}
MULTIRC = _columns(TRUTH, _MULTIRC_IDX, paragraph=_TEXT, question=_TEXT, answer=_TEXT)


def multirc(fields: Fields, labelled: bool) -> Iterator[Record]:
    """A paragraph, its questions, and right and wrong answers to each; one row per answer."""
    paragraph = fields.inside("passage")
    for question in paragraph.items("questions"):
        for answer in question.items("answers"):
            parts = {"paragraph": fields, "question": question, "answer": answer}
            yield {
                "paragraph": paragraph.text("text"),
                "question": question.text("question"),
                "answer": answer.text("text", empty=True),
                "idx": {name: part.whole("idx") for name, part in parts.items()},
                "label": _label(answer, _TRUE_OR_FALSE, labelled),
            }


RECORD = Features(
    {
        "passage": _TEXT,
        "query": _TEXT,
        "entities": List(_TEXT),
        "entity_spans": {"text": List(_TEXT), "start": List(_WHOLE), "end": List(_WHOLE)},
        "answers": List(_TEXT),
        "idx": {"passage": _WHOLE, "query": _WHOLE},
    }
)


def record(fields: Fields, labelled: bool) -> Iterator[Record]:
    """A passage, its entities, and sentences in which @placeholder stands for one of them; one row per sentence."""
    passage = fields.inside("passage")
    text = passage.text("text")
    spans: list[Record] = []
    for entity in passage.items("entities"):
        start = entity.whole("start", high=len(text) - 1)
        end = entity.whole("end", low=start, high=len(text) - 1)  # inclusive
        spans.append({"text": text[start : end + 1], "start": start, "end": end + 1})
    spans.sort(key=lambda span: span["start"])
    for query in fields.items("qas"):
        answers = query.items("answers") if labelled or query.has("answers") else ()
        yield {
            "passage": text,
            "query": query.text("query"),
            "entities": list(dict.fromkeys(span["text"] for span in spans)),
            "entity_spans": {column: [span[column] for span in spans] for column in ("text", "start", "end")},
            "answers": sorted({answer.text("text") for answer in answers}),
            "idx": {"passage": fields.whole("idx"), "query": query.whole("idx")},
        }


_WIC_SPANS = dict.fromkeys(("start1", "start2", "end1", "end2"), _WHOLE)
WIC = _columns(TRUTH, word=_TEXT, sentence1=_TEXT, sentence2=_TEXT, **_WIC_SPANS)


def wic(fields: Fields, labelled: bool) -> Iterator[Record]:
    """A word in two sentences: does it have the same sense?"""
    row: Record = {name: fields.text(name) for name in ("word", "sentence1", "sentence2")}
    for number in (1, 2):
        length = len(row[f"sentence{number}"])
        row[f"start{number}"] = fields.whole(f"start{number}", high=length - 1)
        row[f"end{number}"] = fields.whole(f"end{number}", low=row[f"start{number}"] + 1, high=length)
    yield _row(fields, _TRUE_OR_FALSE, labelled, **row)


WSC = _columns(TRUTH, text=_TEXT, span1_index=_WHOLE, span2_index=_WHOLE, span1_text=_TEXT, span2_text=_TEXT)


def wsc(fields: Fields, labelled: bool) -> Iterator[Record]:
    """A sentence, a noun phrase and a pronoun: do they refer to the same thing? Spans are as in the sentence."""
    text, target = fields.text("text"), fields.inside("target")
    row: Record = {"text": text}
    for span in ("span1", "span2"):
        row[f"{span}_index"] = target.whole(f"{span}_index")
        row[f"{span}_text"] = _as_written(target.text(f"{span}_text"), text, row[f"{span}_index"])
    yield _row(fields, _TRUE_OR_FALSE, labelled, **row)


def _as_written(span: str, text: str, word: int) -> str:
    """Return a span as the sentence spells it, if they differ only in case, spacing or a final full stop.

    Of several matches, returns the one nearest to word number `word`. A span without a match ("Ann and Bob" in "Ann,
    old now, and Bob") is returned unchanged.
    """
    if span in text:
        return span
    pattern = r"\s+".join(map(re.escape, span.rstrip(".").split()))
    found = [match for match in re.finditer(pattern, text, re.IGNORECASE) if match.group()]
    if not found:
        return span
    return min(found, key=lambda match: abs(len(text[: match.start()].split()) - word)).group()


ANLI_COLUMNS = Features(
    {"uid": _TEXT, "premise": _TEXT, "hypothesis": _TEXT, "label": ClassLabel(names=list(ANLI)), "reason": _TEXT}
)


def anli(fields: Fields, labelled: bool) -> Iterator[Record]:
    """A context and a statement about it, written to mislead a model."""
    yield {
        "uid": fields.text("uid"),
        "premise": fields.text("context"),
        "hypothesis": fields.text("hypothesis"),
        "label": _label(fields, {"e": 0, "n": 1, "c": 2, **_ids(ANLI)}, labelled),
        "reason": fields.text("reason", empty=True) if fields.has("reason") else "",
    }


def row_index(row: Record) -> str:
    """Return the row's index: "7", for MultiRC "0-1-2" (paragraph, question, answer), for ANLI the uid."""
    idx = row["uid"] if "uid" in row else row["idx"]
    return "-".join(map(str, idx.values())) if isinstance(idx, dict) else str(idx)
