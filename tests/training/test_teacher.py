"""The teacher answers once; a cache that is damaged or belongs to something else is rebuilt."""

import multiprocessing
import time

import numpy as np
import pytest
import torch
from torch import nn
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from sinkd import SinkdError
from sinkd.losses.attribution import Attribution
from sinkd.losses.feature import HIDDEN_STATES, LOGITS, Feature
from sinkd.models.forward import observe
from sinkd.tasks import Collator, encode, load_task
from sinkd.training.answered_rows import TAUGHT, TaughtRows
from sinkd.training.arguments import DistillationArguments
from sinkd.training.fingerprint import fingerprint_model
from sinkd.training.teacher import Teacher
from sinkd.training.teacher_cache import Answers


@pytest.fixture(scope="module")
def tokenizer(taught):
    return AutoTokenizer.from_pretrained(taught)


@pytest.fixture(scope="module")
def rows(world, tokenizer):
    return encode(load_task("cola", world.data).read("train"), tokenizer, 32)


@pytest.fixture
def teacher(taught):
    return AutoModelForSequenceClassification.from_pretrained(taught).eval().requires_grad_(False)


@pytest.fixture
def ask(rows, tokenizer, tmp_path):
    def ask(teacher, features=(LOGITS,), dtype="float32", **keywords):
        args = DistillationArguments(
            output_dir=str(tmp_path / "out"),
            teacher_cache_dir=str(tmp_path / "cache"),
            teacher_cache_dtype=dtype,
            use_cpu=True,
            report_to=[],
        )
        return Teacher(teacher).answers(features, rows, Collator(tokenizer), args, **keywords)

    return ask


def kept(answers):
    """All logits of a store, (n, C)."""
    return torch.stack([answers[row]["logits"] for row in range(len(answers))])


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
    (found,) = (tmp_path / "cache").glob("*/logits.float32/00000")
    return found


def test_the_answers_are_the_live_teachers_in_the_order_of_the_rows(ask, teacher, rows, tokenizer):
    logits = kept(ask(teacher))
    assert (logits.shape, logits.dtype) == ((len(rows), 2), torch.float32)
    for i in (0, 7, len(rows) - 1):
        batch = Collator(tokenizer)([rows[i]])
        alone = observe(teacher, batch, [LOGITS]).logits[0].detach()
        torch.testing.assert_close(logits[i], alone, atol=1e-5, rtol=0)


def test_dropout_is_off_when_the_teacher_answers(ask, teacher):
    first = kept(ask(teacher.train()))
    assert not teacher.training
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    assert torch.equal(first, kept(ask(teacher)))


def test_the_second_time_the_teacher_is_not_asked(ask, teacher, rows):
    counting = Counting(teacher)
    first = kept(ask(counting))
    assert counting.asked == len(rows)
    assert torch.equal(kept(ask(counting)), first)
    assert counting.asked == len(rows)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_answers_can_be_kept_in_half_the_space(ask, teacher, tmp_path, dtype):
    whole, half = kept(ask(teacher)), kept(ask(teacher, dtype=dtype))
    assert torch.equal(half, whole.to(getattr(torch, dtype)).float())
    (folder,) = (tmp_path / "cache").glob(f"*/logits.{dtype}/00000")
    assert np.load(folder / "values.npy").nbytes == np.load(home(tmp_path) / "values.npy").nbytes // 2


class Tokens(Feature):
    """One number a token: rows of different length."""

    name = "tokens"

    def read(self, seen, batch):
        return torch.where(batch["attention_mask"].bool(), batch["input_ids"], 0).float()

    def split(self, value, batch, counts=None):
        return [row[:n] for row, n in zip(value, batch["attention_mask"].sum(1).tolist(), strict=True)]

    def join(self, rows, batch):
        return torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True)


def test_a_new_feature_is_added_to_the_store_and_read_back(ask, teacher, rows, tokenizer, tmp_path):
    ask(teacher)
    counting = Counting(teacher)
    answers = ask(teacher, [LOGITS, Tokens()])
    assert len(list((tmp_path / "cache").glob("*/*/00000"))) == 2  # one store, two features
    taught = TaughtRows(rows, Collator(tokenizer), [answers])
    batch = taught.collate([taught[3], taught[9], taught[4]])
    (values,) = batch[TAUGHT]
    assert torch.equal(values["tokens"].long(), batch["input_ids"] * batch["attention_mask"])
    assert torch.equal(values["logits"], torch.stack([answers[row]["logits"] for row in (3, 9, 4)]))
    ask(counting, [LOGITS, Tokens()])
    again = counting.asked
    ask(counting)
    assert (again, counting.asked) == (len(rows), len(rows))


def fill(home, n_rows):
    """Fill a store as one of several processes would; which shards it computed."""
    computed = []

    def answer(wanted, missing):
        computed.append(wanted.start // 10)
        time.sleep(0.01)
        return {"logits": [torch.tensor([float(row), -float(row)]) for row in wanted]}

    Answers(home, [LOGITS], n_rows, shard=10).fill(answer)
    return computed


def test_a_store_is_the_same_for_any_number_of_processes(tmp_path):
    assert fill(tmp_path / "one", 95) == list(range(10))
    with multiprocessing.get_context("fork").Pool(3) as pool:
        shares = pool.starmap(fill, [(tmp_path / "three", 95)] * 3, chunksize=1)
    assert sorted(shard for share in shares for shard in share) == list(range(10)), "each shard is computed once"
    assert sum(bool(share) for share in shares) > 1
    for name in [path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*.npy")]:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "three" / name).read_bytes()


def test_only_a_lost_shard_is_recomputed(tmp_path):
    fill(tmp_path / "store", 35)
    (tmp_path / "store/logits.float32/00002/values.npy").unlink()
    assert fill(tmp_path / "store", 35) == [2]


def test_the_key_is_weights_config_data_length_and_precision(teacher, rows, tokenizer, world):
    def encoded(split, length):
        return encode(load_task("cola", world.data).read(split), tokenizer, length)

    def key(rows=rows, *autocast):
        return Teacher(teacher).key(rows, *autocast)

    keys = [key(), key(rows, torch.bfloat16), key(encoded("train", 6)), key(encoded("dev", 32))]
    keys += [key(rows.select(range(100))), key(rows.select([*range(1, len(rows)), 0]))]
    assert key(encoded("train", 32)) == keys[0]
    teacher.config.layer_norm_eps = 0.1
    keys.append(key())
    with torch.no_grad():
        next(teacher.parameters()).view(-1)[0] += 1e-6
    assert len({*keys, key()}) == 8


def test_the_fingerprint_knows_a_buffer_and_a_shape():
    one, other = nn.Linear(2, 3), nn.Linear(3, 2)
    other.load_state_dict({"weight": one.weight.view(2, 3), "bias": one.bias[:2]})
    assert fingerprint_model(one) != fingerprint_model(other)
    before = fingerprint_model(one)
    one.register_buffer("mean", torch.zeros(2))
    assert fingerprint_model(one) != before


def test_a_teacher_that_gives_nan_stops_with_a_count(ask, teacher, tmp_path):
    with torch.no_grad():
        teacher.classifier.bias[0] = float("nan")
    with pytest.raises(SinkdError, match=r"not finite in 16 of 16 rows"):
        ask(teacher)
    assert not list((tmp_path / "cache").rglob("*.npy"))


def test_progress_is_reported(ask, teacher, rows):
    told = []
    ask(teacher, on_rows=lambda done, of: told.append((done, of)))
    assert told[-1] == (len(rows), len(rows))
    assert [done for done, _ in told] == sorted(done for done, _ in told)


def test_rows_carry_their_own_answers(ask, teacher, rows, tokenizer):
    answers = ask(teacher)
    taught = TaughtRows(rows, Collator(tokenizer), [answers])
    assert len(taught) == len(rows)
    several = taught.__getitems__([5, 2])
    for got, i in zip([*several, taught[9]], [5, 2, 9], strict=True):
        assert torch.equal(got[TAUGHT][0]["logits"], answers[i]["logits"])
        assert got["input_ids"] == rows[i]["input_ids"]
    with pytest.raises(SinkdError, match=f"answers for {len(rows)} rows, the data set 3 rows"):
        TaughtRows(rows.select(range(3)), Collator(tokenizer), [answers])


def test_hidden_states_are_captured_if_needed(teacher, rows, tokenizer):
    batch = Collator(tokenizer)([rows[0], rows[1]])
    assert list(observe(teacher, batch, [LOGITS]).features) == ["logits"]
    hidden = observe(teacher, batch, [LOGITS, HIDDEN_STATES])[HIDDEN_STATES]
    assert len(hidden) == teacher.config.num_hidden_layers + 1
    assert hidden[0].shape == (*batch["input_ids"].shape, teacher.config.hidden_size)


def test_nothing_that_a_frozen_teacher_shows_has_a_graph(teacher, rows, tokenizer):
    batch = Collator(tokenizer)([rows[0], rows[1]])
    with torch.no_grad():
        view = observe(teacher, batch, [LOGITS, HIDDEN_STATES, Attribution(2, 2)])
    for value in (view.logits, *view[HIDDEN_STATES], view[Attribution(2, 2)]):
        assert not value.requires_grad
    assert observe(teacher.requires_grad_(True), batch, [LOGITS, Attribution(1, 2)]).logits.requires_grad
