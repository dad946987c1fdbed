"""A run's seed draws its shots and the answers it aims at; what it is asked is worded alike in every run."""

import numpy as np
import pytest

from sinkd import SinkdError
from sinkd.models import LanguageModel
from sinkd.models.family import Reading
from sinkd.tasks import load_superglue
from small_language_models import TEMPLATE, small_model, word_tokenizer, write_copa

DRAWN = TEMPLATE.replace("{{premise}}", '{{ ["so", "because", "why", "what"] | choice }} {{premise}}')


@pytest.fixture
def family(tmp_path):
    write_copa(tmp_path)
    (tmp_path / "wording").mkdir()

    def family(seed=0, template=DRAWN, **reading):
        (tmp_path / "wording" / "templates.yaml").write_text(template)
        task, config = load_superglue("copa", tmp_path), small_model("gpt2", 334).config
        reading = Reading(templates_dir=str(tmp_path / "wording"), **reading)
        return LanguageModel(word_tokenizer(), task, reading, config).for_seed(seed)

    return family


def test_the_seed_words_training_rows_and_no_others(family):
    one, again, other = map(family, (1, 1, 2))
    assert one.train["input_ids"] == again.train["input_ids"] != other.train["input_ids"]
    assert one.dev["dev"]["input_ids"] == other.dev["dev"]["input_ids"]
    assert one.rows("test")["input_ids"] == other.rows("test")["input_ids"]


def test_the_seed_draws_the_shots(family):
    one, again, other = (family(seed, num_shots=5) for seed in (1, 1, 2))
    assert len(one.train) == 5
    assert one.train["input_ids"] == again.train["input_ids"] != other.train["input_ids"]


def test_the_tasks_first_template_is_the_default(family):
    assert family().template_name == "plain"


def test_a_submission_answers_every_row(family, tmp_path):
    # an answer for one of the two questions
    causes = TEMPLATE.replace("{% if question", '{% if question == "cause" %}{% if question').replace(
        "]}}'", "]}}{% endif %}'"
    )
    some = family(template=causes)
    with pytest.raises(
        SinkdError, match="has no answer for 6 rows of superglue/copa test, and a submission answers all"
    ):
        some.write_submission("test", np.zeros((6, 2)), tmp_path)
