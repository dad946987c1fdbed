"""A written folder is complete or absent, even if the writer is killed."""

import pytest

from sinkd.models.seal import SEAL
from sinkd.training.checkpoint import PARTIAL, last_checkpoint, remove_partial, write_text, written_whole


class Killed(BaseException):
    """Stands for a kill: nothing may catch it and tidy up."""


def fill(folder, text: str) -> None:
    (folder / "part").mkdir()
    (folder / "part" / "weights").write_text(text)


def content(folder) -> dict[str, str]:
    return {str(p.relative_to(folder)): p.read_text() for p in folder.rglob("*") if p.is_file() and p.name != SEAL}


def test_the_name_appears_when_everything_is_written(tmp_path):
    with written_whole(tmp_path / "best") as partial:
        fill(partial, "new")
        assert not (tmp_path / "best").exists()
    assert content(tmp_path) == {"best/part/weights": "new"}
    assert [path.name for path in tmp_path.iterdir()] == ["best"]


def test_a_folder_is_replaced_whole(tmp_path):
    (tmp_path / "best").mkdir()
    (tmp_path / "best" / "stale").write_text("old")
    with written_whole(tmp_path / "best") as partial:
        fill(partial, "new")
        assert content(tmp_path / "best") == {"stale": "old"}
    assert content(tmp_path) == {"best/part/weights": "new"}


def test_a_failure_inside_leaves_the_old_folder_complete(tmp_path):
    with written_whole(tmp_path / "best") as partial:
        fill(partial, "old")
    with pytest.raises(Killed), written_whole(tmp_path / "best") as partial:
        fill(partial, "half")
        raise Killed
    assert content(tmp_path / "best") == {"part/weights": "old"}
    remove_partial(tmp_path)
    assert content(tmp_path) == {"best/part/weights": "old"}


def test_files_of_a_failed_writer_are_not_mixed_into_the_next_one(tmp_path):
    with pytest.raises(Killed), written_whole(tmp_path / "best") as partial:
        (partial / "leftover").write_text("half")
        raise Killed
    with written_whole(tmp_path / "best") as partial:
        fill(partial, "new")
    assert content(tmp_path / "best") == {"part/weights": "new"}


@pytest.mark.parametrize("renames", [0, 1, 2])
def test_a_kill_at_any_rename_leaves_one_whole_folder(tmp_path, monkeypatch, renames):
    target = tmp_path / "best"
    with written_whole(target) as partial:
        fill(partial, "old")
    rename, done = type(target).rename, []

    def dying(self, goal):
        if len(done) == renames:
            raise Killed
        done.append(goal)
        return rename(self, goal)

    monkeypatch.setattr(type(target), "rename", dying)
    if renames < 2:
        with pytest.raises(Killed), written_whole(target) as partial:
            fill(partial, "new")
    else:
        with written_whole(target) as partial:
            fill(partial, "new")
    monkeypatch.undo()
    remove_partial(tmp_path)
    assert content(tmp_path) == {"best/part/weights": "old" if renames < 2 else "new"}
    assert not (tmp_path / PARTIAL).exists()


def test_one_that_does_not_write_waits_for_the_one_that_does(tmp_path):
    with written_whole(tmp_path / "best") as partial, written_whole(tmp_path / "best", writer=False) as same:
        assert same == partial
        fill(partial, "new")
    assert content(tmp_path) == {"best/part/weights": "new"}


def test_removing_partial_folders_touches_nothing_else(tmp_path):
    (tmp_path / "notes").write_text("mine")
    remove_partial(tmp_path)
    remove_partial(tmp_path / "absent")
    assert content(tmp_path) == {"notes": "mine"}


def test_text_is_replaced_at_once(tmp_path, monkeypatch):
    path = tmp_path / "deep" / "metrics.json"
    write_text(path, "old")

    def dying(*args):
        raise Killed

    monkeypatch.setattr("sinkd.training.checkpoint.os.replace", dying)
    with pytest.raises(Killed):
        write_text(path, "new")
    assert path.read_text() == "old"
    monkeypatch.undo()
    write_text(path, "Grüße")
    assert path.read_text(encoding="utf-8") == "Grüße"
    assert [p.name for p in path.parent.iterdir()] == ["metrics.json"]


def test_the_last_checkpoint_is_the_newest_by_number(tmp_path):
    assert last_checkpoint(tmp_path / "absent") is None
    assert last_checkpoint(tmp_path) is None
    for number in ("9", "0010", "2", "last"):
        (tmp_path / f"checkpoint-{number}").mkdir()
    (tmp_path / "checkpoint-11").write_text("a file")
    assert last_checkpoint(tmp_path).name == "checkpoint-0010"
