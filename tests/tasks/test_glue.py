"""GLUE's official files: layouts, folders, labels, and errors."""

import pytest

from glue_layouts import LAYOUTS, write_task
from sinkd.errors import SinkdError
from sinkd.tasks import TASKS, load_task


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize(
    "style", [{}, {"end": "\r\n", "bom": b"\xef\xbb\xbf", "final": False}], ids=["unix", "windows"]
)
def test_every_task_reads_its_official_layout(tmp_path, name, style):
    assert set(TASKS) == set(LAYOUTS)
    write_task(name, tmp_path / TASKS[name].folder, **style)
    task = load_task(name, tmp_path)
    text = task.source.layout.text
    for split, (header, words) in zip(task.files, LAYOUTS[name].values(), strict=True):
        rows = task.read(split)
        assert rows["text"] == [f'"{text[0]} {row} \N{SNOWMAN}' for row in range(2)]
        if len(text) == 2:
            assert rows["text_pair"] == [f'"{text[1]} {row} \N{SNOWMAN}' for row in range(2)]
        numbered = header is not None and header[0] in ("index", "id")
        assert rows["index"] == (["10", "11"] if numbered else ["0", "1"])
        assert ("label" in rows.column_names) == (words is not None)
        if words is not None:
            expected = [float(word) if task.regression else task.source.words[word] for word in words]
            assert rows["label"] == pytest.approx(expected)
            assert rows.features["label"].dtype == ("float32" if task.regression else "int64")
        assert task.skipped[split] == 0


@pytest.mark.parametrize(
    ("folder", "train", "dev", "first", "width"),
    [("CoLA", 8551, 1043, 1, 2), ("RTE", 2490, 277, 1, 2), ("SST-2", 67349, 872, 0, 2), ("STS-B", 5749, 1500, 5.0, 1)],
)
def test_real_files_have_their_known_rows(shared_data, folder, train, dev, first, width):
    task = load_task(folder, shared_data / "glue")
    rows = task.read("train")
    assert (len(rows), len(task.read("dev")), rows[0]["label"], task.num_labels) == (train, dev, first, width)
    assert task.skipped == {"train": 0, "dev": 0}
    if folder == "CoLA":
        assert len(task.read("test")) == 1063


@pytest.mark.parametrize(
    ("name", "folder"), [("cola", "COLA"), ("cola", "Cola"), ("sst-2", "SST-2"), ("sst-2", "sst2"), ("sst-2", "sst_2")]
)
def test_a_folder_is_found_in_any_spelling_and_so_is_the_folder_itself(tmp_path, name, folder):
    write_task(name, tmp_path / folder)
    for place in (tmp_path, tmp_path / folder):
        assert load_task(name, place).files["train"] == tmp_path / folder / "train.tsv"


@pytest.mark.parametrize("folder", ["diagnostic", "AX", "ax"])
def test_ax_lies_in_diagnostic_tsv(tmp_path, folder):
    write_task("ax", tmp_path / folder)
    task = load_task("ax", tmp_path)
    assert (task.dev_splits, task.test_splits, len(task.read("test"))) == ((), ("test",), 2)


@pytest.mark.parametrize("name", ["cola", "CoLA", "COLA", "glue/cola"])
def test_a_task_has_one_name_in_any_spelling(tmp_path, name):
    write_task("cola", tmp_path / "CoLA")
    assert load_task(name, tmp_path).name == "glue/cola"


def test_an_unknown_task_lists_the_names():
    with pytest.raises(
        SinkdError, match="found task 'squad', expected one of cola, sst-2, mrpc, sts-b, qqp, mnli, qnli"
    ):
        load_task("squad", ".")


def test_a_missing_folder_lists_the_places_searched(tmp_path):
    write_task("cola", tmp_path / "CoLA")
    with pytest.raises(SinkdError) as error:
        load_task("rte", tmp_path)
    assert all(part in str(error.value) for part in (f"{tmp_path}/RTE", f"{tmp_path}/rte", "train.tsv", "dev.tsv"))
    with pytest.raises(SinkdError, match="nowhere"):
        load_task("cola", tmp_path / "nowhere")
    with pytest.raises(SinkdError, match="no files of glue/rte"):  # another task's folder is not used for it
        load_task("rte", tmp_path / "CoLA")


def test_a_missing_file_is_named(tmp_path):
    write_task("rte", tmp_path / "RTE")
    (tmp_path / "RTE" / "test.tsv").unlink()
    with pytest.raises(SinkdError, match=r"no test file for glue/rte: looked for .*RTE/test\.tsv"):
        load_task("rte", tmp_path).read("test")
    with pytest.raises(SinkdError, match="has no split 'dev_matched', expected one of train, dev, test"):
        load_task("rte", tmp_path).read("dev_matched")


def test_rows_without_a_gold_label_are_left_out_of_mnli_and_counted(tmp_path):
    write_task("mnli", tmp_path / "MNLI")
    path = tmp_path / "MNLI" / "dev_matched.tsv"
    lines = path.read_text().splitlines()
    lines.append(lines[-1].rsplit("\t", 1)[0] + "\t-")
    path.write_text("\n".join(lines))
    task = load_task("mnli", tmp_path)
    assert (len(task.read("dev_matched")), task.skipped["dev_matched"]) == (2, 1)


def test_numbers_are_labels_except_in_mnli_where_their_order_is_ambiguous(tmp_path):
    write_task("rte", tmp_path / "RTE")
    (tmp_path / "RTE" / "dev.tsv").write_text("index\tsentence1\tsentence2\tlabel\n0\tA.\tB.\t1\n")
    assert load_task("rte", tmp_path).read("dev")["label"] == [1]
    write_task("mnli", tmp_path / "MNLI")
    (tmp_path / "MNLI" / "train.tsv").write_text("sentence1\tsentence2\tgold_label\nA.\tB.\t1\n")
    with pytest.raises(
        SinkdError, match="found label '1' in column 'gold_label', expected one of contradiction, entailment, neutral"
    ):
        load_task("mnli", tmp_path).read("train")


BAD = [
    ("cola", "gj04\t1\t\n", "found 3 columns in 'gj04\\t1\\t', expected 4 (source, label, mark, sentence)"),
    (
        "cola",
        "gj04\t2\t\tA sentence.\n",
        "found label '2' in column 'label', expected one of unacceptable, acceptable, 0, 1",
    ),
    ("cola", "gj04\t1\t\t  \n", "found an empty sentence in column 'sentence', expected text"),
    ("cola", b"gj04\t1\t\tcaf\xe9\n", "found byte 0xe9 at character 12 of the line, expected UTF-8 text"),
    ("cola", "\n", "found 1 column in '', expected 4"),
    ("rte", "7\tA.\t\tentailment\n", "found an empty sentence in column 'sentence2', expected text"),
    (
        "sts-b",
        "0\tg\tf\ty\to\ts\ts\tA.\tB.\t5.5\n",
        "found score '5.5' in column 'score', expected a number from 0 to 5",
    ),
]


@pytest.mark.parametrize(("name", "row", "message"), BAD)
def test_a_bad_row_stops_with_file_and_line_or_is_skipped_and_counted(tmp_path, name, row, message):
    write_task(name, tmp_path / TASKS[name].folder)
    path = tmp_path / TASKS[name].folder / "train.tsv"
    whole = path.read_bytes().splitlines(keepends=True)
    bad = row if isinstance(row, bytes) else row.encode()
    path.write_bytes(b"".join([*whole[:-1], bad, whole[-1]]))
    with pytest.raises(SinkdError) as error:
        load_task(name, tmp_path).read("train")
    assert str(error.value).startswith(f"{path}, line {len(whole)}: {message}")
    assert "--bad_rows skip" in str(error.value)
    task = load_task(name, tmp_path, bad_rows="skip")
    assert (len(task.read("train")), task.skipped["train"]) == (2, 1)
    assert (len(task.read("train")), task.skipped["train"]) == (2, 1)  # and again, from the cache
    with pytest.raises(SinkdError):  # which a strict reader does not take
        load_task(name, tmp_path).read("train")


def test_a_file_without_a_row_is_an_error(tmp_path):
    write_task("rte", tmp_path / "RTE")
    (tmp_path / "RTE" / "train.tsv").write_text("index\tsentence1\tsentence2\tlabel\n")
    with pytest.raises(SinkdError, match=r"found no row to learn from in .*train\.tsv"):
        load_task("rte", tmp_path).read("train")


def test_bad_rows_takes_two_values(tmp_path):
    write_task("cola", tmp_path / "CoLA")
    with pytest.raises(SinkdError, match="found bad_rows 'ignore', expected one of error, skip"):
        load_task("cola", tmp_path, bad_rows="ignore")
