"""Rows equal the tokenizer's output, and are computed once per text, tokenizer and length."""

import math

import pytest
from datasets import Dataset, Value, concatenate_datasets

from sinkd.errors import SinkdError
from sinkd.tasks import encode
from sinkd.tasks.encode import tokenizer_hash
from small_tokenizer import small_tokenizer


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("SINKD_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def files(folder):
    return sorted(folder.rglob("*.arrow"))


SINGLE = {"text": ["the lamp fell", "every king laughed at the old lamp"], "label": [0, 1], "index": ["0", "1"]}
PAIR = {"text": ["the lamp fell", "the"], "text_pair": ["the king and the nun laughed", "lamp"], "label": [0.5, 1.5]}


@pytest.mark.parametrize("segments", [True, False])
@pytest.mark.parametrize("columns", [SINGLE, PAIR], ids=["single", "pair"])
def test_rows_equal_the_tokenizers_output(columns, segments):
    tokenizer = small_tokenizer(segments=segments)
    rows = encode(Dataset.from_dict(columns), tokenizer, 8)
    texts = [columns[name] for name in ("text", "text_pair") if name in columns]
    expected = tokenizer(*texts, truncation="longest_first", max_length=8)
    assert rows["input_ids"] == expected["input_ids"]
    assert rows["length"] == [len(ids) for ids in expected["input_ids"]]
    assert max(rows["length"]) == 8
    assert rows["labels"] == columns["label"]
    assert ("token_type_ids" in rows.column_names) == segments == ("token_type_ids" in expected)
    if segments:
        assert rows["token_type_ids"] == expected["token_type_ids"]
    assert not {"text", "text_pair", "index"} & set(rows.column_names)


def test_unlabelled_rows_join_labelled_ones():
    tokenizer = small_tokenizer()
    plain = Dataset.from_dict({"text": ["the nun laughed"]})
    classes, scores = Dataset.from_dict(SINGLE), Dataset.from_dict(SINGLE | {"label": [1.0, 2.5]})
    scores = scores.cast_column("label", Value("float32"))
    joined = concatenate_datasets([encode(classes, tokenizer, 16), encode(plain, tokenizer, 16)])
    assert joined["labels"] == [0, 1, -100]
    joined = concatenate_datasets([encode(scores, tokenizer, 16), encode(plain, tokenizer, 16, regression=True)])
    assert joined.features["labels"].dtype == "float32"
    assert joined["labels"][:2] == [1.0, 2.5] and math.isnan(joined["labels"][2])


def test_text_is_tokenized_once_for_each_text_tokenizer_and_length(folder):
    rows, tokenizer = Dataset.from_dict(SINGLE), small_tokenizer()
    encoded = encode(rows, tokenizer, 8)
    (path,) = files(folder)
    assert [file["filename"] for file in encoded.cache_files] == [str(path)]  # memory-mapped
    before = path.stat().st_mtime_ns
    encode(rows, tokenizer, 8)  # whose last call has left its truncation behind
    encode(rows, small_tokenizer(), 8)
    assert [path.stat().st_mtime_ns for path in files(folder)] == [before]
    encode(rows, tokenizer, 9)
    assert len(files(folder)) == 2
    encode(rows, small_tokenizer(lowercase=False), 8)
    assert len(files(folder)) == 3
    encode(rows.select([0]), tokenizer, 8)
    assert len(files(folder)) == 4


def test_a_length_without_room_for_text_is_refused():
    with pytest.raises(SinkdError, match="found max_length 2, expected at least 3: 2 are special tokens"):
        encode(Dataset.from_dict(SINGLE), small_tokenizer(), 2)
    with pytest.raises(SinkdError, match="found max_length 4, expected at least 5: 3 are special tokens"):
        encode(Dataset.from_dict(PAIR), small_tokenizer(), 4)
    assert encode(Dataset.from_dict(PAIR), small_tokenizer(), 5)["length"] == [5, 5]


def test_a_tokenizer_without_a_fast_version_is_known_by_its_content(monkeypatch):
    from transformers import CanineTokenizer

    # Listing all of Unicode takes seconds each time; these letters are enough.
    monkeypatch.setattr("transformers.models.canine.tokenization_canine.UNICODE_VOCAB_SIZE", 128)
    assert tokenizer_hash(CanineTokenizer()) == tokenizer_hash(CanineTokenizer())
    assert tokenizer_hash(CanineTokenizer()) != tokenizer_hash(CanineTokenizer(cls_token="x"))
    rows = encode(Dataset.from_dict(SINGLE), CanineTokenizer(), 6)
    assert rows["length"] == [6, 6]


def test_real_text_is_encoded_as_the_real_vocabulary_says(shared_data):
    from transformers import BertTokenizerFast

    from sinkd.tasks import load_task

    tokenizer = BertTokenizerFast(str(shared_data / "tokenizers" / "bert-base-uncased" / "vocab.txt"))
    for name in ("rte", "cola"):
        rows = load_task(name, shared_data / "glue").read("dev")
        encoded = encode(rows, tokenizer, 64)
        texts = [rows[column] for column in ("text", "text_pair") if column in rows.column_names]
        expected = tokenizer(*map(list, texts), truncation="longest_first", max_length=64)
        assert encoded["input_ids"] == expected["input_ids"]
        assert encoded["token_type_ids"] == expected["token_type_ids"]
