"""Arrow files: built once, shared by processes, rebuilt if damaged."""

import os
import subprocess
import sys
import time

import pytest
from datasets import Features, Value

from sinkd.errors import SinkdError
from sinkd.tasks.arrow_cache import cache_dir, cached, key_of

FEATURES = Features({"n": Value("int64")})


class Source:
    """Rows 0 to 9 in two batches; counts how often they were asked for."""

    def __init__(self, start=0):
        self.builds, self.start = 0, start

    def __call__(self):
        self.builds += 1
        yield {"n": list(range(self.start, self.start + 5))}
        yield {"n": list(range(self.start + 5, self.start + 10))}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("SINKD_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def get(key, source, notes=None):
    return cached(key_of(key), FEATURES, source, {} if notes is None else notes, "test")


def only_file(folder):
    (path,) = folder.rglob("*.arrow")
    return path


def test_the_folder_is_the_users_choice_or_in_the_home(folder, monkeypatch):
    assert cache_dir() == folder
    monkeypatch.delenv("SINKD_CACHE")
    monkeypatch.setenv("HOME", "/home/someone")
    assert str(cache_dir()) == "/home/someone/.cache/sinkd"


def test_rows_are_built_once_and_notes_come_back(folder):
    def batches():
        notes["skipped"] = 3
        yield from source()

    source, notes = Source(), {}
    first = get("a", batches, notes)
    notes = {}
    second = get("a", source, notes)
    assert (source.builds, notes) == (1, {"skipped": 3})
    assert first["n"] == second["n"] == list(range(10))
    assert first._fingerprint == second._fingerprint == key_of("a")
    assert get("b", Source(100))["n"][0] == 100


@pytest.mark.parametrize("damage", ["cut", "cut at a batch", "flipped", "emptied", "foreign"])
def test_a_damaged_file_is_rebuilt(folder, damage, caplog):
    source = Source()
    get("a", source)
    path = only_file(folder)
    whole = path.read_bytes()
    half = len(whole) // 2
    wrong = {
        "cut": whole[:-3],
        "cut at a batch": whole[: half - half % 8],
        "flipped": whole[:half] + bytes([whole[half] ^ 1]) + whole[half + 1 :],
        "emptied": b"",
        "foreign": b"something else altogether, and long enough",
    }[damage]
    path.write_bytes(wrong)
    assert get("a", source)["n"] == list(range(10))
    assert source.builds == 2
    assert "damaged" in caplog.text
    assert path.read_bytes() == whole


def test_a_build_that_fails_leaves_nothing_behind(folder):
    def batches():
        yield {"n": [1]}
        raise SinkdError("row 2 is bad")

    with pytest.raises(SinkdError, match="row 2 is bad"):
        get("a", batches)
    assert not [path for path in folder.rglob("*") if path.suffix in (".arrow", ".tmp")]
    assert get("a", Source())["n"] == list(range(10))


PROCESS = """
import sys, time
from sinkd.tasks.arrow_cache import cached, key_of
from datasets import Features, Value
def batches():
    with open(sys.argv[1], "a") as file:
        file.write("built\\n")
    for start in range(0, 50, 10):
        time.sleep(0.02)
        yield {"n": list(range(start, start + 10))}
rows = cached(key_of("shared"), Features({"n": Value("int64")}), batches, {}, "test")
assert list(rows["n"]) == list(range(50))
"""


def test_two_processes_at_once_end_with_one_whole_file(folder, tmp_path, monkeypatch):
    log = tmp_path / "log"
    command = [sys.executable, "-c", PROCESS, str(log)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen(command, env=environment)
    while not log.exists() and process.poll() is None:  # importing takes it seconds; be there while it builds
        time.sleep(0.01)
    monkeypatch.setattr(sys, "argv", ["-c", str(log)])
    exec(PROCESS, {})
    assert process.wait() == 0
    assert log.read_text() == "built\n"
    only_file(folder)


def test_a_folder_that_cannot_be_made_is_reported(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("SINKD_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(SinkdError, match=r"cannot write in .*: make room, or point SINKD_CACHE elsewhere"):
        get("a", Source())
