"""A model's shape is computed from its config, and agrees with the model that transformers builds."""

import pytest
from transformers import AutoConfig, AutoModelForSequenceClassification, LlamaConfig, T5Config

from sinkd import SinkdError
from sinkd.estimate.memory import Plan, estimate, needed
from sinkd.estimate.shape import SIZES, read_shape, shape_of
from small_families import CONFIGS, LAYERS, family_config

# As the papers and the checkpoints' own pages give them, in millions
PUBLISHED = {
    "22m": 22.7, "110m": 109.5, "340m": 335.1, "77m": 77.0, "250m": 247.6, "780m": 783.2, "3b": 2849.8, "11b": 11135.3,
    "125m": 125.2, "1.3b": 1315.6, "2.7b": 2651.3,
}  # fmt: skip


@pytest.mark.parametrize("size", SIZES)
def test_a_size_has_the_published_number_of_parameters(size):
    assert read_shape(size, "--student").parameters / 1e6 == pytest.approx(PUBLISHED[size], rel=1e-3)


def test_a_folder_has_the_shape_of_the_model_in_it(world):
    shape = read_shape(str(world.teacher), "--teacher", labels=3)
    model = AutoModelForSequenceClassification.from_pretrained(world.teacher, num_labels=3)
    assert shape.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert (shape.kind, shape.layers, shape.decoder_layers) == ("encoder", 2, 0)
    assert (shape.width, shape.widest, shape.outputs) == (32, 128, 3)
    layer = sum(parameter.numel() for parameter in model.bert.encoder.layer[0].parameters())
    assert (shape.layer, shape.outside) == (layer, shape.parameters - 2 * layer)


def test_encoder_decoders_and_decoders_are_distinguished():
    t5 = shape_of(
        T5Config(vocab_size=100, d_model=16, num_layers=2, num_decoder_layers=3, num_heads=2, d_kv=4, d_ff=32)
    )
    assert (t5.kind, t5.layers, t5.decoder_layers, t5.outputs) == ("encoder-decoder", 2, 3, 100)
    sizes = {"hidden_size": 16, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 2}
    llama = shape_of(LlamaConfig(vocab_size=100, **sizes))
    assert (llama.kind, llama.layers, llama.decoder_layers, llama.widest) == ("decoder", 2, 0, 40)


@pytest.mark.parametrize("kind", ["t5", "mt5", "bart", "pegasus", "prophetnet", "modernbert", "albert", "mamba"])
def test_any_family_is_estimated(kind):
    # ProphetNet's config names its depths in a way of its own
    sizes = {"hidden_size": 16, "vocab_size": 100, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32}
    sizes |= {f"num_{side}_{name}": 2 for side in ("encoder", "decoder") for name in ("layers", "attention_heads")}
    config = family_config(kind) if kind in CONFIGS else AutoConfig.for_model(kind, **sizes)
    shape = shape_of(config)
    assert (shape.kind == "encoder-decoder") == config.is_encoder_decoder == (shape.decoder_layers > 0)
    assert shape.layers == (LAYERS if kind in CONFIGS else 2)
    assert needed(estimate(shape, Plan(batch_size=2, max_seq_length=16, answer_tokens=4))) > 16 * shape.parameters


def test_a_family_that_decides_by_values_is_refused():
    with pytest.raises(SinkdError, match="longformer does not run on tensors without values"):
        estimate(shape_of(family_config("longformer")), Plan(batch_size=2, max_seq_length=16))


def test_the_vocabulary_can_be_overridden():
    more = read_shape("22m", "--student", vocabulary=40000).parameters - read_shape("22m", "--student").parameters
    assert more == (40000 - 30522) * 384


@pytest.mark.parametrize("size", ["7b", "100m", "1.5b"])
def test_an_unknown_size_lists_the_known_ones(size):
    with pytest.raises(SinkdError, match=f"--student is {size}, which is not a known size.*110m.*or give a folder"):
        read_shape(size, "--student")
