"""Examples with their choices and scores, and submissions byte for byte."""

import json

import numpy as np
import pytest

from sinkd.errors import SinkdError
from sinkd.tasks import Template, examples, load_superglue
from sinkd.tasks.wording import chosen_answers, right_answers
from superglue_layouts import LINES, write_superglue


def score(task, worded, chosen):
    """The task's scores of what was chosen."""
    return task.scores(chosen_answers(task, worded, chosen), right_answers(task, worded), worded["index"])


def submit(task, template, chosen, folder):
    """The submission of what was chosen of the test split."""
    worded = examples(task, "test", template)
    return task.write_submission("test", chosen_answers(task, worded, chosen), folder, worded["index"])


COLUMNS = ["prompt", "target", "choices", "answer", "index", "meanings", "accepted"]


def task_of(name, folder, **options):
    if not folder.joinpath(LINES[name][0]).exists():
        write_superglue(name, folder)
    return load_superglue(name, folder, **options)


COPA = Template("mine", "{{ premise }} ||| {{ answer_choices[label] }}", "{{ choice1 }} ||| {{ choice2 }}")
NLI = Template("mine", "{{ premise }} {{ hypothesis }}? ||| {{ answer_choices[label] }}", "yes ||| no ||| maybe")
TRUTH = Template("mine", "Well? ||| {{ answer_choices[label] }}", "No ||| Yes")
RECORD = Template(
    "mine", "{{ query }} ||| {% if answers %}{{ answers | choice }}{% endif %}", "{{ entities | join('|||') }}"
)


def test_examples_have_prompt_target_choices_answer_and_index(tmp_path):
    task = task_of("copa", tmp_path)
    worded = examples(task, "train", COPA)
    assert worded.column_names == COLUMNS
    assert worded[1] == {
        "prompt": "He sneezed.",
        "target": "He took a tissue.",
        "choices": ["He sang.", "He took a tissue."],
        "answer": 1,
        "index": "1",
        "meanings": ["choice1", "choice2"],
        "accepted": ["choice2"],
    }
    assert (worded["answer"], worded.features["answer"].dtype) == ([0, 1], "int64")
    assert task.skipped["train"] == 0


def test_examples_are_made_once_for_a_file_a_wording_and_a_seed(tmp_path):
    task = task_of("copa", tmp_path)
    first = examples(task, "train", COPA)
    again = examples(load_superglue("copa", tmp_path), "train", Template("renamed", COPA.jinja, COPA.answer_choices))
    assert again.cache_files == first.cache_files
    assert examples(task, "train", COPA, seed=1).cache_files != first.cache_files
    assert (
        examples(task, "train", Template("mine", COPA.jinja + " ", COPA.answer_choices)).cache_files
        != first.cache_files
    )


def test_rows_without_label_have_their_choices_and_no_target(tmp_path):
    worded = examples(task_of("copa", tmp_path), "test", COPA)
    assert (worded["prompt"], worded["target"]) == (["The cup broke.", "He sneezed."], ["", ""])
    assert (worded["answer"], worded["accepted"]) == ([-1, -1], [[], []])
    assert worded["choices"][0] == ["It fell.", "It was blue."]
    assert worded["meanings"][0] == ["choice1", "choice2"]


CAUSES = "{% if question == 'cause' %}{{ premise }} ||| {{ answer_choices[label] }}{% endif %}"


@pytest.mark.parametrize(
    "jinja",
    [CAUSES, "{{ premise }} ||| {% if question == 'cause' %}{{ answer_choices[label] }}{% endif %}"],
    ids=["nothing", "no answer"],
)
@pytest.mark.parametrize("split", ["train", "test"])
def test_rows_that_a_template_has_no_answer_for_are_skipped_and_counted(tmp_path, jinja, split):
    task = task_of("copa", tmp_path)
    template = Template("causes", jinja, COPA.answer_choices)
    for _ in range(2):  # and again, from the cache
        assert (examples(task, split, template)["index"], task.skipped[split]) == (["0"], 1)


def test_skipped_counts_bad_lines_and_rows_without_answer(tmp_path):
    file = write_superglue("copa", tmp_path) / "train.jsonl"
    file.write_text(file.read_text() + '{"idx": 2}\n')
    task = load_superglue("copa", tmp_path, bad_rows="skip")
    examples(task, "train", Template("causes", CAUSES, COPA.answer_choices))
    assert task.skipped["train"] == 2


def test_a_template_without_an_answer_for_any_row_is_an_error(tmp_path):
    with pytest.raises(
        SinkdError, match="template 'empty' has no answer for any of the 2 rows of superglue/copa train"
    ):
        examples(task_of("copa", tmp_path), "train", Template("empty", "{{ premise }}"))


def test_a_template_of_any_text_has_no_choices(tmp_path):
    task = task_of("copa", tmp_path)
    worded = examples(task, "train", Template("free", "{{ premise }} ||| {{ choice1 }}"))
    assert (worded["target"][0], worded["choices"][0], worded["answer"]) == ("It fell.", [], [-1, -1])
    with pytest.raises(SinkdError, match="found choice 0 in row 0 of superglue/copa, which has 0 choices"):
        score(task, worded, np.array([0, 0]))


def test_an_answer_that_is_none_of_the_choices_is_refused(tmp_path):
    template = Template("off", "{{ premise }} ||| Neither.", COPA.answer_choices)
    with pytest.raises(SinkdError) as error:
        examples(task_of("copa", tmp_path), "train", template)
    expected = "template 'off' fails on example 0: its answer 'Neither.' is none of its choices ['It fell.'"
    assert str(error.value).startswith(expected)


def test_a_prompt_that_shows_the_answer_cannot_be_asked_without_label(tmp_path):
    template = Template("backwards", "{{ answer_choices[label] }} ||| {{ answer_choices[label] }}", COPA.answer_choices)
    task = task_of("copa", tmp_path)
    assert examples(task, "train", template)["prompt"] == ["It fell.", "He took a tissue."]
    with pytest.raises(SinkdError, match="'backwards' fails on example 0: prompt or choices depend on the answer"):
        examples(task, "test", template)


def test_a_failing_template_names_the_example(tmp_path):
    with pytest.raises(SinkdError, match="template 'bad' fails on example 4-7-30: UndefinedError"):
        examples(task_of("multirc", tmp_path), "train", Template("bad", "{{ premise }} ||| x"))


def test_choices_in_another_order_than_the_labels_are_understood(tmp_path):
    shuffled = Template("shuffled", "{{ premise }} ||| {{ ['yes', 'no', 'maybe'][label] }}", "maybe ||| no ||| yes")
    task = task_of("cb", tmp_path)
    worded = examples(task, "train", shuffled)
    assert worded["meanings"] == [["neutral", "contradiction", "entailment"]] * 3
    assert worded["answer"] == [1, 2, 0]
    said = np.array([1, 2, 2])  # contradiction, entailment, entailment
    straight = score(task, examples(task, "train", NLI), np.array([1, 0, 0]))
    assert score(task, worded, said) == straight
    assert straight == pytest.approx({"accuracy": 2 / 3, "f1": (2 / 3 + 1 + 0) / 3})


def test_record_accepts_every_answer_and_aims_at_one(tmp_path):
    task = task_of("record", tmp_path)
    worded = examples(task, "train", RECORD)
    assert worded["choices"] == worded["meanings"] == [["Mira", "Tom", "Oslo"]] * 2
    assert worded["accepted"] == [["Oslo"], ["Mira", "Tom"]]
    assert worded["index"] == ["2-5", "2-6"]
    drawn = {examples(task, "train", RECORD, seed=seed)["target"][1] for seed in range(12)}
    assert drawn == {"Mira", "Tom"}
    for row in worded:
        assert row["choices"][row["answer"]] == row["target"]
    assert score(task, worded, np.array([2, 0]))["em"] == score(task, worded, np.array([2, 1]))["em"] == 1.0


def test_choices_of_record_may_be_sentences(tmp_path):
    one = "{{ query | replace('@placeholder', e) }}"
    choices = "{% for e in entities %}" + one + "{% if not loop.last %} ||| {% endif %}{% endfor %}"
    jinja = "{{ passage }} ||| {% if answers %}{{ query | replace('@placeholder', answers | choice) }}{% endif %}"
    task = task_of("record", tmp_path)
    for split in ("dev", "test"):
        worded = examples(task, split, Template("whole", jinja, choices))
        assert worded["choices"][0] == ["Mira is a city.", "Tom is a city.", "Oslo is a city."]
        assert worded["meanings"][0] == ["Mira", "Tom", "Oslo"]
    backwards = choices.replace("in entities", "in entities | reverse")
    worded = examples(task, "dev", Template("reverse", jinja, backwards))
    assert worded["meanings"][0] == ["Oslo", "Tom", "Mira"]
    assert score(task, worded, np.array([0, 2])) == {"f1": 1.0, "em": 1.0, "accuracy": 1.0}


def test_multirc_is_scored_by_question(tmp_path):
    task = task_of("multirc", tmp_path)
    worded = examples(task, "dev", TRUTH)
    assert worded["index"] == ["4-7-30", "4-7-31", "4-8-32"]
    # Who baked? Ann (right) and Bob (wrong) both taken; Who ate? Bob (right) taken
    scores = score(task, worded, np.array([1, 1, 1]))
    assert scores == pytest.approx({"f1a": 2 * (2 / 3) / (2 / 3 + 1), "em": 1 / 2, "accuracy": 2 / 3})
    assert score(task, worded.select([2]), np.array([1])) == {"f1a": 1.0, "em": 1.0, "accuracy": 1.0}


@pytest.mark.parametrize("name", LINES)
def test_the_metric_that_picks_the_best_is_one_of_the_scores(tmp_path, name):
    task = task_of(name, tmp_path)
    template = RECORD if name == "record" else COPA if name == "copa" else TRUTH
    if name == "cb" or name.startswith("anli"):
        template = NLI
    worded = examples(task, "dev", template)
    scores = score(task, worded, np.array(worded["answer"]))
    assert scores[task.metric] == 1.0
    assert task.combine({"dev": scores}) == scores


@pytest.mark.parametrize(("chosen", "row"), [([0, 2], 1), ([-1, 0], 0)])
def test_numbers_of_no_choice_are_refused(tmp_path, chosen, row):
    task = task_of("copa", tmp_path)
    message = f"found choice {chosen[row]} in row {row} of superglue/copa, which has 2 choices"
    with pytest.raises(SinkdError, match=message):
        score(task, examples(task, "train", COPA), np.array(chosen))


SUBMISSIONS = {
    "boolq": ("BoolQ.jsonl", TRUTH, [1, 0], b'{"idx": 0, "label": "true"}\n{"idx": 1, "label": "false"}\n'),
    "cb": (
        "CB.jsonl",
        NLI,
        [0, 2, 1],
        b'{"idx": 0, "label": "entailment"}\n{"idx": 1, "label": "neutral"}\n{"idx": 2, "label": "contradiction"}\n',
    ),
    "copa": ("COPA.jsonl", COPA, [1, 0], b'{"idx": 0, "label": 1}\n{"idx": 1, "label": 0}\n'),
    "multirc": (
        "MultiRC.jsonl",
        TRUTH,
        [1, 0, 1],
        b'{"idx": 4, "passage": {"questions": [{"idx": 7, "answers": [{"idx": 30, "label": 1}, {"idx": 31, "label": 0}'
        b']}, {"idx": 8, "answers": [{"idx": 32, "label": 1}]}]}}\n',
    ),
    "record": ("ReCoRD.jsonl", RECORD, [2, 0], b'{"idx": 5, "label": "Oslo"}\n{"idx": 6, "label": "Mira"}\n'),
    "rte": (
        "RTE.jsonl",
        TRUTH,
        [1, 0],
        b'{"idx": 0, "label": "not_entailment"}\n{"idx": 1, "label": "entailment"}\n',
    ),
    "wic": ("WiC.jsonl", TRUTH, [1], b'{"idx": 0, "label": "true"}\n'),
    "wsc": ("WSC.jsonl", TRUTH, [0, 1], b'{"idx": 0, "label": "False"}\n{"idx": 1, "label": "True"}\n'),
    "anli/r3": (
        "anli-r3.jsonl",
        NLI,
        [0, 2],
        b'{"idx": "a-1", "label": "entailment"}\n{"idx": "a-2", "label": "contradiction"}\n',
    ),
}


@pytest.mark.parametrize("name", SUBMISSIONS)
def test_a_submission_has_the_servers_format(tmp_path, name):
    file, template, chosen, expected = SUBMISSIONS[name]
    task = task_of(name, tmp_path)
    path = submit(task, template, chosen, tmp_path / "out" / "deep")
    assert (path, path.read_bytes()) == (tmp_path / "out" / "deep" / file, expected)


def test_a_submission_follows_the_meaning_of_choices(tmp_path):
    task = task_of("boolq", tmp_path)
    yes_first = Template("yes first", "Well? ||| {{ ['no', 'yes'][label] }}", "yes ||| no")
    lines = submit(task, yes_first, [0, 1], tmp_path).read_text().splitlines()
    assert [json.loads(line)["label"] for line in lines] == ["true", "false"]


def test_a_submission_needs_a_label_for_every_row(tmp_path):
    with pytest.raises(SinkdError, match="an answer for superglue/copa test stands for no label"):
        task_of("copa", tmp_path).write_submission("test", [1, -1], tmp_path, ["0", "1"])
