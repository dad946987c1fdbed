"""A family's rows depend on the seed only where they should, and rows that a model cannot read are refused."""

import numpy as np
import pytest
from transformers import RobertaConfig, RobertaForSequenceClassification

from sinkd import SinkdError
from sinkd.models import Encoder, LanguageModel, load_tokenizer
from sinkd.models.family import Reading, positions
from sinkd.tasks import load_superglue, load_task
from small_language_models import TEMPLATE, small_model, word_tokenizer, write_copa

SIZES = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32, "num_hidden_layers": 1}
SIZES |= {"vocab_size": 50, "max_position_embeddings": 40}


def test_rows_that_do_not_fit_a_model_are_refused(world):
    task, tokenizer = load_task("cola", world.data), load_tokenizer(str(world.teacher), "test")
    sizes = SIZES | {"vocab_size": len(tokenizer), "max_position_embeddings": 6}
    model = RobertaForSequenceClassification(RobertaConfig(**sizes, pad_token_id=0))

    def rows(length):
        family = Encoder(tokenizer, task, Reading(max_seq_length=length))
        return family.train, family.dev["dev"]

    with pytest.raises(SinkdError, match=r"tokens do not fit the model, which reads 5; give --max_seq_length 5"):
        Encoder().refuse_long_rows(positions(model), *rows(128))
    Encoder().refuse_long_rows(positions(model), *rows(5))


DRAWN = TEMPLATE.replace("{{premise}}", '{{ ["so", "because", "why", "what"] | choice }} {{premise}}')


@pytest.fixture
def language_model(tmp_path):
    write_copa(tmp_path)
    (tmp_path / "wording").mkdir()

    def language_model(seed=0, template=DRAWN, **reading):
        (tmp_path / "wording" / "templates.yaml").write_text(template)
        task, config = load_superglue("copa", tmp_path), small_model("gpt2", 334).config
        reading = Reading(templates_dir=str(tmp_path / "wording"), **reading)
        return LanguageModel(word_tokenizer(), task, reading, config).for_seed(seed)

    return language_model


def test_the_seed_words_training_rows_and_no_others(language_model):
    one, again, other = map(language_model, (1, 1, 2))
    assert one.train["input_ids"] == again.train["input_ids"] != other.train["input_ids"]
    assert one.dev["dev"]["input_ids"] == other.dev["dev"]["input_ids"]
    assert one.rows("test")["input_ids"] == other.rows("test")["input_ids"]


def test_the_seed_draws_the_shots(language_model):
    one, again, other = (language_model(seed, num_shots=5) for seed in (1, 1, 2))
    assert len(one.train) == 5
    assert one.train["input_ids"] == again.train["input_ids"] != other.train["input_ids"]


def test_the_tasks_first_template_is_the_default(language_model):
    assert language_model().template_name == "plain"


def test_a_submission_answers_every_row(language_model, tmp_path):
    # an answer for one of the two questions
    causes = TEMPLATE.replace("{% if question", '{% if question == "cause" %}{% if question').replace(
        "]}}'", "]}}{% endif %}'"
    )
    some = language_model(template=causes)
    with pytest.raises(
        SinkdError, match="has no answer for 6 rows of superglue/copa test, and a submission answers all"
    ):
        some.write_submission("test", np.zeros((6, 2)), tmp_path)
