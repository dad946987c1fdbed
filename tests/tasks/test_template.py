"""A template renders a row as promptsource does, in a sandbox, and its errors name the example."""

import pytest

from sinkd.errors import SinkdError
from sinkd.tasks.template import Template, read_templates

ROW = {"idx": 3, "text": "It rained.", "label": 1, "names": ["Ann", "Bob", "Ann", "Eve", "Bob"]}


def render(jinja, answer_choices=None, row=ROW, seed=0):
    return Template("mine", jinja, answer_choices).render(row, seed)


@pytest.mark.parametrize(
    ("jinja", "choices", "expected"),
    [
        (" {{ text }}\n ||| \n{{ answer_choices[label] }} ", " No ||| Yes\n", ("It rained.", "Yes", ["No", "Yes"])),
        ("{{ text }} ||| {{ text }} {{ answer_choices }}", None, ("It rained.", "It rained. None", [])),
        ("a ||| b", "{{ names | unique | join('|||') }}", ("a", "b", ["Ann", "Bob", "Eve"])),
        # templates that do not apply to the row
        ("{{ text }}", None, ("It rained.", "", [])),
        ("{% if label == 0 %}{{ text }} ||| yes{% endif %}", None, ("", "", [])),
        ("{{ text }} ||| {% if label == 0 %}yes{% endif %}", None, ("It rained.", "", [])),
        # promptsource's functions
        ("{{ names | most_frequent | join(' ') }} ||| x", None, ("Ann Bob", "x", [])),
        ("{{ [] | most_frequent }} ||| x", None, ("[]", "x", [])),
        ("{{ text | highlight }} ||| x", None, ("<span style='color: #F08080'>It rained.</span>", "x", [])),
        ("{% for a, b in zip(names, [1, 2]) %}{{ a }}{{ b }} {% endfor %} ||| x", None, ("Ann1 Bob2", "x", [])),
    ],
)
def test_prompt_answer_and_choices_come_without_surrounding_space(jinja, choices, expected):
    assert render(jinja, choices) == expected


def test_bars_in_a_row_are_text():
    row = {"idx": 0, "text": "a ||| b", "list": ["c|||d"], "inner": {"e": ["f|||"]}}
    rendered = render("{{ text }} ||| {{ list[0] }} {{ inner.e[0] }}", "{{ text }} ||| {{ list | join }}", row)
    assert rendered == ("a ||| b", "c|||d f|||", ["a ||| b", "c|||d"])
    assert row["list"] == ["c|||d"]


@pytest.mark.parametrize("name", ["choice", "random"])
def test_choice_draws_from_constants_for_every_row(name):
    template = Template("mine", f"{{{{ [1, 2, 3, 4, 5, 6, 7, 8, 9] | {name} }}}} ||| x")
    drawn = [template.render(ROW | {"idx": i}).prompt for i in range(30)]
    assert drawn == [Template("mine", template.jinja).render(ROW | {"idx": i}).prompt for i in range(30)]
    assert len(set(drawn)) > 5


def test_choice_draws_by_seed_and_example_alone():
    template = Template("mine", "{{ names | choice }} {{ names | choice }} ||| x")
    drawn = [template.render(ROW | {"idx": idx}, seed).prompt for seed in range(3) for idx in range(20)]
    assert len(set(drawn)) > 4
    again = [template.render(ROW | {"idx": idx}, seed).prompt for seed in range(3) for idx in range(20)]
    assert again == drawn
    other = Template("another", "{{ names | choice }} {{ names | choice }} ||| x")
    assert other.render(ROW | {"idx": 7}, 2).prompt == drawn[2 * 20 + 7]
    assert {name for both in drawn for name in both.split()} == {"Ann", "Bob", "Eve"}


@pytest.mark.parametrize(
    ("jinja", "choices", "reason"),
    [
        ("{{ txt }} ||| x", None, "UndefinedError: 'txt' is undefined"),
        ("{{ text }} ||| {{ answer_choices[label] }}", "only one", "UndefinedError"),
        ("{{ text }} ||| x", "{{ nothing }}", "UndefinedError: 'nothing' is undefined"),
        ("{{ 1 // 0 }} ||| x", None, "ZeroDivisionError"),
        ("{{ [] | choice }} ||| x", None, "ValueError: the filter choice has nothing to choose from"),
        ("a ||| b ||| c", None, "found 3 parts between |||, expected a prompt and an answer"),
        ("{{ ''.__class__.__mro__ }} ||| x", None, "SecurityError"),
        ("{{ names.append('x') }} ||| x", None, "SecurityError"),
        ("{{ range(10 ** 9) | list }} ||| x", None, "OverflowError"),
    ],
)
def test_a_failure_names_template_example_and_reason(jinja, choices, reason):
    with pytest.raises(SinkdError) as error:
        render(jinja, choices)
    assert str(error.value).startswith("template 'mine' fails on example 3: ")
    assert reason in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "program",
    [
        "{{ cycler.__init__.__globals__.os.system('touch /tmp/out') }}",
        "{{ self._TemplateReference__context }}",
        "{% import 'x' as x %}",
        "{% include '/etc/passwd' %}",
        "{{ names.__class__.__base__.__subclasses__() }}",
        "{{ lipsum.__globals__ }}",
        "{{ 'x'.format.__self__.__class__ }}",
        "{{ '{0.__class__}'.format(text) }}",
        "{{ zip.__self__ }}",
    ],
)
def test_a_template_reaches_nothing_but_its_row(program):
    with pytest.raises(SinkdError, match="template 'mine' fails on example 3"):
        render(f"{program} ||| x")


@pytest.mark.parametrize("jinja", ["{{ text ||| x", "{% if label %} ||| x", "{{ text | nosuch }} ||| x"])
def test_malformed_jinja_is_reported_when_a_template_is_checked(jinja):
    with pytest.raises(SinkdError, match=r"^template 'mine' is not well formed: "):
        Template("mine", jinja).check()


PROMPTSOURCE = """
dataset: super_glue
subset: copa
templates:
  0edd8660-f299-4819-a5ac-633c11177228: !Template
    answer_choices: '{{choice1}} ||| {{choice2}}'
    id: 0edd8660-f299-4819-a5ac-633c11177228
    jinja: "{{ premise }} \\n\\n ||| {{ answer_choices[label] }}"
    metadata: !TemplateMetadata
      choices_in_prompt: true
      metrics:
      - Accuracy
      original_task: false
    name: " \\u2026which one? "
    reference: 'somebody'
  7d33: !Template
    answer_choices: null
    jinja: 'x ||| y'
    metadata: !TemplateMetadata {}
    name: bare
"""


def test_a_file_in_promptsources_form_is_read(tmp_path):
    path = tmp_path / "templates.yaml"
    path.write_text(PROMPTSOURCE, encoding="utf-8")
    first, second = read_templates(path)
    assert (first.name, first.answer_choices) == ("…which one?", "{{choice1}} ||| {{choice2}}")
    assert first.jinja == "{{ premise }} \n\n ||| {{ answer_choices[label] }}"
    assert (first.choices_in_prompt, first.source) == (True, path)
    assert (second.name, second.answer_choices, second.choices_in_prompt) == ("bare", None, None)
    assert first.fingerprint != second.fingerprint


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("templates: {a: !!python/object/apply:os.system [ls]}", "is not a file of templates: .*python/object"),
        ("templates: {a: !Other {}}", "is not a file of templates: .*!Other"),
        ("templates: {a: !Template [1]}", "is not a file of templates: .*before other than a mapping"),
        ("a: [", "is not a file of templates"),
        ("- 1", "is not a file of templates: expected the key 'templates'"),
        ("templates: [1]", "is not a file of templates: expected the key 'templates' with a mapping"),
        ("templates: {a: 3}", "template 'a': found 3, expected the fields of a !Template"),
        ("templates: {a: !Template {name: n}}", "template 'a', field 'jinja': found None, expected text"),
        ("templates: {a: !Template {jinja: 7}}", "template 'a', field 'jinja': found 7, expected text"),
        ("templates: {a: !Template {jinja: x, answer_choices: [a]}}", r"field 'answer_choices': found \['a'\]"),
        ("templates: {a: !Template {jinja: x, name: [a]}}", r"field 'name': found \['a'\], expected text"),
        ("templates: {a: !Template {jinja: x, metadata: 3}}", "field 'metadata': found 3, expected a mapping"),
    ],
)
def test_errors_in_a_file_are_reported(tmp_path, text, message):
    path = tmp_path / "templates.yaml"
    path.write_text(text)
    with pytest.raises(SinkdError, match=message) as error:
        read_templates(path)
    assert str(error.value).startswith(str(path))


def test_a_file_that_is_not_yaml_is_refused(tmp_path):
    path = tmp_path / "templates.yaml"
    path.write_bytes(b"templates: \xff")
    with pytest.raises(SinkdError, match="is not a file of templates"):
        read_templates(path)
    path.write_text("a: " + "[" * 1500)
    with pytest.raises(SinkdError, match="is not a file of templates"):
        read_templates(path)


def test_a_templates_metadata_may_be_anything(tmp_path):
    path = tmp_path / "templates.yaml"
    path.write_text("templates: {a: !Template {jinja: x, metadata: {choices_in_prompt: perhaps, metrics: 3}}}")
    (template,) = read_templates(path)
    assert template.choices_in_prompt is None
