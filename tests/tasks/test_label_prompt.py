"""A row is worded by its columns' names, with one space before an answer, and wrong prompts are refused."""

from pathlib import Path

import pytest

from sinkd import SinkdError
from sinkd.tasks import load_superglue, table_task
from sinkd.tasks.label_prompt import LabelPrompt
from small_language_models import write_copa

ROW = {"text": "a door", "text_pair": "a lamp", "index": "0"}
ANSWERS = "bad ||| good"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tables")
    (folder / "pairs.csv").write_text("title,body,mark\na door,a lamp,bad\na king,a nun,good\n")
    (folder / "numbers.csv").write_text("title,body,mark\na door,a lamp,1.5\na king,a nun,3\n")
    return folder


@pytest.fixture(scope="module")
def pairs(folder):
    path = folder / "pairs.csv"
    return table_task(path, path, text_columns=["title", "body"], label_column="mark")


@pytest.mark.parametrize(
    ("prompt", "answers", "expected"),
    [
        ("{{title}} is", ANSWERS, ("a door is", [" bad", " good"])),
        ("{{title}} is ", "bad|||good", ("a door is", [" bad", " good"])),
        ("{{title}} is:\n", ANSWERS, ("a door is:", ["\nbad", "\ngood"])),
        ("{{title}} is:\n\n", ANSWERS, ("a door is:", ["\n\nbad", "\n\ngood"])),
        ("{{title}} is", "\nbad|||good", ("a door is", ["\nbad", " good"])),
        ("{{body}} {{text}} {{text_pair}} is", ANSWERS, ("a lamp a door a lamp is", [" bad", " good"])),
        ("{{title}} is ||| {{answer_choices[label]}}", ANSWERS, ("a door is", [" bad", " good"])),
        ("{{answer_choices | join(' or ')}}? {{title}}", ANSWERS, ("bad or good? a door", [" bad", " good"])),
    ],
)
def test_one_space_precedes_an_answer_unless_there_is_white_space(pairs, prompt, answers, expected):
    assert LabelPrompt.read(pairs, prompt, answers).question(ROW) == expected


def test_a_prompt_is_text_or_a_file_or_a_templates_name(pairs, folder, tmp_path):
    text = "{{title}} is"
    (tmp_path / "prompt.txt").write_text(f"{text}\n")
    named = f"templates:\n  a: !Template\n    name: verdict\n    jinja: '{text}'\n    answer_choices: bad ||| good\n"
    (tmp_path / "templates.yaml").write_text(named)
    read = [
        LabelPrompt.read(pairs, text, ANSWERS),
        LabelPrompt.read(pairs, str(tmp_path / "prompt.txt"), ANSWERS),
        LabelPrompt.read(pairs, "verdict", None, tmp_path),
    ]
    assert len({prompt.fingerprint for prompt in read}) == 1
    assert LabelPrompt.read(pairs, "verdict", "no ||| yes", tmp_path).question(ROW).answers == [" no", " yes"]


def test_text_is_cut_and_keeps_its_bars(pairs):
    prompt = LabelPrompt.read(pairs, "{{title}} / {{body}}?", ANSWERS)
    assert prompt.question({"text": "a ||| b", "text_pair": "longer"}, most=5).prompt == "a ||| / longe?"


def refusal(task, *given) -> str:
    with pytest.raises(SinkdError) as caught:
        LabelPrompt.read(task, *given).question(ROW)
    return str(caught.value)


@pytest.mark.parametrize(
    ("prompt", "answers", "reason"),
    [
        ("{{titel}} is", ANSWERS, "the prompt '{{titel}} is' reads the column titel; table/pairs has title, body"),
        ("prompts/absent.txt", ANSWERS, "is no file and shows no column; write a column as {{title}}"),
        ("{{title}", ANSWERS, "is not well formed"),
        ("{{title}} is", None, "has no answers; give one for each of bad, good"),
        ("{{title}} is", "a ||| b ||| c", r"found 3 answers (a, b, c) for the 2 labels of table/pairs (bad, good)"),
        ("{{title}} is", "a", "found 1 answers (a) for the 2 labels"),
        ("{{title}} is", "a |||", "an answer for table/pairs is empty"),
        ("{{title}} {{label}} is", ANSWERS, "shows the label"),
        ("{{title.no.such}} is", ANSWERS, "fails on example 0: UndefinedError"),
        ("{{title[:0]}}", ANSWERS, "gives no text for example 0"),
        ("{{title.__class__.__mro__}}", ANSWERS, "SecurityError"),
    ],
)
def test_a_prompt_that_does_not_fit_is_refused(pairs, prompt, answers, reason):
    assert reason in refusal(pairs, prompt, answers)


def test_a_file_that_is_not_utf_8_is_named(pairs, tmp_path):
    (tmp_path / "latin.txt").write_bytes("{{title}} é".encode("latin-1"))
    assert f"{tmp_path / 'latin.txt'} is not text in UTF-8: " in refusal(pairs, str(tmp_path / "latin.txt"), ANSWERS)


def test_numbers_stand_for_themselves(folder):
    path = folder / "numbers.csv"
    task = table_task(path, path, text_columns=["title", "body"], label_column="mark")
    assert LabelPrompt.read(task, "{{title}} has", "1 ||| 2.5 ||| 3").values == [1, 2.5, 3]
    assert "found the answer 'bad' for a number to predict" in refusal(task, "{{title}}", ANSWERS)
    assert "predicted from at least two" in refusal(task, "{{title}}", "1")


def test_a_task_of_choices_has_its_own_templates(tmp_path):
    task = load_superglue("copa", write_copa(tmp_path))
    assert "has templates of its own" in refusal(task, "{{premise}}", ANSWERS)
