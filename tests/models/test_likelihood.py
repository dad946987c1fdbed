"""Evaluation by answer likelihood equals a token-by-token reference, in any batch."""

import pytest
import torch

from sinkd.models import decoder_start
from sinkd.models.likelihood import choice_log_likelihoods
from sinkd.models.prompt_collator import PromptCollator
from small_language_models import KINDS, small_model, word_tokenizer

PROMPTS = [[5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16], [20, 21], [30, 31, 32, 33]]
CHOICES = [[[40, 1], [41, 42, 43, 1], [44, 45, 1]], [[50, 51, 1]], [[1], [60, 61, 62, 63, 64, 1]]]


def written_out(model, prompt: list[int], choice: list[int]) -> list[float]:
    """One token after the other, each from a pass over all that stands before it."""
    start = decoder_start(model.config)
    scores = []
    for i, token in enumerate(choice):
        if start is None:
            logits = model(input_ids=torch.tensor([[*prompt, *choice[:i]]])).logits
        else:
            logits = model(
                input_ids=torch.tensor([prompt]), decoder_input_ids=torch.tensor([[start, *choice[:i]]])
            ).logits
        last = logits[0, -1].double()
        scores.append(float(last[token] - last.exp().sum().log()))
    return scores


@pytest.fixture(scope="module", params=KINDS)
def model(request):
    return small_model(request.param, 300)


def ask(model, prompts, choices, **options):
    collator = PromptCollator(word_tokenizer(), decoder_start(model.config))
    with torch.no_grad():
        return choice_log_likelihoods(
            model, collator([{"input_ids": p, "choices": c} for p, c in zip(prompts, choices, strict=True)]), **options
        )


@pytest.mark.parametrize("length_normalize", [False, True])
@torch.no_grad()
def test_scores_are_the_written_out_ones(model, length_normalize):
    found = ask(model, PROMPTS, CHOICES, length_normalize=length_normalize)
    assert found.shape == (3, 3)
    for row, (prompt, choices) in enumerate(zip(PROMPTS, CHOICES, strict=True)):
        for place, choice in enumerate(choices):
            scores = written_out(model, prompt, choice)
            expected = sum(scores) / (len(scores) if length_normalize else 1)
            assert float(found[row, place]) == pytest.approx(expected, abs=2e-4)
        assert (found[row, len(choices) :] == -torch.inf).all()


def test_choices_of_one_token_need_the_prompt_alone(model):
    short = [[[7], [8]], [[9]], [[10], [11]]]
    found = ask(model, PROMPTS, short)
    with torch.no_grad():
        assert float(found[1, 0]) == pytest.approx(sum(written_out(model, PROMPTS[1], [9])), abs=2e-4)


def test_many_choices_score_as_each_alone(model):
    choices = [[40 + i, *range(50, 50 + i % 3)] for i in range(20)]
    together = ask(model, PROMPTS[:1], [choices])[0]
    alone = torch.cat([ask(model, PROMPTS[:1], [[choice]])[0] for choice in choices])
    torch.testing.assert_close(together, alone, atol=2e-4, rtol=0)


def test_the_prompt_is_read_once(model):
    """However many choices there are: tokens that the model reads of the prompt."""
    seen = []
    body = model.get_encoder() if model.config.is_encoder_decoder else model.base_model

    def note(module, args, kwargs):
        seen.append(args[0] if args else kwargs["input_ids"])

    hook = body.register_forward_pre_hook(note, with_kwargs=True)
    ask(model, PROMPTS, CHOICES)
    hook.remove()
    assert seen[0].shape == (3, 12)
    assert all(ids.shape[1] < 12 for ids in seen[1:])
