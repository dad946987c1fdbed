"""`sinkd prompts` lists the templates of a task by the names that `--template_name` takes."""

import pytest

from sinkd.cli.main import main
from sinkd.tasks import templates


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SINKD_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_names_and_where_they_come_from(capsys, tmp_path, cache):
    for folder, name in {
        tmp_path / "mine" / "copa": "mine",
        cache / "promptsource-0.2.3/super_glue/copa": "theirs",
    }.items():
        folder.mkdir(parents=True)
        (folder / "templates.yaml").write_text(f"templates: {{x: !Template {{name: {name}, jinja: a ||| b}}}}")
    assert main(["prompts", "--task_name", "superglue/copa", "--templates_dir", str(tmp_path / "mine")]) == 0
    shown = capsys.readouterr().out
    lines = {line.rsplit("  ", 2)[0].strip(): line for line in shown.splitlines()}
    for template in templates("copa"):
        assert any(line.startswith(template.name) for line in lines.values())
    (mine,) = (line for line in lines.values() if line.startswith("mine "))
    (theirs,) = (line for line in lines.values() if line.startswith("theirs "))
    assert str(tmp_path / "mine" / "copa" / "templates.yaml") in mine and "any answer" in mine
    assert "promptsource" in theirs and "--fetch" not in shown


def test_the_list_says_how_to_get_more(capsys):
    assert main(["prompts", "--task_name", "anli/r2"]) == 0
    assert "sinkd prompts --fetch adds promptsource's" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        ([], "--task_name is missing; name a task to list its templates, or give --fetch"),
        (["--task_name", "cola"], "found task 'cola', expected one of superglue/boolq"),
        (["--task_name", "copa", "--templates_dir", "nowhere"], "no templates of copa in nowhere: looked for nowhere"),
    ],
)
def test_wrong_input_is_one_sentence(capsys, flags, sentence):
    assert main(["prompts", *flags]) == 2
    assert capsys.readouterr().err.startswith(f"sinkd: {sentence}")
