"""Templates are found by task and name, and those of the package and of promptsource fit real rows."""

import shutil

import pytest

from sinkd.errors import SinkdError
from sinkd.exchange.promptsource import fetch
from sinkd.tasks import SUPERGLUE, examples, find_template, load_superglue, template_folders, templates
from sinkd.tasks.template_folders import promptsource_dir
from superglue_layouts import LINES, write_superglue

# How many templates promptsource 0.2.3 has for each.
PROMPTSOURCE = {"boolq": 10, "cb": 15, "copa": 12, "multirc": 10, "record": 20, "rte": 10, "wic": 10, "wsc": 10}
PROMPTSOURCE |= {"anli/r1": 15, "anli/r2": 15, "anli/r3": 15}


@pytest.fixture
def no_promptsource(tmp_path, monkeypatch):
    monkeypatch.setenv("SINKD_CACHE", str(tmp_path / "cache"))


def own(name):
    return [template for template in templates(name) if template.source.is_relative_to(template_folders.OWN)]


@pytest.mark.parametrize("name", LINES)
def test_the_package_has_three_wordings_or_more_of_every_task(no_promptsource, name):
    found = templates(name)
    assert found == own(name)
    assert len({(template.jinja, template.answer_choices) for template in found}) == len(found) >= 3
    for template in found:
        assert template.answer_choices and template.choices_in_prompt is not None


def check(task, template, everywhere):
    """The template words the rows of every split: prompts that differ, an answer among the choices, meanings known."""
    for split in task.splits:
        worded = examples(task, split, template)
        if everywhere:
            assert task.skipped[split] == 0
        assert all(worded["prompt"])
        labels = set(task.labels) or {entity for row in task.read(split)["entities"] for entity in row}
        for example in worded:
            assert len(example["choices"]) == len(example["meanings"]) >= 2
            assert all(example["choices"]) and set(example["meanings"]) <= labels
            assert bool(example["target"]) == bool(example["accepted"]) == (example["answer"] >= 0)
            if example["target"]:
                assert example["choices"][example["answer"]] == example["target"]
                assert example["meanings"][example["answer"]] in example["accepted"]


@pytest.mark.parametrize("name", LINES)
def test_the_packages_templates_fit_every_task(tmp_path, name):
    write_superglue(name, tmp_path)
    task = load_superglue(name, tmp_path)
    for template in own(name):
        check(task, template, everywhere=template.name != "looking back")


@pytest.mark.parametrize("name", ["copa", "cb"])
def test_the_packages_templates_fit_real_rows(shared_data, name):
    task = load_superglue(name, shared_data / "superglue")
    for template in own(name):
        check(task, template, everywhere=template.name != "looking back")


@pytest.fixture(scope="module")
def fetched(tmp_path_factory):
    """promptsource's own templates, from the package index, in a cache folder of this module's."""
    folder = tmp_path_factory.mktemp("promptsource")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SINKD_CACHE", str(folder))
        try:
            fetch()
        except SinkdError as error:
            pytest.skip(f"needs the package index: {error}")
        yield folder


@pytest.mark.slow
@pytest.mark.parametrize("name", LINES)
def test_promptsources_templates_fit_every_task(tmp_path, fetched, monkeypatch, name):
    monkeypatch.setenv("SINKD_CACHE", str(fetched))
    write_superglue(name, tmp_path)
    task = load_superglue(name, tmp_path)
    theirs = [template for template in templates(name) if template.source.is_relative_to(promptsource_dir())]
    assert len(theirs) == PROMPTSOURCE[name]
    for template in theirs:
        check(task, template, everywhere=name != "copa")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["copa", "cb"])
def test_promptsources_templates_fit_real_rows(shared_data, fetched, monkeypatch, name):
    monkeypatch.setenv("SINKD_CACHE", str(fetched))
    task = load_superglue(name, shared_data / "superglue")
    for template in templates(name):
        check(task, template, everywhere=name != "copa")


def test_the_names_of_promptsource_are_known_once_it_is_there(tmp_path, monkeypatch):
    monkeypatch.setenv("SINKD_CACHE", str(tmp_path / "cache"))
    with pytest.raises(SinkdError, match=r"sh T0/ins\.sh fetches promptsource's"):
        find_template("wsc", "theirs")
    folder = promptsource_dir() / "super_glue" / "wsc.fixed"
    write(folder, "theirs")
    assert find_template("superglue/wsc", "theirs").source == folder / "templates.yaml"
    with pytest.raises(SinkdError) as error:
        find_template("wsc", "others")
    assert "T0/ins.sh" not in str(error.value)


def write(folder, name, jinja="mine ||| yes"):
    folder.mkdir(parents=True)
    text = f"templates:\n  id: !Template\n    name: '{name}'\n    answer_choices: yes ||| no\n    jinja: '{jinja}'\n"
    (folder / "templates.yaml").write_text(text)
    return folder / "templates.yaml"


@pytest.mark.parametrize(
    ("task", "folder"),
    [
        ("copa", "super_glue/copa"),
        ("copa", "copa"),
        ("copa", "."),
        ("superglue/wsc", "super_glue/wsc.fixed"),
        ("wsc", "wsc.fixed"),
        ("wsc", "wsc"),
        ("anli/r1", "anli"),
        ("anli/r1", "anli/r1"),
    ],
)
def test_a_users_folder_of_templates_is_read(tmp_path, task, folder):
    path = write(tmp_path / "mine" / folder, "by hand")
    assert find_template(task, "by hand", tmp_path / "mine").source == path


def test_a_users_template_comes_before_the_packages_of_that_name(tmp_path, no_promptsource):
    first = own("copa")[0]
    write(tmp_path / "mine" / "copa", first.name)
    assert find_template("copa", first.name, tmp_path / "mine").jinja == "mine ||| yes"
    assert find_template("copa", own("copa")[1].name, tmp_path / "mine").source.is_relative_to(template_folders.OWN)
    assert len(templates("copa", tmp_path / "mine")) == len(own("copa"))


def test_a_folder_without_the_tasks_templates_names_the_places_searched(tmp_path):
    write(tmp_path / "mine" / "copa", "by hand")
    with pytest.raises(SinkdError) as error:
        templates("boolq", tmp_path / "mine")
    looked = ("super_glue/boolq/templates.yaml", "mine/boolq/templates.yaml", "mine/templates.yaml")
    assert "no templates of boolq in" in str(error.value) and all(path in str(error.value) for path in looked)


def test_an_unknown_name_lists_the_known_names(no_promptsource):
    with pytest.raises(SinkdError) as error:
        find_template("superglue/copa", "two canditates")
    assert 'superglue/copa has no template "two canditates"; there are "' in str(error.value)
    assert all(f'"{template.name}"' in str(error.value) for template in own("copa"))


def test_a_malformed_template_is_reported_before_any_row_is_read(tmp_path):
    write(tmp_path / "mine", "broken", "{{ premise ||| x")
    with pytest.raises(SinkdError, match=r"template 'broken' of .*mine/templates\.yaml is not well formed"):
        find_template("copa", "broken", tmp_path / "mine")


def test_the_folder_of_the_package_is_one_that_templates_dir_takes(tmp_path, no_promptsource):
    shutil.copytree(template_folders.OWN, tmp_path / "copy")
    for name in SUPERGLUE:
        assert templates(name, tmp_path / "copy")[0].source.is_relative_to(tmp_path / "copy")
