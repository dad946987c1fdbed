"""A task's scores, reports and submissions, and unlabelled text."""

import numpy as np
import pytest

from glue_layouts import LAYOUTS, write_task
from sinkd.errors import SinkdError
from sinkd.tasks import TASKS, load_task, read_unlabeled


@pytest.fixture
def glue(tmp_path):
    def load(name, **more):
        write_task(name, tmp_path / TASKS[name].folder)
        return load_task(name, tmp_path, **more)

    return load


METRICS = {
    "cola": ("mcc", {"mcc", "accuracy"}),
    "sst-2": ("accuracy", {"accuracy"}),
    "mrpc": ("f1", {"accuracy", "f1"}),
    "sts-b": ("spearman", {"pearson", "spearman"}),
    "qqp": ("accuracy", {"accuracy", "f1"}),
    "mnli": ("accuracy", {"accuracy", "accuracy_matched", "accuracy_mismatched"}),
    "qnli": ("accuracy", {"accuracy"}),
    "rte": ("accuracy", {"accuracy"}),
    "wnli": ("accuracy", {"accuracy"}),
}


@pytest.mark.parametrize("name", METRICS)
def test_each_task_reports_glues_metrics_and_has_one_that_picks_the_best(glue, name):
    task = glue(name)
    labels = np.array([0, 1, 1])
    logits = labels[:, None] * 1.0 if task.regression else np.eye(task.num_labels)[labels]
    reported = task.combine({split: task.scores(logits, labels) for split in task.dev_splits})
    metric, names = METRICS[name]
    assert task.metric == metric
    assert reported == pytest.approx(dict.fromkeys(names, 1.0))


def test_mnli_reports_both_accuracies_and_their_plain_mean(glue):
    task = glue("mnli")
    reported = task.combine({"dev_matched": {"accuracy": 0.5}, "dev_mismatched": {"accuracy": 0.8}})
    assert reported == pytest.approx({"accuracy_matched": 0.5, "accuracy_mismatched": 0.8, "accuracy": 0.65})


def test_unscorable_input_is_refused(glue):
    task = glue("cola")
    with pytest.raises(SinkdError, match=r"found logits of shape \(3, 4\) for glue/cola, expected \(3, 2\)"):
        task.scores(np.zeros((3, 4)), np.zeros(3))
    with pytest.raises(SinkdError, match="found NaN in 1 of 2 rows of logits"):
        task.scores(np.array([[0.0, np.nan], [0.0, 1.0]]), np.zeros(2))
    with pytest.raises(SinkdError, match="1 of 2 rows of glue/cola to score on have no label"):
        task.scores(np.zeros((2, 2)), np.array([0, -100]))
    with pytest.raises(SinkdError, match="found no rows to score"):
        task.scores(np.zeros((0, 2)), np.zeros(0))
    assert task.scores(np.array([[-np.inf, 0.0], [0.0, -np.inf]]), np.array([1, 0]))["mcc"] == 1.0


# Two rows whose second class wins, then the first; as the task's training file writes its labels.
SUBMISSIONS = [
    ("cola", "test", "CoLA.tsv", ["1", "0"]),
    ("sst-2", "test", "SST-2.tsv", ["1", "0"]),
    ("mrpc", "test", "MRPC.tsv", ["1", "0"]),
    ("qqp", "test", "QQP.tsv", ["1", "0"]),
    ("mnli", "test_matched", "MNLI-m.tsv", ["entailment", "contradiction"]),
    ("mnli", "test_mismatched", "MNLI-mm.tsv", ["entailment", "contradiction"]),
    ("ax", "test", "AX.tsv", ["entailment", "contradiction"]),
    ("qnli", "test", "QNLI.tsv", ["not_entailment", "entailment"]),
    ("rte", "test", "RTE.tsv", ["not_entailment", "entailment"]),
    ("wnli", "test", "WNLI.tsv", ["1", "0"]),
]


@pytest.mark.parametrize(("name", "split", "file", "words"), SUBMISSIONS)
def test_submissions_are_glues_to_the_byte(glue, tmp_path, name, split, file, words):
    task = glue(name)
    logits = np.zeros((2, task.num_labels))
    logits[0, 1] = logits[1, 0] = 1.0
    path = task.write_submission(split, logits, tmp_path / "out")
    assert path == tmp_path / "out" / file
    assert path.read_bytes() == f"index\tprediction\n10\t{words[0]}\n11\t{words[1]}\n".encode()


@pytest.mark.parametrize(
    ("scores", "written"), [([3.14159, 5.2], ["3.142", "5.000"]), ([-0.3, -0.0], ["0.000", "0.000"])]
)
def test_sts_b_has_three_decimals_from_zero_to_five(glue, tmp_path, scores, written):
    task = glue("sts-b")
    path = task.write_submission("test", np.array(scores)[:, None], tmp_path)
    assert path.name == "STS-B.tsv"
    assert path.read_bytes() == f"index\tprediction\n10\t{written[0]}\n11\t{written[1]}\n".encode()


def test_a_submission_that_would_be_short_of_rows_is_refused(glue, tmp_path):
    task = glue("rte", bad_rows="skip")
    file = task.files["test"]
    file.write_bytes(file.read_bytes() + b"12\tone column too few\n")
    with pytest.raises(SinkdError, match=r"has 1 bad rows, and a submission needs an answer for each"):
        task.write_submission("test", np.zeros((2, 2)), tmp_path / "out")


def test_fingerprint_is_that_of_the_bytes(glue):
    import hashlib

    task = glue("rte")
    before = task.fingerprint("dev")
    assert before == hashlib.sha256(task.files["dev"].read_bytes()).hexdigest()
    task.files["dev"].write_bytes(task.files["dev"].read_bytes() + b"12\tA.\tB.\tentailment\n")
    assert task.fingerprint("dev") != before
    assert len(task.read("dev")) == 3


def test_unlabeled_text_is_a_sentence_a_line(glue, tmp_path):
    path = tmp_path / "more.txt"
    path.write_bytes(b'\xef\xbb\xbfOne "sentence.\r\nAnother\twith a tab.')
    rows = read_unlabeled(path, glue("cola"))
    assert rows.column_names == ["text"]
    assert rows["text"] == ['One "sentence.', "Another\twith a tab."]


@pytest.mark.parametrize("name", ["cola", "rte", "qqp"])
def test_unlabeled_text_may_lie_in_the_tasks_own_columns(glue, name):
    task = glue(name)
    rows = read_unlabeled(task.files["test"], task)
    expected = task.read("test").remove_columns("index")
    assert rows.to_dict() == expected.to_dict()
    assert LAYOUTS[name]["test"][1] is None


def test_unlabeled_pairs_without_a_header_are_two_columns(glue, tmp_path):
    path = tmp_path / "pairs.tsv"
    path.write_text("A man walks.\tHe moves.\nIt rains.\n")
    with pytest.raises(SinkdError, match=r"pairs\.tsv, line 2: found 1 column in 'It rains\.', expected 2"):
        read_unlabeled(path, glue("rte"))


def test_bad_unlabeled_lines_are_skipped_and_counted(glue, tmp_path):
    path = tmp_path / "more.txt"
    path.write_bytes(b"One.\n   \nCaf\xe9.\nTwo.\n")
    task = glue("cola", bad_rows="skip")
    assert read_unlabeled(path, task)["text"] == ["One.", "Two."]
    assert task.skipped["unlabeled"] == 2
    with pytest.raises(SinkdError, match="no unlabeled file for glue/cola: looked for"):
        read_unlabeled(tmp_path / "none.txt", task)
