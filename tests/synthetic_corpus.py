"""Write a small acceptability corpus in CoLA's file layout: in half of the sentences a noun has the wrong number.

The same arguments write the same bytes, and no sentence occurs twice in any split.
"""

from pathlib import Path
from random import Random

NOUNS = "king uncle monk waiter queen aunt nun princess doctor pilot farmer clerk lamp letter kettle violin".split()
VERBS = "laughed sneezed yawned smiled fainted vanished arrived fell".split()
PLACES = "near behind beside with".split()
DETERMINERS = {False: ["this", "every"], True: ["these", "many"]}  # singular, plural


def sentence(random: Random, acceptable: bool) -> str:
    """Of three to eleven words; the number of the first noun is the determiner's if the sentence is acceptable."""

    def noun(agrees: bool = True) -> list[str]:
        plural = random.random() < 0.5
        return [random.choice(DETERMINERS[plural]), random.choice(NOUNS) + "s" * (plural == agrees)]

    words = noun(acceptable)
    for _ in range(random.randrange(3)):
        words += [random.choice(PLACES), *noun()]
    words.append(random.choice(VERBS))
    if random.random() < 0.2:
        words += ["because", "it", random.choice(VERBS)]
    return f"{' '.join(words).capitalize()}."


def write_corpus(folder: Path, n_train: int, n_dev: int, seed: int = 0) -> Path:
    """Write CoLA/train.tsv, dev.tsv and test.tsv (n_dev rows without labels); a folder for `load_task("cola", ...)`."""
    random, rows = Random(seed), dict[str, bool]()
    while len(rows) < n_train + 2 * n_dev:
        acceptable = random.random() < 0.5
        rows.setdefault(sentence(random, acceptable), acceptable)
    lines = [f"made\t{int(label)}\t{'' if label else '*'}\t{text}" for text, label in rows.items()]
    tests = [f"{number}\t{text}" for number, text in enumerate(list(rows)[n_train + n_dev :])]
    parts = {"train": lines[:n_train], "dev": lines[n_train:][:n_dev], "test": ["index\tsentence", *tests]}
    (folder / "CoLA").mkdir(parents=True)
    for split, part in parts.items():
        (folder / "CoLA" / f"{split}.tsv").write_text("\n".join(part) + "\n", encoding="utf-8")
    return folder
