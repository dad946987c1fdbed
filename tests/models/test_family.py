"""What a family knows of its models it reads from their config and modules."""

import pytest
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    MPNetConfig,
    MPNetForSequenceClassification,
    RobertaConfig,
    RobertaForSequenceClassification,
)

from sinkd import SinkdError
from sinkd.models import Encoder, load_tokenizer
from sinkd.models.family import Reading, positions
from sinkd.tasks import load_task
from small_language_models import small_model

SIZES = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32, "num_hidden_layers": 1}
SIZES |= {"vocab_size": 50, "max_position_embeddings": 40}


@pytest.mark.parametrize(
    ("model", "config", "padding", "expected"),
    [
        (BertForSequenceClassification, BertConfig, 0, 40),
        (RobertaForSequenceClassification, RobertaConfig, 1, 38),
        (RobertaForSequenceClassification, RobertaConfig, 0, 39),
        (MPNetForSequenceClassification, MPNetConfig, 1, 38),
    ],
)
def test_positions_begin_behind_the_padding_of_their_embedding(model, config, padding, expected):
    assert positions(model(config(**SIZES, pad_token_id=padding))) == expected


def test_language_models_read_as_far_as_their_config_says():
    assert positions(small_model("gpt2", 300, positions=64)) == 64
    assert positions(small_model("t5", 300)) is None


def test_rows_that_do_not_fit_a_model_are_refused(world):
    task, tokenizer = load_task("cola", world.data), load_tokenizer(str(world.teacher), "test")
    sizes = SIZES | {"vocab_size": len(tokenizer), "max_position_embeddings": 6}
    model = RobertaForSequenceClassification(RobertaConfig(**sizes, pad_token_id=0))
    with pytest.raises(SinkdError, match=r"tokens do not fit the model, which reads 5; give --max_seq_length 5"):
        Encoder(tokenizer, task).refuse_long_rows(model)
    Encoder(tokenizer, task, Reading(max_seq_length=5)).refuse_long_rows(model)
