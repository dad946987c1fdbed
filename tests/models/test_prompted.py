"""A prompted language model answers as one call for each prompt and answer would."""

import logging

import pytest
import torch
from tokenizers import normalizers

from sinkd import SinkdError
from sinkd.losses.feature import HIDDEN_STATES, LOGITS
from sinkd.models import PromptedClassifier, decoder_start, family_of
from sinkd.tasks import table_task
from small_language_models import word_tokenizer, write_language_model

TEXTS = ["the man ran", "a woman fell so the king laughed", "rain", "the nun slept because the lamp broke"]
KINDS = ["t5", "gpt2", "llama"]
PROMPT = "choice: {{text}}\n- {{text}} so"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("prompted")
    for kind in KINDS:
        write_language_model(folder / kind, kind)
    lines = [f"{text}\t{label}" for text, label in zip(TEXTS, ["no", "yes", "yes", "no"], strict=True)]
    (folder / "labels.tsv").write_text("\n".join(["text\tmark", *lines]) + "\n")
    (folder / "numbers.tsv").write_text("\n".join(["text\tmark", *(f"{t}\t{n}.5" for n, t in enumerate(TEXTS))]) + "\n")
    return folder


def family(
    folder, kind, answers="man ||| king ran", prompt=PROMPT, file="labels.tsv", **settings
) -> PromptedClassifier:
    task = table_task(folder / file, folder / file, text_columns=["text"], label_column="mark")
    given = type("Settings", (), {"prompt": prompt, "answers": answers, **settings})
    made = family_of(task, given, str(folder / kind), "--model_path")
    assert isinstance(made, PromptedClassifier)
    return made


@torch.no_grad()
def answered(family, path) -> torch.Tensor:
    return family.answer(family.load(str(path), "--model_path"), family.collator(list(family.rows("dev"))))


def naive(model, tokenizer, prompt: str, answer: str) -> float:
    """The log-likelihood of an answer's tokens, from one call with the whole prompt and answer."""
    asked = tokenizer(prompt)["input_ids"]
    if model.config.is_encoder_decoder:
        said = tokenizer(answer.strip())["input_ids"]
        inputs = torch.tensor([[decoder_start(model.config), *said[:-1]]])
        logits = model(input_ids=torch.tensor([asked]), decoder_input_ids=inputs).logits[0]
    else:
        said = tokenizer(prompt + answer)["input_ids"][len(asked) :]
        logits = model(input_ids=torch.tensor([[*asked, *said]])).logits[0, len(asked) - 1 : -1]
    return float(logits.double().log_softmax(-1)[range(len(said)), said].sum())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("answers", ["man ||| nun", "man ||| king ran", "the man ||| the woman laughed"])
@torch.no_grad()
def test_answers_are_the_naive_ones(folder, kind, answers):
    asked = family(folder, kind, answers)
    model = asked.load(str(folder / kind), "--model_path")
    texts = [f" {answer}" for answer in answers.split(" ||| ")]
    prompts = [PROMPT.replace("{{text}}", text) for text in TEXTS]
    expected = torch.tensor([[naive(model, asked.tokenizer, prompt, text) for text in texts] for prompt in prompts])
    torch.testing.assert_close(answered(asked, folder / kind), expected.log_softmax(-1), atol=1e-4, rtol=0)
    assert asked.dev["dev"]["labels"] == asked.train["labels"] == [0, 1, 1, 0]


def test_what_answers_share_is_read_with_the_prompt(folder):
    rows = family(folder, "gpt2", "the man ||| the king").rows("dev")
    tokenizer = word_tokenizer()
    assert tokenizer.decode(rows[2]["input_ids"]) == "choice: rain\n- rain so the"
    assert rows[2]["choices"] == [tokenizer(" man")["input_ids"], tokenizer(" king")["input_ids"]]


def test_answers_end_only_where_one_begins_another(folder):
    rows = family(folder, "gpt2", "man ||| man ran").rows("dev")
    eos, ran = word_tokenizer().eos_token_id, word_tokenizer()(" ran")["input_ids"]
    assert rows[0]["choices"] == [[eos], [*ran, eos]]


def test_a_number_is_the_mean_of_the_answers(folder):
    asked = family(folder, "gpt2", "1 ||| 2 ||| 5", file="numbers.tsv")
    model = asked.load(str(folder / "gpt2"), "--model_path")
    with torch.no_grad():
        prompts = [PROMPT.replace("{{text}}", text) for text in TEXTS]
        each = torch.tensor([[naive(model, asked.tokenizer, p, f" {n}") for n in (1, 2, 5)] for p in prompts])
    expected = each.softmax(-1) @ torch.tensor([[1.0], [2], [5]])
    torch.testing.assert_close(answered(asked, folder / "gpt2"), expected, atol=1e-4, rtol=0)


def test_the_mean_over_tokens_is_another_answer(folder):
    means, sums = family(folder, "gpt2", length_normalize=True), family(folder, "gpt2")
    assert means.answer_key != sums.answer_key  # so that caches differ
    assert (answered(means, folder / "gpt2") - answered(sums, folder / "gpt2")).abs().max() > 0.1


def test_a_long_text_is_cut_and_never_the_question(folder, caplog):
    asked = family(folder, "gpt2", prompt="{{text}} the choice is", max_length=12)
    with caplog.at_level(logging.WARNING, logger="sinkd"):
        rows = asked.rows("dev")
    assert max(rows["length"]) <= 12 and caplog.messages == ["cut the text of 2 of 4 rows to 12 tokens with the prompt"]
    shown = [word_tokenizer().decode(ids) for ids in rows["input_ids"]]
    assert shown[0] == "the man ran the choice is"
    assert shown[3].startswith("the nun") and all(text.endswith(" the choice is") for text in shown)


@pytest.mark.parametrize(
    ("answers", "settings", "reason"),
    [
        ("man ||| man", {}, "the answers 'man' and 'man' read as the same tokens"),
        ("man ||| nun", {"max_length": 5}, "the prompt without its text has 12 tokens, and the model reads 5"),
    ],
)
def test_what_cannot_be_asked_is_refused(folder, answers, settings, reason):
    with pytest.raises(SinkdError, match=reason):
        family(folder, "gpt2", answers, **settings).rows("dev")


def test_an_answer_without_tokens_is_refused(folder):
    asked = family(folder, "t5", "man ||| \u200b")
    asked.tokenizer.backend_tokenizer.normalizer = normalizers.Replace("\u200b", "")
    with pytest.raises(SinkdError, match=r"reads the answer .* as no token"):
        asked.check(str(folder / "t5"), "--model_path")


def test_hidden_states_are_refused(folder):
    with pytest.raises(SinkdError, match="shows no hidden_states, only its answers"):
        family(folder, "gpt2").observe(None, {}, {LOGITS, HIDDEN_STATES})


def test_a_language_model_needs_a_prompt_and_a_classifier_none(folder, world):
    with pytest.raises(SinkdError, match="is a language model; say how to ask it by --prompt and --answers"):
        family(folder, "gpt2", None, None)
    with pytest.raises(SinkdError, match="is no language model, which a prompt and answers are for"):
        task = table_task(folder / "labels.tsv", folder / "labels.tsv", text_columns=["text"], label_column="mark")
        family_of(task, type("S", (), {"prompt": PROMPT}), str(world.teacher), "--model_path")
