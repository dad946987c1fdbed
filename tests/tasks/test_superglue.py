"""SuperGLUE's and ANLI's official files: the hub's schema, folders, errors."""

import json
import re

import pytest
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from hub_standin import Hub
from processes import python
from sinkd.errors import SinkdError
from sinkd.tasks import SUPERGLUE, load_superglue, names_superglue, superglue
from sinkd.tasks.fields import Fields
from sinkd.tasks.glue import TASKS
from superglue_layouts import LINES, NEWS, write_superglue

TRUTH = ["False", "True"]
SPANS = {"text": ["Mira", "Tom", "Oslo", "Tom", "Oslo"], "start": [0, 9, 16, 33, 43], "end": [4, 12, 20, 36, 47]}
PAIR = {"premise", "hypothesis", "idx", "label"}

# task -> (columns, label names, first training row where it is not the line itself)
SCHEMA = {
    "boolq": ({"question", "passage", "idx", "label"}, TRUTH, {"label": 1}),
    "cb": (PAIR, ["entailment", "contradiction", "neutral"], {"label": 1}),
    "copa": ({"premise", "choice1", "choice2", "question", "idx", "label"}, ["choice1", "choice2"], {"label": 0}),
    "multirc": (
        {"paragraph", "question", "answer", "idx", "label"},
        TRUTH,
        {
            "paragraph": "Ann baked. Bob ate.",
            "question": "Who baked?",
            "answer": "Ann",
            "idx": {"paragraph": 4, "question": 7, "answer": 30},
            "label": 1,
        },
    ),
    "record": (
        {"passage", "query", "entities", "entity_spans", "answers", "idx"},
        None,
        {
            "passage": NEWS,
            "query": "@placeholder is a city.",
            "entities": ["Mira", "Tom", "Oslo"],
            "entity_spans": SPANS,
            "answers": ["Oslo"],
            "idx": {"passage": 2, "query": 5},
        },
    ),
    "rte": (PAIR, ["entailment", "not_entailment"], {"label": 0}),
    "wic": (
        {"word", "sentence1", "sentence2", "start1", "start2", "end1", "end2", "idx", "label"},
        TRUTH,
        {"label": 0},
    ),
    "wsc": (
        {"text", "span1_index", "span2_index", "span1_text", "span2_text", "idx", "label"},
        TRUTH,
        {"span1_index": 2, "span1_text": "Tom", "span2_index": 6, "span2_text": "he", "label": 1},
    ),
    **dict.fromkeys(
        ("anli/r1", "anli/r2", "anli/r3"),
        (
            {"uid", "premise", "hypothesis", "label", "reason"},
            ["entailment", "neutral", "contradiction"],
            {"premise": "Tom is in Oslo.", "label": 2},
        ),
    ),
}


@pytest.mark.parametrize("name", LINES)
@pytest.mark.parametrize(
    "style", [{}, {"end": "\r\n", "bom": b"\xef\xbb\xbf", "final": False}], ids=["unix", "windows"]
)
def test_every_task_reads_its_official_layout_into_the_hubs_schema(tmp_path, name, style):
    assert set(SUPERGLUE) == set(LINES) == set(SCHEMA)
    write_superglue(name, tmp_path, **style)
    task = load_superglue(name, tmp_path)
    assert task.name == (name if "/" in name else f"superglue/{name}")
    assert (task.splits, task.dev_splits, task.test_splits) == (("train", "dev", "test"), ("dev",), ("test",))
    columns, labels, first = SCHEMA[name]
    rows = task.read("train")
    assert set(rows.column_names) == columns
    assert labels is None or rows.features["label"].names == labels
    assert task.labels == tuple(labels or ())
    line = LINES[name][1][0]
    assert rows[0] == {column: line.get(column) for column in columns} | first
    assert {split: len(task.read(split)) for split in task.splits} == dict.fromkeys(task.splits, len(rows))
    assert task.skipped == {"train": 0, "dev": 0, "test": 0}
    hidden = task.read("test")
    if name == "record":
        assert hidden["answers"] == [[], []]
    else:  # ANLI's test files have labels
        assert hidden["label"] == (rows["label"] if name.startswith("anli") else [-1] * len(rows))


def test_each_answer_of_multirc_is_a_row(tmp_path):
    write_superglue("multirc", tmp_path)
    rows = load_superglue("multirc", tmp_path).read("dev")
    found = [(row["question"], row["answer"], row["label"], row["idx"]["answer"]) for row in rows]
    assert found == [("Who baked?", "Ann", 1, 30), ("Who baked?", "Bob", 0, 31), ("Who ate?", "Bob", 1, 32)]


def test_record_has_each_answer_once(tmp_path):
    write_superglue("record", tmp_path)
    assert load_superglue("record", tmp_path).read("train")["answers"] == [["Oslo"], ["Mira", "Tom"]]


def test_spans_of_wsc_are_as_the_sentence_writes_them(tmp_path):
    write_superglue("wsc", tmp_path)
    row = load_superglue("wsc", tmp_path).read("train")[1]
    assert (row["span1_text"], row["span2_text"]) == ("the Men", "They")  # the one near word 9; case and stop repaired
    lost = LINES["wsc"][1][0] | {
        "target": {"span1_index": 0, "span1_text": "Ann.", "span2_index": 6, "span2_text": "he"}
    }
    (tmp_path / "WSC" / "train.jsonl").write_text(json.dumps(lost))
    assert load_superglue("wsc", tmp_path).read("train")["span1_text"] == ["Ann."]  # nowhere: as it was


@pytest.mark.parametrize(
    ("name", "train", "dev", "test", "first"), [("copa", 400, 100, 500, 0), ("CB", 250, 56, 250, 0)]
)
def test_real_files_have_their_known_rows(shared_data, name, train, dev, test, first):
    task = load_superglue(name, shared_data / "superglue")
    assert [len(task.read(split)) for split in task.splits] == [train, dev, test]
    assert task.read("train")[0]["label"] == first
    assert set(task.read("test")["label"]) == {-1}
    assert task.skipped == {"train": 0, "dev": 0, "test": 0}


@pytest.mark.parametrize("dev", ["val.jsonl", "validation.jsonl", "dev.jsonl"])
def test_the_dev_file_has_several_names(tmp_path, dev):
    write_superglue("copa", tmp_path, dev=dev)
    assert load_superglue("copa", tmp_path).files["dev"].name == dev


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("copa", "COPA"),
        ("copa", "copa"),
        ("wsc", "wsc.fixed"),
        ("anli/r1", "anli/R1"),
        ("anli/r1", "ANLI/r1"),
        ("anli/r1", "R1"),
        ("anli/r1", "anli_v1.0/R1"),
    ],
)
def test_a_folder_is_found_in_any_spelling_and_so_is_the_folder_itself(tmp_path, name, folder):
    written = write_superglue(name, tmp_path / "written")
    (tmp_path / "data" / folder).parent.mkdir(parents=True)
    written.rename(tmp_path / "data" / folder)
    for place in (tmp_path / "data", tmp_path / "data" / folder):
        assert load_superglue(name, place).files["train"] == tmp_path / "data" / folder / "train.jsonl"


@pytest.mark.parametrize(
    ("names", "task"),
    [
        (("copa", "COPA", "superglue/copa", "super_glue/copa", "superglue/COPA"), "superglue/copa"),
        (("wsc", "super_glue/wsc.fixed"), "superglue/wsc"),
        (("superglue/rte", "super_glue/RTE"), "superglue/rte"),
        (("anli/r2", "anli_r2", "ANLI-R2", "anli/train_r2", "anli/dev_r2", "superglue/anli_r2"), "anli/r2"),
    ],
)
def test_a_task_has_one_name_in_any_spelling(tmp_path, names, task):
    for known in LINES:
        write_superglue(known, tmp_path)
    assert {load_superglue(name, tmp_path).name for name in names} == {task}
    assert all(map(names_superglue, names))


def test_a_bare_name_that_glue_has_is_glues():
    assert not names_superglue("rte")
    assert not names_superglue("RTE")
    assert not any(map(names_superglue, TASKS))
    assert not names_superglue("squad")
    assert names_superglue("superglue/squad")  # for the error that lists the tasks


def test_an_unknown_task_lists_the_names():
    with pytest.raises(SinkdError, match=r"found task 'superglue/squad', expected one of superglue/boolq, .*, anli/r3"):
        load_superglue("superglue/squad", ".")


def test_a_missing_folder_lists_the_places_searched(tmp_path):
    write_superglue("copa", tmp_path)
    with pytest.raises(SinkdError) as error:
        load_superglue("boolq", tmp_path)
    parts = ("superglue/boolq", "train.jsonl", "val.jsonl or validation.jsonl", f"{tmp_path}/BoolQ")
    assert all(part in str(error.value) for part in parts)
    with pytest.raises(SinkdError, match="no files of superglue/boolq"):  # the folder is another task's
        load_superglue("boolq", tmp_path / "COPA")
    with pytest.raises(SinkdError, match="nowhere"):
        load_superglue("copa", tmp_path / "nowhere")


def test_a_missing_file_or_split_is_named(tmp_path):
    write_superglue("copa", tmp_path)
    (tmp_path / "COPA" / "val.jsonl").unlink()
    task = load_superglue("copa", tmp_path)
    assert task.splits == ("train", "test")
    with pytest.raises(SinkdError, match=r"no dev file for superglue/copa: looked for .*val\.jsonl or .*dev\.jsonl"):
        task.read("dev")
    with pytest.raises(SinkdError, match="superglue/copa has no split 'validation', expected one of train, dev, test"):
        task.read("validation")


def changed(line, path, value):
    """A line with another value at a path of keys and numbers; the key is left out for `...`."""
    line = json.loads(json.dumps(line))
    at = line
    for key in path[:-1]:
        at = at[key]
    if value is ...:
        del at[path[-1]]
    else:
        at[path[-1]] = value
    return json.dumps(line)


ANSWER = ("passage", "questions", 1, "answers", 0)
BAD = [
    ("copa", ("premise",), ..., "field 'premise': found nothing, expected text that is not empty"),
    ("copa", ("choice1",), "\ud800", "field 'choice1': found '\\ud800', expected text of whole characters"),
    ("copa", ("question",), "why", "field 'question': found 'why', expected one of cause, effect"),
    ("copa", ("label",), ..., "field 'label': found nothing, expected one of 0, 1, choice1, choice2"),
    ("copa", ("idx",), "0", "field 'idx': found '0', expected a whole number from 0"),
    ("copa", ("idx",), True, "field 'idx': found True, expected a whole number from 0"),
    ("copa", ("idx",), 2**31, "field 'idx': found 2147483648, expected a whole number from 0"),
    ("boolq", ("label",), None, "field 'label': found None, expected one of false, true, 0, 1"),
    ("cb", ("label",), 0, "field 'label': found 0, expected one of entailment, contradiction, neutral"),
    ("wic", ("end1",), 4, "field 'end1': found 4, expected a whole number from 5 to 17"),
    ("wsc", ("target",), [], "field 'target': found [], expected an object"),
    ("multirc", ("passage", "questions"), [], "field 'passage.questions': found [], expected a list of objects"),
    ("multirc", ("passage", "questions", 0), 3, "field 'passage.questions[0]': found 3, expected an object"),
    ("multirc", (*ANSWER, "text"), 3, "field 'passage.questions[1].answers[0].text': found 3, expected text"),
    ("record", ("passage", "entities", 1, "end"), 47, "field 'passage.entities[1].end': found 47, expected a whole"),
    ("record", ("qas", 0, "answers"), [], "field 'qas[0].answers': found [], expected a list of objects that is not"),
    (
        "anli/r3",
        ("label",),
        "x",
        "field 'label': found 'x', expected one of e, n, c, entailment, neutral, contradiction",
    ),
]


@pytest.mark.parametrize(("name", "path", "value", "message"), BAD)
def test_a_bad_line_stops_with_file_line_and_field_or_is_skipped_and_counted(tmp_path, name, path, value, message):
    file = write_superglue(name, tmp_path) / "train.jsonl"
    good = file.read_text()
    file.write_text(changed(LINES[name][1][0], path, value) + "\n" + good)
    with pytest.raises(SinkdError) as error:
        load_superglue(name, tmp_path).read("train")
    assert str(error.value).startswith(f"{file}, line 1, {message}")
    assert "--bad_rows skip" in str(error.value)
    task = load_superglue(name, tmp_path, bad_rows="skip")
    whole = len(load_superglue(name, tmp_path).read("dev"))
    for _ in range(2):  # and again, from the cache
        assert (len(task.read("train")), task.skipped["train"]) == (whole, 1)


def test_a_line_of_multirc_is_taken_whole_or_not_at_all(tmp_path):
    file = write_superglue("multirc", tmp_path) / "train.jsonl"
    file.write_text(changed(LINES["multirc"][1][0], (*ANSWER, "text"), None) + "\n")
    with pytest.raises(SinkdError, match="found no row to learn from"):
        load_superglue("multirc", tmp_path, bad_rows="skip").read("train")


def write_tables(task, folder, pattern, splits):
    """The rows of a task as tables; `pattern`: a table's place, with {split} in it."""
    for split, name in splits.items():
        path = folder / pattern.format(split=name)
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = task.read(split)
        Dataset.from_list(rows.to_list(), features=rows.features).to_parquet(path)


def write_card(folder, config, pattern, splits):
    """The card of a data set, which says where its tables are."""
    files = [{"split": name, "path": pattern.format(split=name)} for name in splits.values()]
    card = {"configs": [{"config_name": config, "data_files": files}]}
    (folder / "README.md").write_text(f"---\n{json.dumps(card)}\n---\n")


SPLITS = {"train": "train", "dev": "validation", "test": "test"}


@pytest.mark.parametrize("name", ["copa", "record", "wsc", "anli/r2"])
def test_without_a_folder_rows_come_from_the_hub_and_are_the_same(tmp_path, monkeypatch, name):
    """`datasets` reads a local folder as it reads a repository of the hub; only the download is left out."""
    write_superglue(name, tmp_path / "files")
    local = load_superglue(name, tmp_path / "files")
    anli = name.startswith("anli")
    words = {split: f"{split}_r2" for split in SPLITS} if anli else SPLITS
    config = "plain_text" if anli else "wsc.fixed" if name == "wsc" else name
    write_tables(local, tmp_path / "hub", config + "/{split}.parquet", words)
    write_card(tmp_path / "hub", config, config + "/{split}.parquet", words)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "datasets"))
    monkeypatch.setattr(superglue, "ANLI_HUB" if anli else "HUB", str(tmp_path / "hub"))
    monkeypatch.chdir(tmp_path)
    task = load_superglue(name)
    assert (task.files, task.splits) == ({}, local.splits)
    for split in task.splits:
        assert task.read(split).to_list() == local.read(split).to_list()
        assert task.read(split).features == local.read(split).features
        assert len(task.fingerprint(split)) == 64
    assert task.fingerprint("train") != task.fingerprint("dev")
    with pytest.raises(SinkdError, match="has no split 'validation', expected one of train, dev, test"):
        task.read("validation")


@pytest.mark.slow
@pytest.mark.parametrize("main", ["tables", "program"])
def test_the_hub_is_asked_for_tables_and_never_for_a_program_to_run(tmp_path, main):
    """Over HTTP. A data set may be a program still: its tables are in another revision then."""
    write_superglue("copa", tmp_path / "files")
    local = load_superglue("copa", tmp_path / "files")
    for folder, pattern in {
        "tables": "copa/{split}-00000-of-00001.parquet",
        "export": "copa/{split}/0000.parquet",
    }.items():
        write_tables(local, tmp_path / folder, pattern, SPLITS)
    write_card(tmp_path / "tables", "copa", "copa/{split}-*", SPLITS)
    (tmp_path / "program").mkdir()
    (tmp_path / "program" / "super_glue.py").write_text("raise SystemExit('a program was run')")
    program = "import json; from sinkd.tasks import load_superglue; task = load_superglue('copa')\n"
    program += "print(json.dumps({split: task.read(split).to_list() for split in task.splits}))"
    with Hub() as hub:
        for revision, folder in {"": main, "@refs/convert/parquet": "export"}.items():
            files = [path for path in (tmp_path / folder).rglob("*") if path.is_file()]
            content = {str(path.relative_to(tmp_path / folder)): path.read_bytes() for path in files}
            hub.files[f"datasets/aps/super_glue{revision}"] = content
        done = python("-c", program, cwd=tmp_path, HF_HOME=str(tmp_path / "home"), **hub.environment)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {split: local.read(split).to_list() for split in local.splits}
    assert any("/refs%2Fconvert%2Fparquet/copa/train/" in path for path in hub.asked) == (main == "program")


def test_datas_superglue_is_the_default_folder(tmp_path, monkeypatch):
    write_superglue("copa", tmp_path / "datas" / "superglue")
    monkeypatch.chdir(tmp_path)
    assert str(load_superglue("copa").files["train"]) == "datas/superglue/COPA/train.jsonl"
    assert load_superglue("boolq").files == {}


def test_without_folder_and_network_the_error_says_where_to_put_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    task = load_superglue("boolq")
    with pytest.raises(SinkdError) as error:
        task.read("train")
    parts = ("cannot load aps/super_glue from the hub", "put the files of superglue/boolq into datas/superglue/BoolQ")
    assert all(part in str(error.value) for part in parts)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters())
    | st.sampled_from(["\ud83d", "\0"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


def places(value, path=()):
    """Every path into a JSON value."""
    yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in inner:
        yield from places(part, (*path, key))


@pytest.mark.parametrize("name", LINES)
@settings(deadline=None)
@given(data=st.data())
def test_any_value_in_any_field_is_a_row_of_the_schema_or_an_error_that_names_it(name, data):
    line = LINES[name][1][0]
    path = data.draw(st.sampled_from([path for path in places(line) if path]))
    value = data.draw(JSON)
    entry = SUPERGLUE[name]
    try:
        rows = list(entry.parse(Fields(json.loads(changed(line, path, value))), True))
    except SinkdError as error:
        assert re.match(r"field '[\w.\[\]]+': found .*, expected ", str(error), re.DOTALL)
    else:
        table = Dataset.from_list(rows, features=entry.features)
        assert table.to_list() == rows
