"""The teacher answers once; a cache that is damaged or of something else is built anew."""

import json

import numpy as np
import pytest
import torch
from torch import nn
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from sinkd import SinkdError
from sinkd.tasks import Collator, encode, load_task
from sinkd.training.teacher import TaughtRows, cache_key, cached_logits, fingerprint, freeze, observe, read_cache

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def tokenizer(taught):
    return AutoTokenizer.from_pretrained(taught)


@pytest.fixture(scope="module")
def rows(world, tokenizer):
    return encode(load_task("cola", world.data).read("train"), tokenizer, 32)


@pytest.fixture
def teacher(taught):
    return freeze(AutoModelForSequenceClassification.from_pretrained(taught))


@pytest.fixture
def ask(rows, tokenizer, tmp_path):
    def ask(teacher, rows=rows, **keywords):
        return cached_logits(teacher, rows, Collator(tokenizer), tmp_path / "cache", 16, CPU, **keywords)

    return ask


class Counting(nn.Module):
    """A teacher that counts how many rows it was asked."""

    def __init__(self, teacher):
        super().__init__()
        self.teacher, self.config = teacher, teacher.config
        self.asked = 0

    def forward(self, **inputs):
        self.asked += len(inputs["input_ids"])
        return self.teacher(**inputs)


def home(tmp_path):
    (found,) = [path for path in (tmp_path / "cache").iterdir() if path.is_dir()]
    return found


def test_the_answers_are_the_live_teachers_in_the_order_of_the_rows(ask, teacher, rows, tokenizer):
    logits = ask(teacher)
    assert (logits.shape, logits.dtype) == ((len(rows), 2), np.float32)
    assert isinstance(logits, np.memmap)
    for i in (0, 7, len(rows) - 1):
        batch = Collator(tokenizer)([rows[i]])
        alone = observe(teacher, batch, {"logits"}).logits[0].detach().numpy()
        np.testing.assert_allclose(logits[i], alone, atol=1e-5)


def test_dropout_is_off_when_the_teacher_answers(ask, teacher):
    first = np.array(ask(teacher.train()))
    assert not teacher.training
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    np.testing.assert_array_equal(first, ask(teacher))


def test_the_second_time_the_teacher_is_not_asked(ask, teacher, rows):
    counting = Counting(teacher)
    first = ask(counting)
    assert counting.asked == len(rows)
    np.testing.assert_array_equal(ask(counting), first)
    assert counting.asked == len(rows)


def truncate(home):
    data = (home / "logits.npy").read_bytes()
    (home / "logits.npy").write_bytes(data[:-4])


def alter(home):
    data = bytearray((home / "logits.npy").read_bytes())
    data[-1] ^= 1
    (home / "logits.npy").write_bytes(bytes(data))


def of_another_key(home):
    index = json.loads((home / "index.json").read_text())
    (home / "index.json").write_text(json.dumps(index | {"key": "0" * 32}))


def of_another_format(home):
    index = json.loads((home / "index.json").read_text())
    (home / "index.json").write_text(json.dumps(index | {"format": 0}))


def half_an_index(home):
    (home / "index.json").write_text((home / "index.json").read_text()[:20])


def no_index(home):
    (home / "index.json").unlink()


def no_logits(home):
    (home / "logits.npy").unlink()


def a_pickle(home):
    np.save(home / "logits.npy", np.array([{}], dtype=object), allow_pickle=True)


DAMAGES = [truncate, alter, of_another_key, of_another_format, half_an_index, no_index, no_logits, a_pickle]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_a_damaged_or_foreign_cache_is_rebuilt(ask, teacher, rows, tmp_path, damage):
    counting = Counting(teacher)
    first = np.array(ask(counting))
    damage(home(tmp_path))
    np.testing.assert_array_equal(ask(counting), first)
    assert counting.asked == 2 * len(rows)
    assert read_cache(home(tmp_path), home(tmp_path).name, len(rows)) is not None


def test_a_cache_of_another_number_of_rows_is_not_taken(ask, teacher, rows, tmp_path):
    ask(teacher)
    assert read_cache(home(tmp_path), home(tmp_path).name, len(rows) - 1) is None


def test_the_key_is_weights_config_data_length_and_precision(teacher, rows, tokenizer, world):
    key = cache_key(teacher, rows)
    again = encode(load_task("cola", world.data).read("train"), tokenizer, 32)
    assert cache_key(teacher, again) == key
    keys = {key, cache_key(teacher, rows, torch.bfloat16), cache_key(teacher, rows.select(range(100)))}
    keys.add(cache_key(teacher, rows.select([*range(1, len(rows)), 0])))
    keys.add(cache_key(teacher, encode(load_task("cola", world.data).read("train"), tokenizer, 6)))
    keys.add(cache_key(teacher, encode(load_task("cola", world.data).read("dev"), tokenizer, 32)))
    teacher.config.layer_norm_eps = 0.1
    keys.add(cache_key(teacher, rows))
    with torch.no_grad():
        next(teacher.parameters()).view(-1)[0] += 1e-6
    keys.add(cache_key(teacher, rows))
    assert len(keys) == 8


def test_the_fingerprint_knows_a_buffer_and_a_shape():
    one, other = nn.Linear(2, 3), nn.Linear(3, 2)
    other.load_state_dict({"weight": one.weight.view(2, 3), "bias": one.bias[:2]})
    assert fingerprint(one) != fingerprint(other)
    before = fingerprint(one)
    one.register_buffer("mean", torch.zeros(2))
    assert fingerprint(one) != before


def test_a_teacher_that_gives_nan_stops_with_a_count(ask, teacher, tmp_path):
    with torch.no_grad():
        teacher.classifier.bias[0] = float("nan")
    with pytest.raises(SinkdError, match=r"not finite in 16 of 16 rows"):
        ask(teacher)
    assert not list((tmp_path / "cache").glob("*/logits.npy"))


def test_progress_is_told(ask, teacher, rows):
    told = []
    ask(teacher, on_rows=lambda done, of: told.append((done, of)))
    assert told[-1] == (len(rows), len(rows))
    assert [done for done, _ in told] == sorted(done for done, _ in told)


def test_rows_carry_their_own_answers(rows):
    logits = np.arange(2 * len(rows), dtype=np.float32).reshape(-1, 2)
    taught = TaughtRows(rows, logits)
    assert len(taught) == len(rows)
    several = taught.__getitems__([5, 2])
    for got, i in zip([*several, taught[9]], [5, 2, 9], strict=True):
        np.testing.assert_array_equal(got["teacher_logits"], logits[i])
        assert got["input_ids"] == rows[i]["input_ids"]
    with pytest.raises(SinkdError, match=f"holds 3 rows, the data set {len(rows)}"):
        TaughtRows(rows, logits[:3])


def test_hidden_states_are_shown_where_they_are_needed(teacher, rows, tokenizer):
    batch = Collator(tokenizer)([rows[0], rows[1]])
    assert observe(teacher, batch, {"logits"}).hidden_states is None
    hidden = observe(teacher, batch, {"logits", "hidden_states"}).hidden_states
    assert len(hidden) == teacher.config.num_hidden_layers + 1
    assert hidden[0].shape == (*batch["input_ids"].shape, teacher.config.hidden_size)
