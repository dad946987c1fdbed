"""`sinkd download` writes data and models where other commands look for them, and checks size, checksum and rows."""

import hashlib
import os
import shutil
import sys
import tarfile
import threading
import zipfile
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from hub_standin import Hub
from processes import python
from sinkd.cli import download
from sinkd.cli.main import main
from sinkd.exchange.checkpoints import PUBLISHED
from sinkd.exchange.corpora import GLUE, SUPERGLUE, Archive, Corpus
from sinkd.tasks import TASKS, load_task


@pytest.fixture
def host(tmp_path, monkeypatch):
    """A folder that a server shows; `--mirror` points there."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    folder = tmp_path / "host"
    folder.mkdir()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    monkeypatch.setenv("SINKD_MIRROR", f"http://127.0.0.1:{server.server_port}/")
    monkeypatch.chdir(tmp_path)
    yield folder
    server.shutdown()
    server.server_close()


def publish(host: Path, path: str, files: dict[str, bytes] | bytes) -> Archive:
    """A file, or a ZIP archive, on the server."""
    target = host / path
    target.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(files, bytes):
        target.write_bytes(files)
    else:
        with zipfile.ZipFile(target, "w") as opened:
            for name, content in files.items():
                opened.writestr(name, content)
    return Archive(path, target.stat().st_size, hashlib.sha256(target.read_bytes()).hexdigest())


def known(monkeypatch, registry: dict[str, Corpus], name: str, **changes) -> None:
    monkeypatch.setitem(registry, name, replace(registry[name], **changes))


# The table


def test_every_task_can_be_fetched_to_a_folder_where_it_is_found(tmp_path):
    assert GLUE.keys() == TASKS.keys()
    for name, source in GLUE.items():
        for file in source.rows:
            (tmp_path / source.folder).mkdir(exist_ok=True)
            (tmp_path / source.folder / file).write_text("x\n")
        assert {path.parent.name for path in load_task(name, tmp_path).files.values()} == {source.folder}
        assert {path.name for path in load_task(name, tmp_path).files.values()} == set(source.rows)
    assert GLUE["cola"].folder == "COLA"


@pytest.mark.parametrize(("registry", "names"), [(GLUE, "cola rte sst-2 sts-b"), (SUPERGLUE, "cb copa")])
def test_row_counts_are_those_of_the_real_files(registry, names, shared_data):
    root = shared_data / ("glue" if registry is GLUE else "superglue")
    folders = {folder.name.lower(): folder for folder in root.iterdir()}
    for name in names.split():
        folder = folders[name]
        here = {file: rows for file, rows in registry[name].rows.items() if (folder / file).is_file()}
        found = replace(registry[name], folder=folder.name, rows=here).count(root)
        assert found == here and len(here) >= 2


# Data


def test_a_glue_archive_lands_in_the_published_layout_and_is_not_fetched_twice(host, monkeypatch, capsys):
    rows = {
        "train.tsv": b"g\t1\t\tA dog barks.\n" * 5,
        "dev.tsv": b"g\t0\t*\tDog a.\n",
        "test.tsv": b"index\tsentence\n0\tNo.\n",
    }
    archive = publish(host, "glue/data/CoLA.zip", {f"CoLA/{name}": text for name, text in rows.items()})
    known(monkeypatch, GLUE, "cola", archives=(archive,), rows={"train.tsv": 5, "dev.tsv": 1, "test.tsv": 1})
    for _ in range(2):
        assert main(["download", "glue", "--tasks", "CoLA"]) == 0
        said = "datas/glue/COLA: train.tsv 5 rows, dev.tsv 1 rows, test.tsv 1 rows\n"
        assert capsys.readouterr().out == said
        shutil.rmtree(host, ignore_errors=True)
    assert sorted(os.listdir("datas/glue")) == ["COLA"]
    assert len(load_task("cola", "datas/glue").read("train")) == 5


def test_mrpc_is_split_by_glues_numbers(host, monkeypatch, capsys):
    head = b"Quality\t#1 ID\t#2 ID\t#1 String\t#2 String"
    train = b"\xef\xbb\xbf" + b"\r\n".join([head, *(b"1\t%d\t%d\ta %d\tb" % (i, i + 100, i) for i in range(6))])
    test = b"\n".join([head, b"1\t7\t107\tc\td", b"0\t8\t108\te\tf"])
    names = [archive.path for archive in GLUE["mrpc"].archives]
    archives = [publish(host, name, text) for name, text in zip(names, [train, test, b"1\t101\n4\t104\n"], strict=True)]
    counts = {"train.tsv": 4, "dev.tsv": 2, "test.tsv": 2}
    known(monkeypatch, GLUE, "mrpc", archives=tuple(archives), rows=counts)
    assert main(["download", "glue", "--tasks", "mrpc", "--to", "here"]) == 0
    task = load_task("mrpc", "here")
    assert list(task.read("dev")["text"]) == ["a 1", "a 4"]
    assert list(task.read("train")["text"]) == ["a 0", "a 2", "a 3", "a 5"]
    assert Path("here/MRPC/test.tsv").read_bytes().splitlines()[:2] == [
        b"index\t#1 ID\t#2 ID\t#1 String\t#2 String", b"0\t7\t107\tc\td",
    ]  # fmt: skip
    assert os.listdir("here") == ["MRPC"]


def test_superglue_and_ax_are_written_to_their_default_folders(host, monkeypatch, capsys):
    rows = {f"{split}.jsonl": 2 for split in ("train", "val", "test")}
    archive = publish(host, "glue/superglue/data/v2/COPA.zip", {f"COPA/{name}": b'{"idx": 0}\n' * 2 for name in rows})
    known(monkeypatch, SUPERGLUE, "copa", archives=(archive,), rows=rows)
    assert main(["download", "superglue", "--tasks", "copa"]) == 0
    assert sorted(os.listdir("datas/superglue/COPA")) == sorted(rows)
    table = publish(host, "glue/data/AX.tsv", b"index\tsentence1\tsentence2\n0\ta\tb\n")
    known(monkeypatch, GLUE, "ax", archives=(table,), rows={"diagnostic.tsv": 1})
    assert main(["download", "glue", "--tasks", "ax"]) == 0
    assert list(load_task("ax", "datas/glue").read("test")["text"]) == ["a"]


def test_a_wrong_archive_or_a_wrong_count_is_one_sentence(host, monkeypatch, refusal):
    archive = publish(host, "glue/data/WNLI.zip", {f"WNLI/{name}": b"h\nx\n" for name in GLUE["wnli"].rows})
    known(monkeypatch, GLUE, "wnli", archives=(replace(archive, sha256="0" * 64),))
    assert "is not the expected file" in refusal("download", "glue", "--tasks", "wnli")
    known(monkeypatch, GLUE, "wnli", archives=(archive,))
    assert "datas/glue/WNLI/train.tsv has 1 rows, not 635" in refusal("download", "glue", "--tasks", "wnli")
    assert main(["download", "glue", "--tasks", "wnli"]) == 2  # and is not taken for whole the next time


@pytest.mark.parametrize("what", download.PLACES)
def test_a_dry_run_prints_addresses_and_fetches_nothing(what, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SINKD_MIRROR", raising=False)
    assert main(["download", what, "--dry_run"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert all((line.startswith("https://") or " on the package index " in line) and " -> " in line for line in printed)
    assert len(printed) >= len(download.PLACES[what][1])
    assert not list(tmp_path.iterdir())


def test_an_unknown_part_lists_the_known_ones(refusal):
    assert '"cola", which superglue does not have; it has boolq, cb, copa' in refusal(
        "download", "superglue", "--tasks", "cola"
    )


# Models


@pytest.mark.slow
def test_bert_comes_from_the_hub_with_one_form_of_weights(tmp_path):
    with Hub() as hub:
        small = {"config.json": b"{}", "vocab.txt": b"[PAD]\n", "README.md": b"", "tf_model.h5": b"no"}
        hub.files["google-bert/bert-base-uncased"] = small | {"model.safetensors": b"safe", "pytorch_model.bin": b"old"}
        hub.files["google/bert_uncased_L-6_H-768_A-12"] = small | {"pytorch_model.bin": b"old"}
        command = ["-m", "sinkd", "download", "bert", "--to", tmp_path / "models"]
        environment = {**hub.environment, "HF_HOME": str(tmp_path / "home")}
        done = python(*command, **environment)
    assert done.returncode == 0, done.stderr
    kept = {path.name for path in (tmp_path / "models" / "bert-base-uncased").iterdir() if path.is_file()}
    assert kept == {"config.json", "vocab.txt", "model.safetensors"}
    kept = {path.name for path in (tmp_path / "models" / "bert_uncased_L-6_H-768_A-12").iterdir() if path.is_file()}
    assert kept == {"config.json", "vocab.txt", "pytorch_model.bin"}
    # What is there is not asked for again: the hub has gone.
    again = python(*command, **environment)
    assert (again.returncode, again.stdout) == (0, done.stdout)


def test_without_the_hub_the_error_says_what_to_fetch(tmp_path, refusal):
    error = refusal("download", "bert", "--tasks", "bert-base-uncased", "--to", tmp_path)
    assert "google-bert/bert-base-uncased cannot be fetched" in error and "by hand" in error
    assert str(tmp_path / "bert-base-uncased") in error


def test_published_checkpoints_need_gdown_and_say_so(tmp_path, monkeypatch, refusal):
    monkeypatch.setitem(sys.modules, "gdown", None)
    assert "pip install 'sinkd[download]'" in refusal("download", "checkpoints", "--to", tmp_path)


def test_without_google_drive_the_error_says_what_to_fetch(tmp_path, monkeypatch, refusal):
    for name in ("https_proxy", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    error = refusal("download", "checkpoints", "--tasks", "generative", "--to", tmp_path)
    assert f"https://drive.google.com/file/d/{PUBLISHED['generative'].id}/view cannot be fetched" in error
    assert str(tmp_path / "generative") in error


def test_files_from_google_drive_are_unpacked_listed_and_not_fetched_again(tmp_path, monkeypatch, capsys):
    """gdown brings a folder of archives; only the network is replaced."""
    asked = []

    def bring(id, output, quiet, resume):
        asked.append(id)
        config = tarfile.TarInfo("cola/student/config.json")
        with tarfile.open(Path(output) / "cola.tar.gz", "w:gz") as opened:
            opened.addfile(config)
        with zipfile.ZipFile(Path(output) / "rte.zip", "w") as opened:
            opened.writestr("rte/teacher/config.json", b"{}")
        return [str(Path(output) / "rte.zip")]

    monkeypatch.setattr("gdown.download_folder", bring)
    command = ["download", "checkpoints", "--tasks", "encoders", "--to", str(tmp_path)]
    folder = tmp_path / "encoders"
    models = [folder / "cola" / "student", folder / "rte" / "teacher"]
    for _ in range(2):
        assert main(command) == 0
        assert capsys.readouterr().out == f"{folder}: {models[0]}, {models[1]}\n"
    assert asked == [PUBLISHED["encoders"].id]
    assert not list(folder.glob("*.zip")) and not list(folder.glob("*.gz"))
    # What is no longer whole is fetched again.
    (folder / "rte" / "teacher" / "config.json").write_text("")
    assert main(command) == 0
    assert len(asked) == 2 and (folder / "rte" / "teacher" / "config.json").read_text() == "{}"


def test_every_file_that_google_drive_refuses_is_named(tmp_path, monkeypatch, refusal):
    def refuse(id, output, quiet, resume):
        raise RuntimeError("Failed to download the following files:\n- a/one.zip\n- a/two.zip")

    monkeypatch.setattr("gdown.download_folder", refuse)
    assert "- a/one.zip - a/two.zip" in refusal("download", "checkpoints", "--tasks", "encoders", "--to", tmp_path)


def test_a_mirror_that_is_no_address_is_one_sentence(tmp_path, refusal):
    assert "--mirror my/folder is no address; give one that begins with https://" in refusal(
        "download", "glue", "--mirror", "my/folder", "--to", tmp_path
    )


def test_a_place_that_cannot_be_written_is_one_sentence(tmp_path, refusal):
    (tmp_path / "plain").touch()
    place = str(tmp_path / "plain" / "glue")
    for command in (["glue", "--tasks", "rte"], ["checkpoints", "--tasks", "encoders"]):
        assert "cannot be written (Not a directory)" in refusal("download", *command, "--to", place)
