"""What is known of a family comes from its config and modules: positions, segments, padding, layers."""

import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    CanineConfig,
    PerceiverConfig,
)

from sinkd import SinkdError
from sinkd.losses.feature import LOGITS
from sinkd.losses.layers import Sentences
from sinkd.models import Encoder, LanguageModel, copy_layers, decoder_start, depth, keep_layers, load_language_model
from sinkd.models.family import positions, positions_of
from sinkd.models.forward import observe
from sinkd.models.likelihood import choice_log_likelihoods, takes_left_padding
from sinkd.models.prompt_collator import PromptCollator
from sinkd.models.student import stack
from sinkd.tasks import Collator
from small_families import (
    CONFIGS,
    DECODERS,
    ENCODER_DECODERS,
    ENCODERS,
    LANGUAGE_MODELS,
    LAYERS,
    POSITIONS,
    STATEFUL,
    VOCABULARY,
    family_config,
    family_language_model,
    family_model,
    family_tokenizer,
)
from small_language_models import word_tokenizer

CLASSIFIERS = {**ENCODERS, **DECODERS}
WORDS = [f"w{n}" for n in range(200)]


@torch.no_grad()
def answer(model) -> torch.Tensor:
    ids = torch.randint(5, VOCABULARY, (3, 16), generator=torch.Generator().manual_seed(1))
    return model.eval()(input_ids=ids, attention_mask=torch.ones_like(ids)).logits


# Positions

UNLIMITED = {"xlnet", "bloom", "t5", "mt5", "mamba"}
AFTER_PADDING = {"roberta", "xlm-roberta", "camembert", "mpnet", "longformer"}


@pytest.mark.parametrize("kind", [kind for kind in CONFIGS if kind != "recurrent_gemma"])
def test_a_model_reads_as_many_tokens_as_it_has_positions(kind):
    expected = None if kind in UNLIMITED else POSITIONS - 2 if kind in AFTER_PADDING else POSITIONS
    assert positions_of(family_config(kind)) == expected


@pytest.mark.parametrize("kind", ["bert", "camembert", "mpnet", "longformer", "gpt2", "opt", "bart"])
def test_a_row_of_that_many_tokens_is_read_and_none_longer(kind):
    model = family_model(kind, AutoModelForSequenceClassification if kind in CLASSIFIERS else AutoModelForCausalLM)
    most = positions(model)
    ids = torch.arange(10, 10 + most + 1)[None]
    assert model(input_ids=ids[:, :most]).logits.isfinite().all()
    with pytest.raises((IndexError, RuntimeError)):
        model(input_ids=ids)


def test_the_longer_side_of_led_counts():
    sides = {"max_encoder_position_embeddings": 64, "max_decoder_position_embeddings": 32}
    config = AutoConfig.for_model("led", vocab_size=50, d_model=16, encoder_layers=1, decoder_layers=1, **sides)
    assert positions_of(config) == 64


# Segments and padding


@pytest.mark.parametrize("kind", CLASSIFIERS)
@torch.no_grad()
def test_padding_and_segments_leave_a_classifiers_answers_alone(kind):
    """With a tokenizer that pads on the left and gives segments as BERT's does, whatever the model."""
    tokenizer, model = family_tokenizer(kind, WORDS), family_model(kind)
    pairs = [("w1 w2", "w3"), ("w4 w5 w6 w7", "w8 w9 w10 w11 w12 w13")]
    rows = [{name: tokenizer(*pair)[name] for name in ("input_ids", "token_type_ids")} for pair in pairs]
    assert max(rows[0]["token_type_ids"]) > 0
    model.config.pad_token_id = tokenizer.pad_token_id  # as `Encoder.load` does
    family, collate = Encoder(tokenizer), Collator(tokenizer)
    together = family.answer(model, collate(rows))
    for place, row in enumerate(rows):
        torch.testing.assert_close(together[place : place + 1], family.answer(model, collate([row])))


PROMPTS, ANSWERS = [[5, 6, 7, 8, 9, 10, 11], [20, 21], [30, 31, 32]], [[40, 1], [41, 42, 43, 1], [44, 45, 1]]


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("kind", LANGUAGE_MODELS)
@torch.no_grad()
def test_padding_leaves_a_language_models_answers_alone(kind, side):
    model = family_language_model(kind)
    collate = PromptCollator(word_tokenizer(side), decoder_start(model.config))
    family = LanguageModel()
    together = family.observe(model, collate.assemble(PROMPTS, ANSWERS), {LOGITS}).logits.split([2, 4, 3])
    for row, logits in enumerate(together):
        alone = family.observe(model, collate.assemble(PROMPTS[row : row + 1], ANSWERS[row : row + 1]), {LOGITS})
        torch.testing.assert_close(logits, alone.logits, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("kind", LANGUAGE_MODELS)
@torch.no_grad()
def test_the_likelihood_of_choices_is_that_of_their_tokens(kind):
    """Also of a model that keeps a state, and cannot share a prompt among its choices."""
    model = family_language_model(kind)
    assert kind in ENCODER_DECODERS or takes_left_padding(model) == (kind not in (*STATEFUL, "bloom"))
    collate = PromptCollator(word_tokenizer("left"), decoder_start(model.config))
    rows = [{"input_ids": prompt, "choices": ANSWERS} for prompt in PROMPTS]
    found = choice_log_likelihoods(model, collate(rows))
    for row, prompt in enumerate(PROMPTS):
        logits = LanguageModel().observe(model, collate.assemble([prompt] * 3, ANSWERS), {LOGITS}).logits
        tokens = torch.tensor([token for answer in ANSWERS for token in answer])
        each = logits.log_softmax(-1).gather(1, tokens[:, None])[:, 0].split([2, 4, 3])
        torch.testing.assert_close(found[row], torch.stack([part.sum() for part in each]), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["bert", "xlnet"])
def test_a_model_that_reads_in_both_directions_is_no_decoder(kind, tmp_path):
    family_model(kind, AutoModelForCausalLM).save_pretrained(tmp_path)
    with pytest.raises(SinkdError, match="reads in both directions; give a model that predicts next words"):
        load_language_model(str(tmp_path), "--model_path")


# Layers


@pytest.mark.parametrize("layers", [[0, 3], [1, 2]])
@pytest.mark.parametrize("kind", CLASSIFIERS)
def test_kept_layers_answer_the_same_after_saving_and_loading(kind, layers, tmp_path):
    model = family_model(kind)
    if kind == "modernbert" and layers[0] > 0:
        with pytest.raises(SinkdError, match="layer 1 differs in attn_norm from the config's layer 0; keep layer 0"):
            keep_layers(model, layers)
        return
    keep_layers(model, layers).save_pretrained(tmp_path)
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert depth(loaded) == depth(model) == len(layers)
    torch.testing.assert_close(answer(loaded), answer(model))


def test_a_list_as_long_as_the_model_is_deep_may_have_nothing_to_do_with_layers(tmp_path):
    model = keep_layers(family_model("deberta-v2", num_hidden_layers=2), [1])
    assert model.config.pos_att_type == ["p2c", "c2p"]


@pytest.mark.parametrize(
    ("kind", "changes", "reason"),
    [
        ("bart", {}, "has two stacks of layers, an encoder's and a decoder's"),
        ("t5", {}, "has two stacks of layers, an encoder's and a decoder's"),
        ("albert", {"num_hidden_groups": 2}, "has 2 modules for 4 layers"),
        (
            "gpt2",
            {"scale_attn_by_inverse_layer_idx": True},
            "layer 2 differs in attn.scaling from the config's layer 1",
        ),
    ],
)
def test_layers_that_cannot_be_left_out_are_refused_for_the_true_reason(kind, changes, reason):
    with pytest.raises(SinkdError, match=reason):
        keep_layers(family_model(kind, **changes), [0, 2])


@pytest.mark.parametrize("kind", CLASSIFIERS)
def test_a_copy_has_all_of_the_teacher_but_its_head(kind):
    student, teacher = family_model(kind, seed=1), family_model(kind, seed=2)
    copy_layers(student, teacher, range(LAYERS))
    theirs = teacher.base_model.state_dict()
    for name, weight in student.base_model.state_dict().items():
        assert torch.equal(weight, theirs[name]) == ("pooler" not in name), name


def test_a_family_with_two_stacks_is_not_copied():
    with pytest.raises(SinkdError, match="two stacks of layers"):
        copy_layers(family_model("bart"), family_model("bart", seed=1), [0])


SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}


def test_a_model_without_a_table_of_tokens_is_read_and_one_that_shortens_rows_is_pooled_by_its_first_token():
    config = CanineConfig(**SMALL, num_hash_buckets=64, num_hash_functions=2, max_position_embeddings=64)
    model = AutoModelForSequenceClassification.from_config(config).eval()
    assert positions(model) == 64
    rows = {"input_ids": torch.full((2, 8), 3), "attention_mask": torch.ones(2, 8, dtype=torch.long)}
    first, mean = Sentences("student", "cls", (2,)), Sentences("student", "mean", (2,))
    assert observe(model, rows, [LOGITS, first])[first].shape == (2, 1, 16)
    with pytest.raises(SinkdError, match=r"CanineForSequenceClassification shortens rows .*--hidden_pooling cls"):
        observe(model, rows, [mean])


def test_a_config_without_a_number_of_layers_is_refused_where_one_is_needed():
    with pytest.raises(SinkdError, match="the config of a perceiver states no number of layers"):
        stack(PerceiverConfig())
