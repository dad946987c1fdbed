"""Prompts and answers are tokenised as the kind of model requires."""

import pytest
from datasets import Dataset, List, Value

from sinkd import SinkdError
from sinkd.models.prompt import PromptReader, answer_rows, choice_rows
from sinkd.models.prompt_collator import PromptCollator
from small_language_models import word_tokenizer

EOS = 1


@pytest.fixture(scope="module")
def tokenizer():
    return word_tokenizer()


def test_a_decoders_answer_begins_with_its_space(tokenizer):
    reader = PromptReader(tokenizer, one_sequence=True)
    (answer,) = reader.answers(["the man laughed"])
    assert answer == [*tokenizer(" the man laughed")["input_ids"], EOS]
    assert tokenizer.decode(reader.prompts(["the king fell because"])[0] + answer[:-1]) == (
        "the king fell because the man laughed"
    )


def test_the_tokens_of_an_answer_do_not_depend_on_its_batch():
    joining = word_tokenizer()
    joining.add_tokens([": king"])  # so that no answer can be cut from behind a colon where it begins with a king
    reader = PromptReader(joining, one_sequence=True)
    texts = ["king ran", "  the man"]
    together = reader.answers(texts)
    assert together == [answer for text in texts for answer in reader.answers([text])]
    assert together[0] == [*joining(" king ran")["input_ids"], EOS]


def test_an_encoder_decoders_answer_stands_alone(tokenizer):
    reader = PromptReader(tokenizer, one_sequence=False)
    assert reader.answers(["the man"]) == [[*tokenizer("the man")["input_ids"], EOS]]


def test_input_eos_ends_prompts(tokenizer):
    plain, ended = (PromptReader(tokenizer, False, input_eos=eos).prompts(["the man"])[0] for eos in (False, True))
    assert ended == [*plain, EOS]


@pytest.mark.parametrize("one_sequence", [False, True])
def test_lengths_are_kept_to_special_tokens_included(tokenizer, one_sequence):
    reader = PromptReader(tokenizer, one_sequence, max_length=5, target_max_length=4, input_eos=True)
    (prompt,), (answer,) = reader.prompts([" man" * 20]), reader.answers(["king " * 20])
    assert (len(prompt), prompt[-1]) == (5, EOS)
    assert (len(answer), answer[-1]) == (4, EOS)


def test_long_prompts_are_cut_on_the_tokenizers_side(tokenizer):
    text = " man king nun"
    whole = PromptReader(tokenizer, True).prompts([text])[0]
    other = word_tokenizer()
    other.truncation_side = "left"
    assert PromptReader(tokenizer, True, max_length=2).prompts([text])[0] == whole[:2]
    assert PromptReader(other, True, max_length=2).prompts([text])[0] == whole[-2:]


@pytest.mark.parametrize(("name", "value"), [("max_length", 0), ("target_max_length", 1)])
def test_lengths_without_room_for_tokens_are_refused(tokenizer, name, value):
    with pytest.raises(SinkdError, match=f"--{name} is {value}; it must be at least"):
        PromptReader(tokenizer, True, **{name: value})


@pytest.mark.parametrize("one_sequence", [False, True])
def test_rows_know_how_long_their_longest_sequence_is(tokenizer, one_sequence):
    words = {"prompt": [" man king"], "target": ["nun"], "choices": [["nun", "nun nun nun"]], "answer": [0]}
    reader = PromptReader(tokenizer, one_sequence)
    answers, choices = (encode(Dataset.from_dict(words), reader) for encode in (answer_rows, choice_rows))
    right, longest = reader.answers(["nun", "nun nun nun"])
    assert (answers["answer_ids"][0], choices["choices"][0], choices["labels"][0]) == (right, [right, longest], 0)
    # of one sequence all is read but its last token
    expected = [2 + len(ids) - 1 if one_sequence else max(2, len(ids)) for ids in (right, longest)]
    assert [answers["length"][0], choices["length"][0]] == expected


def test_examples_without_choices_cannot_be_asked(tokenizer):
    examples = Dataset.from_dict({"prompt": ["the"], "target": ["nun"], "choices": [[]], "answer": [-1]})
    examples = examples.cast_column("choices", List(Value("string")))
    with pytest.raises(SinkdError, match="1 examples have no choices to compare"):
        choice_rows(examples, PromptReader(tokenizer, True))


PROMPTS, ANSWERS = [[5, 6, 7, 8], [9, 10]], [[11, 1], [12, 13, 14, 1]]


@pytest.mark.parametrize("side", ["left", "right"])
def test_positions_are_those_that_predict_the_answers(side):
    """In one sequence the logits at a position predict the next token: there stands the answer, or the row ends."""
    collator = PromptCollator(word_tokenizer(side), None)
    batch = collator.assemble(PROMPTS, ANSWERS)
    assert batch["labels"].tolist() == [11, 1, 12, 13, 14, 1]
    assert batch["counts"].tolist() == [2, 4]
    assert batch["columns"].tolist() == sorted(set(batch["positions"][:, 1].tolist()))
    for (row, place), label in zip(batch["positions"].tolist(), batch["labels"].tolist(), strict=True):
        assert batch["attention_mask"][row, place] == 1
        inside = place + 1 < batch["input_ids"].shape[1] and batch["attention_mask"][row, place + 1] == 1
        assert (batch["input_ids"][row, place + 1].item() if inside else 1) == label
    assert ("position_ids" in batch) == (side == "left")
    assert collator.prompts_of(batch) == PROMPTS


def test_the_decoder_of_an_encoder_decoder_is_shifted_by_its_start_token():
    collator = PromptCollator(word_tokenizer(), 0)
    batch = collator.assemble(PROMPTS, ANSWERS)
    assert batch["decoder_input_ids"].tolist() == [[0, 11, 0, 0], [0, 12, 13, 14]]
    assert batch["positions"].tolist() == [[0, 0], [0, 1], [1, 0], [1, 1], [1, 2], [1, 3]]
    assert collator.prompts_of(batch) == PROMPTS


def test_pad_to_pads_prompts():
    assert PromptCollator(word_tokenizer(), 0, pad_to=9).assemble(PROMPTS, ANSWERS)["input_ids"].shape == (2, 9)


def test_a_tokenizer_without_padding_pads_with_its_end():
    tokenizer = word_tokenizer()
    tokenizer.pad_token = None
    batch = PromptCollator(tokenizer, None).assemble([[5, 6, 7, 8], [9]], [[11, 1], [12, 1]])
    assert batch["input_ids"].tolist() == [[5, 6, 7, 8, 11], [9, 12, 1, 1, 1]]
    assert batch["attention_mask"].sum(1).tolist() == [5, 2]
