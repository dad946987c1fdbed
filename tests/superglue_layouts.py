"""A few lines of every file of SuperGLUE and ANLI, in the layout of their archives, and a writer of them."""

import json

BOOLQ = [
    {"question": "do snails have teeth", "passage": "A snail's tongue is full of tiny teeth.", "idx": 0, "label": True},
    {"question": "is glass a metal", "passage": "Glass ||| made of sand.", "idx": 1, "label": False},
]
CB = [
    {"premise": "I don't think it rained.", "hypothesis": "it rained", "label": "contradiction", "idx": 0},
    {"premise": "She knew the bus had left.", "hypothesis": "the bus had left", "label": "entailment", "idx": 1},
    {"premise": "Did he say it was late?", "hypothesis": "it was late", "label": "neutral", "idx": 2},
]
COPA = [
    {
        "premise": "The cup broke.",
        "choice1": "It fell.",
        "choice2": "It was blue.",
        "question": "cause",
        "label": 0,
        "idx": 0,
    },
    {
        "premise": "He sneezed.",
        "choice1": "He sang.",
        "choice2": "He took a tissue.",
        "question": "effect",
        "label": 1,
        "idx": 1,
    },
]
MULTIRC = [
    {
        "idx": 4,
        "version": 1.1,
        "passage": {
            "text": "Ann baked. Bob ate.",
            "questions": [
                {
                    "idx": 7,
                    "question": "Who baked?",
                    "answers": [{"idx": 30, "text": "Ann", "label": 1}, {"idx": 31, "text": "Bob", "label": 0}],
                },
                {"idx": 8, "question": "Who ate?", "answers": [{"idx": 32, "text": "Bob", "label": 1}]},
            ],
        },
    }
]
NEWS = "Mira met Tom in Oslo.\n@highlight\nTom likes Oslo"
RECORD = [
    {
        "source": "Daily mail",
        "idx": 2,
        "passage": {
            "text": NEWS,
            "entities": [  # the file's order is not the text's; "end" is the last character
                {"start": 16, "end": 19},
                {"start": 0, "end": 3},
                {"start": 9, "end": 11},
                {"start": 33, "end": 35},
                {"start": 43, "end": 46},
            ],
        },
        "qas": [
            {
                "idx": 5,
                "query": "@placeholder is a city.",
                "answers": [{"start": 43, "end": 46, "text": "Oslo"}, {"start": 16, "end": 19, "text": "Oslo"}],
            },
            {
                "idx": 6,
                "query": "There went @placeholder.",
                "answers": [{"start": 9, "end": 11, "text": "Tom"}, {"start": 0, "end": 3, "text": "Mira"}],
            },
        ],
    }
]
RTE = [
    {"premise": "Oslo is in Norway.", "hypothesis": "Norway has Oslo.", "label": "entailment", "idx": 0},
    {"premise": "Tom sleeps.", "hypothesis": "Mira sleeps.", "label": "not_entailment", "idx": 1},
]
WIC = [
    {
        "word": "bank",
        "sentence1": "The bank is shut.",
        "sentence2": "He sat on the banks.",
        "idx": 0,
        "label": False,
        "start1": 4,
        "start2": 14,
        "end1": 8,
        "end2": 19,
        "version": 1.1,
    }
]
WSC = [
    {
        "text": "Mira lent Tom the book because he asked.",
        "target": {"span1_index": 2, "span1_text": "Tom", "span2_index": 6, "span2_text": "he"},
        "idx": 0,
        "label": True,
    },
    {
        "text": "The men thanked the women. They smiled, and the Men left.",
        "target": {"span1_index": 9, "span1_text": "The\nmen.", "span2_index": 5, "span2_text": "they"},
        "idx": 1,
        "label": False,
    },
]
ANLI = [
    {"uid": "a-1", "context": "Tom is in Oslo.", "hypothesis": "Tom is out.", "label": "c", "reason": "", "tag": "x"},
    {"uid": "a-2", "context": "Tom is in Oslo.", "hypothesis": "Tom likes it.", "label": "n", "model_label": "e"},
]

LINES = {
    "boolq": ("BoolQ", BOOLQ),
    "cb": ("CB", CB),
    "copa": ("COPA", COPA),
    "multirc": ("MultiRC", MULTIRC),
    "record": ("ReCoRD", RECORD),
    "rte": ("RTE", RTE),
    "wic": ("WiC", WIC),
    "wsc": ("WSC", WSC),
    "anli/r1": ("anli_v1.0/R1", ANLI),
    "anli/r2": ("anli_v1.0/R2", ANLI),
    "anli/r3": ("anli_v1.0/R3", ANLI),
}


def without_labels(value):
    """A line as the test files have it."""
    if isinstance(value, dict):
        return {name: without_labels(inner) for name, inner in value.items() if name != "label"}
    return [without_labels(inner) for inner in value] if isinstance(value, list) else value


def unlabelled(name, line):
    """A line of the task's test file: no labels, and for ReCoRD no answers; ANLI's has all."""
    if name == "record":
        return line | {"qas": [{k: v for k, v in query.items() if k != "answers"} for query in line["qas"]]}
    return line if name.startswith("anli") else without_labels(line)


def write_superglue(name, folder, dev="val.jsonl", end="\n", bom=b"", final=True):
    """All files of a task under `folder`, in the folder that its archive has; returns that."""
    place, rows = LINES[name]
    path = folder / place
    path.mkdir(parents=True)
    for file, lines in {
        "train.jsonl": rows,
        dev: rows[::-1],
        "test.jsonl": [unlabelled(name, line) for line in rows],
    }.items():
        text = end.join(json.dumps(line, ensure_ascii=False) for line in lines) + end * final
        (path / file).write_bytes(bom + text.encode())
    return path
