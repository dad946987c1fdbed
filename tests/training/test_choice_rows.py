"""A run's seed draws its shots and the answers it aims at; what it is asked is worded alike in every run."""

import pytest

from sinkd.tasks import load_superglue
from sinkd.training.arguments import FinetuneArguments
from sinkd.training.choice_rows import ChoiceRows
from small_language_models import TEMPLATE, small_model, word_tokenizer, write_copa

DRAWN = TEMPLATE.replace("{{premise}}", '{{ ["so", "because", "why", "what"] | choice }} {{premise}}')


@pytest.fixture
def rows(tmp_path):
    write_copa(tmp_path)
    (tmp_path / "wording").mkdir()
    (tmp_path / "wording" / "templates.yaml").write_text(DRAWN)
    args = arguments(tmp_path, seed=0)
    return ChoiceRows(load_superglue("copa", tmp_path), word_tokenizer(), args, small_model("gpt2", 334).config)


def arguments(folder, **more):
    return FinetuneArguments(output_dir=str(folder / "o"), templates_dir=str(folder / "wording"), report_to=[], **more)


def test_the_seed_words_training_rows_and_no_others(rows, tmp_path):
    one, again, other = (rows.of_run(arguments(tmp_path, seed=seed)) for seed in (1, 1, 2))
    assert one.train["input_ids"] == again.train["input_ids"] != other.train["input_ids"]
    assert one.dev["dev"]["input_ids"] == other.dev["dev"]["input_ids"]
    assert one.test("test")["input_ids"] == other.test("test")["input_ids"]


def test_the_seed_draws_the_shots(rows, tmp_path):
    one, again, other = (rows.of_run(arguments(tmp_path, seed=seed, num_shots=5)) for seed in (1, 1, 2))
    assert len(one.train) == 5
    assert one.train["input_ids"] == again.train["input_ids"] != other.train["input_ids"]


def test_a_run_names_its_template_where_its_command_line_did_not(rows, tmp_path):
    args = arguments(tmp_path)
    assert args.template_name is None
    assert rows.of_run(args).template.name == args.template_name == "plain"
