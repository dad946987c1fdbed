"""Only promptsource's templates are unpacked from its archive."""

import io
import os
import stat
import tarfile
import zipfile

import pytest

from processes import python
from sinkd.errors import SinkdError
from sinkd.exchange import promptsource
from sinkd.exchange.promptsource import unpack_templates
from sinkd.tasks.template_folders import promptsource_dir

COPA = b"templates: {a: !Template {jinja: x ||| y}}"
ROOT = "promptsource-0.2.3/promptsource/templates"


def archive(folder, members, name="promptsource-0.2.3.tar.gz"):
    """A source distribution of these members."""
    path = folder / name
    with tarfile.open(path, "w:gz") as tar:
        for member, content in members.items():
            info = tarfile.TarInfo(member)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def files(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir())


def test_only_templates_are_unpacked(tmp_path):
    members = {
        f"{ROOT}/super_glue/copa/templates.yaml": COPA,
        f"{ROOT}/anli/templates.yaml": COPA,
        f"{ROOT}/anli/script.py": b"print()",
        "promptsource-0.2.3/setup.py": b"print()",
        "promptsource-0.2.3/promptsource/other.yaml": b"x",
        "promptsource-0.2.3/elsewhere/promptsource/templates/templates.yaml": b"x",
    }
    folder = tmp_path / "cache" / "out"
    folder.parent.mkdir()
    unpack_templates(archive(tmp_path, members), folder)
    assert files(folder) == ["anli/templates.yaml", "super_glue/copa/templates.yaml"]
    assert (folder / "anli" / "templates.yaml").read_bytes() == COPA
    assert os.listdir(folder.parent) == ["out"]


def test_a_wheel_works_too(tmp_path):
    path = tmp_path / "promptsource-0.2.3-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr("promptsource/templates/anli/templates.yaml", COPA)
        wheel.writestr("promptsource/app.py", b"print()")
    unpack_templates(path, tmp_path / "out")
    assert files(tmp_path / "out") == ["anli/templates.yaml"]


HOSTILE = [  # tests/exchange/test_archive.py has more
    ({f"{ROOT}/../../../../evil.yaml": b"x"}, "leads out of the folder"),
    ({f"{ROOT}/{n}/templates.yaml": bytes(1 << 20) for n in range(33)}, "unpacks to more than"),
    ({f"{ROOT}/anli/script.py": b"x"}, "holds no templates"),
    ({}, "holds no templates"),
]


@pytest.mark.parametrize(("members", "message"), HOSTILE)
def test_a_hostile_archive_leaves_nothing_behind(tmp_path, members, message):
    (tmp_path / "a" / "b").mkdir(parents=True)
    path = archive(tmp_path, members)
    with pytest.raises(SinkdError, match=message):
        unpack_templates(path, tmp_path / "a" / "b" / "out")
    assert files(tmp_path) == [path.name]
    assert os.listdir(tmp_path / "a" / "b") == []


def test_unpacked_files_can_be_read_by_others(tmp_path):
    unpack_templates(archive(tmp_path, {f"{ROOT}/anli/templates.yaml": COPA}), tmp_path / "out")
    assert stat.S_IMODE((tmp_path / "out").stat().st_mode) & 0o055 == 0o055


def wheel(folder):
    """A minimal package that pip accepts as promptsource 0.2.3, without build or network."""
    folder.mkdir()
    about = ["Metadata-Version: 2.1", "Name: promptsource", "Version: 0.2.3"]
    about += ["Requires-Python: >=3.7,<3.10", "Requires-Dist: nosuch"]
    path = folder / "promptsource-0.2.3-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("promptsource/templates/anli/templates.yaml", COPA)
        file.writestr("promptsource-0.2.3.dist-info/METADATA", "\n".join(about))
        file.writestr("promptsource-0.2.3.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        file.writestr("promptsource-0.2.3.dist-info/RECORD", "")
    return path


def fetch(cache, links):
    environment = {"SINKD_CACHE": str(cache), "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(links)}
    return python("-m", "sinkd", "prompts", "--fetch", **environment)


def test_pip_fetches_the_archive_for_a_python_that_the_package_refuses(tmp_path):
    archived = wheel(tmp_path / "links")
    for _ in range(2):  # the second time finds it there
        done = fetch(tmp_path / "cache", tmp_path / "links")
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout == f"promptsource's templates are in {tmp_path}/cache/promptsource-0.2.3\n"
        archived.unlink(missing_ok=True)
    assert files(tmp_path / "cache") == ["promptsource-0.2.3/anli/templates.yaml"]


def test_without_the_index_one_sentence_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("SINKD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(SinkdError) as error:
        promptsource.fetch()
    assert str(error.value).startswith("pip cannot download promptsource==0.2.3 (No matching distribution found")
    assert str(error.value).endswith("the package index must be in reach")
    assert not promptsource_dir().exists()
