"""GLUE's file layouts, written out column by column, and a writer of two rows of each file."""

PARSES = ["index", "promptID", "pairID", "genre", "sentence1_binary_parse", "sentence2_binary_parse"]
MNLI = [*PARSES, "sentence1_parse", "sentence2_parse", "sentence1", "sentence2"]
STS = "index genre filename year old_index source1 source2 sentence1 sentence2".split()
NLI = ["index", "sentence1", "sentence2"]

# task -> {file: (header, label column's words in rows)}; the columns, names and order of the official archive.
LAYOUTS = {
    "cola": {"train": (None, "10"), "dev": (None, "01"), "test": (["index", "sentence"], None)},
    "sst-2": {
        "train": (["sentence", "label"], "10"),
        "dev": (["sentence", "label"], "01"),
        "test": (["index", "sentence"], None),
    },
    "mrpc": {
        "train": (["Quality", "#1 ID", "#2 ID", "#1 String", "#2 String"], "10"),
        "dev": (["Quality", "#1 ID", "#2 ID", "#1 String", "#2 String"], "01"),
        "test": (["index", "#1 ID", "#2 ID", "#1 String", "#2 String"], None),
    },
    "sts-b": {
        "train": ([*STS, "score"], ["5.000", "0.25"]),
        "dev": ([*STS, "score"], ["3.8", "0"]),
        "test": (STS, None),
    },
    "qqp": {
        "train": (["id", "qid1", "qid2", "question1", "question2", "is_duplicate"], "10"),
        "dev": (["id", "qid1", "qid2", "question1", "question2", "is_duplicate"], "01"),
        "test": (["id", "question1", "question2"], None),
    },
    "mnli": {
        "train": ([*MNLI, "label1", "gold_label"], ["neutral", "contradiction"]),
        "dev_matched": ([*MNLI, *(f"label{n}" for n in range(1, 6)), "gold_label"], ["entailment", "neutral"]),
        "dev_mismatched": ([*MNLI, *(f"label{n}" for n in range(1, 6)), "gold_label"], ["neutral", "entailment"]),
        "test_matched": (MNLI, None),
        "test_mismatched": (MNLI, None),
    },
    "qnli": {
        "train": (["index", "question", "sentence", "label"], ["not_entailment", "entailment"]),
        "dev": (["index", "question", "sentence", "label"], ["entailment", "not_entailment"]),
        "test": (["index", "question", "sentence"], None),
    },
    "rte": {
        "train": ([*NLI, "label"], ["not_entailment", "entailment"]),
        "dev": ([*NLI, "label"], ["entailment", "not_entailment"]),
        "test": (NLI, None),
    },
    "wnli": {"train": ([*NLI, "label"], "10"), "dev": ([*NLI, "label"], "01"), "test": (NLI, None)},
    "ax": {"diagnostic": (NLI, None)},
}
LABELS = ("label", "gold_label", "Quality", "score", "is_duplicate")
TEXTS = ("sentence", "sentence1", "sentence2", "question", "question1", "question2", "#1 String", "#2 String")


def cell(column, row, words):
    if column in LABELS:
        return words[row]
    if column in TEXTS:
        return f'"{column} {row} \N{SNOWMAN}'
    return str(10 + row) if column in ("index", "id") else f"{column}{row}"


def write_task(name, folder, end="\n", bom=b"", final=True):
    """Two rows of every file of a task, in the task's own layout."""
    folder.mkdir(parents=True)
    for file, (header, words) in LAYOUTS[name].items():
        columns = header or ["source", "label", "mark", "sentence"]
        rows = [[cell(column, row, words) for column in columns] for row in range(2)]
        text = end.join("\t".join(row) for row in ([header] if header else []) + rows) + end * final
        (folder / f"{file}.tsv").write_bytes(bom + text.encode())
