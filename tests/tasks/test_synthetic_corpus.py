"""The generated corpus: seeded, balanced, in CoLA's layout, one violation a bad sentence."""

from collections import Counter
from itertools import islice
from random import Random

import pytest

from sinkd.errors import SinkdError
from sinkd.tasks import load_task, write_corpus
from sinkd.tasks.synthetic_corpus import PHENOMENA, Grammar, past, progressive, sentences, third


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("corpus"))


def test_the_corpus_is_read_as_cola_is(corpus):
    task = load_task("cola", corpus)
    train, dev, test = (task.read(split) for split in ("train", "dev", "test"))
    assert (len(train), len(dev), len(test)) == (4000, 1000, 1000)
    assert "label" not in test.column_names
    assert 0.45 < sum(train["label"]) / 4000 < 0.55
    texts = [*train["text"], *dev["text"], *test["text"]]
    assert len(set(texts)) == len(texts)


def test_files_have_colas_columns(corpus):
    lines = (corpus / "CoLA" / "train.tsv").read_text().splitlines()
    source, label, mark, _ = zip(*(line.split("\t") for line in lines), strict=True)
    assert set(source) == set(PHENOMENA)
    assert set(zip(label, mark, strict=True)) == {("0", "*"), ("1", "")}
    assert Counter(source).most_common()[-1][1] >= 333
    assert (corpus / "CoLA" / "test.tsv").read_text().startswith("index\tsentence\n0\t")


def test_a_seed_gives_the_same_bytes_and_another_one_others(tmp_path):
    folders = [write_corpus(tmp_path / str(n), 60, 20, seed) for n, seed in enumerate((5, 5, 6))]
    files = [
        [(folder / "CoLA" / f"{split}.tsv").read_bytes() for split in ("train", "dev", "test")] for folder in folders
    ]
    assert files[0] == files[1]
    assert files[0] != files[2]


@pytest.mark.parametrize("name", PHENOMENA)
def test_both_sides_of_a_pair_differ_in_one_place(name):
    grammar = Grammar(Random(0))
    for _ in range(200):
        good, bad = PHENOMENA[name](grammar)
        assert good != bad
        if name == "polarity" and "that" in good:  # "no" changes places with another determiner
            assert sorted(good) == sorted(bad)
            continue
        start = next(n for n, pair in enumerate(zip([*good, ""], [*bad, ""], strict=False)) if pair[0] != pair[1])
        shared = zip(reversed(good[start:]), reversed(bad[start:]), strict=False)
        end = next((n for n, (left, right) in enumerate(shared) if left != right), min(len(good), len(bad)) - start)
        changed = max(len(good), len(bad)) - start - end
        assert changed <= 3, (good, bad)


def test_every_phenomenon_has_both_labels_and_no_single_word_gives_a_label_away():
    rows = list(islice(sentences(1), 12000))
    assert {(name, label) for name, label, _ in rows} == {(name, label) for name in PHENOMENA for label in (0, 1)}
    seen = {0: Counter(), 1: Counter()}
    for _, label, text in rows:
        seen[label].update(set(text.lower().rstrip(".").split()))
    for word in set(seen[0]) | set(seen[1]):
        counts = seen[0][word], seen[1][word]
        assert sum(counts) < 100 or 0.15 < counts[1] / sum(counts) < 0.95, (word, counts)


def test_words_are_inflected_regularly():
    assert [third(word) for word in ("queen", "princess", "vanish", "carry", "play")] == [
        "queens", "princesses", "vanishes", "carries", "plays",
    ]  # fmt: skip
    assert [past(word) for word in ("laugh", "smile", "carry")] == ["laughed", "smiled", "carried"]
    assert [progressive(word) for word in ("laugh", "smile")] == ["laughing", "smiling"]


def test_a_corpus_too_large_for_the_grammar_is_an_error(monkeypatch):
    monkeypatch.setattr("sinkd.tasks.synthetic_corpus.PHENOMENA", {"one": lambda grammar: (["a"], ["b"])})
    with pytest.raises(SinkdError, match="no more new sentences of 'one' after 2"):
        list(sentences(0))
