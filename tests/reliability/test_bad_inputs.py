"""Each bad input of docs/reliability.md ends in one sentence, before anything is trained."""

import shutil

import pytest

from reliability.bad_inputs import INPUTS
from reliability.page import PageTable
from sinkd.cli.main import main


@pytest.fixture(scope="module")
def page():
    return PageTable("input")


@pytest.mark.parametrize("name", INPUTS)
def test_a_bad_input_ends_in_the_sentence_of_the_page(name, page, world, taught, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(taught, "T")
    for link, target in {"S": world.student, "glue": world.data}.items():
        (tmp_path / link).symlink_to(target)
    INPUTS[name].write(tmp_path)
    assert main(INPUTS[name].argv) == 2
    (said,) = (line for line in capfd.readouterr().err.splitlines() if line.startswith("sinkd: "))
    assert not list(tmp_path.glob("run/*"))
    page.see(name, said.removeprefix("sinkd: "))


def test_the_page_has_these_inputs_alone(page):
    assert len(INPUTS) >= 60
    page.end([*INPUTS])
