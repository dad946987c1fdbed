"""Whatever is read works or ends in one SinkdError that names it: templates, settings, sweeps, caches and models.

Tables and labels are in tests/tasks. `changed` is what a disk, a cable or an editor does to a file.
"""

import json
import shutil
from dataclasses import fields

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sinkd.errors import SinkdError
from sinkd.losses.feature import LOGITS
from sinkd.models import Encoder, load_encoder, load_tokenizer
from sinkd.models.seal import SEAL
from sinkd.sweep.sweep import KEYS, read_sweep
from sinkd.tasks import encode, load_task
from sinkd.tasks.label_prompt import LabelPrompt
from sinkd.tasks.template import read_templates
from sinkd.training.arguments import DistillationArguments
from sinkd.training.checkpoint import last_checkpoint, written_whole
from sinkd.training.settings import resolve_settings
from sinkd.training.teacher_cache import Answers

few = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@st.composite
def changed(draw, content: bytes, *insertions: bytes) -> bytes:
    """The content cut, emptied, or with a bit, a byte or a few bytes changed."""
    place = draw(st.integers(0, len(content) - 1))
    flipped = bytes([content[place] ^ 1 << draw(st.integers(0, 7))])
    new = draw(st.just(flipped) | st.binary(min_size=1, max_size=2) | st.sampled_from(insertions or (flipped,)))
    cut = content[:place]
    return draw(st.sampled_from([cut, cut + new + content[place + 1 :], cut + new + content[place:], b""]))


def one_sentence(error: SinkdError, *names: object) -> bool:
    return "\n" not in str(error) and (not names or any(str(name) in str(error) for name in names))


def words(text: str) -> list[str]:
    """Split at spaces and line ends; a tab stands for a space within a word."""
    return [word.replace("\t", " ") for word in text.replace("\n", " ").split(" ") if word]


JINJA = words("""{{ }} {% %} ||| {{text}} {{text|choice}} {%for\tx\tin\ttext%} {%endfor%} {%if\ttext%} {%endif%} {{a.b}}
{{text[0]}} {{1/0}} {%include\t'x'%} {%import\t'x'\tas\ty%} {{text.__class__}} {{range(10**9)}} {{text|no}} {%raw%} {#
{%endraw%} {%macro\tm()%} {%endmacro%} {{m()}} {{caller()}} {{label}} {{self.x()}} {{super()}} {{text|batch(0)|list}}
{{text(1)}} {%set\tn.x=1%} {{[]|choice}} {{-text}} yes""")
jinja = st.lists(st.sampled_from([*JINJA, "{{ [" * 400, "{{" + "9" * 5000 + "}}"]), max_size=6).map("".join)
TEMPLATES = b"""templates:
  a1: !Template
    answer_choices: "{{choice1}} ||| {{choice2}}"
    jinja: "{{premise}} ||| {{answer_choices[label]}}"
    metadata: !TemplateMetadata {choices_in_prompt: true, metrics: [Accuracy]}
    name: first
"""
ODD_YAML = (b"[", b"*a ", b"&a [*a] ", b"!!int x ", b"2020-13-45 ", b"? ", b"!!binary x ", b"- ", b": ", b"[" * 400)


@few
@given(prompt=jinja | st.text(max_size=9), answers=st.none() | jinja | st.just("no ||| yes"))
def test_any_prompt_asks_or_is_refused(world, prompt, answers):
    task = load_task("cola", world.data)
    try:
        read = LabelPrompt.read(task, prompt, answers)
        assert all(read.question(row) for row in task.read("dev").select(range(2)))
    except SinkdError as error:
        assert one_sentence(error, "prompt", "template", "answer")


@few
@given(content=changed(TEMPLATES, *ODD_YAML))
def test_any_file_of_templates_is_read_or_named(tmp_path, content):
    path = tmp_path / "templates.yaml"
    path.write_bytes(content)
    try:
        for template in read_templates(path):
            template.check()
    except SinkdError as error:
        assert one_sentence(error, path)


values = st.sampled_from(
    words("""1 -1 0 1e-4 .nan .inf -.inf yes ~ cola kd kd+sinkhorn '' [1,2] {a:\t1} 2020-13-45 2020-01-01 !!binary\tx
    !!int\ta
    *a &a\t[*a] | 'x 0x_ [[1]] {?\t[a]\t:\tb} steps 1e999 {x:\t2020-01-01} [cola] {cola:\t{learning_rate:\t.nan}} [../x]
    {kd:\t{distill_loss:\tkd}} [null] {null:\t1} distill {num_cpus:\t.nan} [kd,KD]""")
)


def yaml_of(names, *first):
    lines = st.lists(st.tuples(st.sampled_from(names), values).map(": ".join), max_size=3)
    return lines.map(lambda found: "\n".join([*first, *found])) | values | st.text(max_size=9)


@few
@given(content=yaml_of([field.name for field in fields(DistillationArguments)]))
def test_any_settings_are_resolved_or_named(tmp_path, content):
    path = tmp_path / "own.yaml"
    path.write_text(content, encoding="utf-8", errors="replace")
    try:
        assert resolve_settings(DistillationArguments, ["--config", str(path)], "sinkd").learning_rate > 0
    except SinkdError as error:
        assert one_sentence(error, path)


@few
@given(content=yaml_of([*KEYS, "sed"], "tasks: [cola]", "objectives: [kd]"))
def test_any_sweep_is_read_or_named(tmp_path, content):
    path = tmp_path / "sweep.yaml"
    path.write_text(content, encoding="utf-8", errors="replace")
    try:
        assert read_sweep(path, tmp_path).trials
    except SinkdError as error:
        assert one_sentence(error, path)


@few
@given(data=st.data(), dtype=st.sampled_from(["float32", "bfloat16"]))
def test_a_teachers_cache_with_any_change_is_built_again(tmp_path, data, dtype):
    """Both halves of it: values of one shard of two, and the index."""
    home = tmp_path / dtype
    asked = []

    def answer(rows, missing):
        asked.append(rows.start)
        return {"logits": [torch.tensor([float(row), 0.5]) for row in rows]}

    def answers():
        store = Answers(home, [LOGITS], 6, dtype, shard=3)
        store.fill(answer)
        return store.column(LOGITS)

    whole = answers()
    path = home / f"logits.{dtype}" / "00001" / data.draw(st.sampled_from(["values.npy", "index.json"]))
    before = path.read_bytes()
    path.write_bytes(data.draw(changed(before).filter(lambda content: content != before)))
    asked.clear()
    assert torch.equal(answers(), whole)
    assert asked in ([], [3])  # an index with other white space says the same


@few
@given(data=st.data())
def test_the_newest_checkpoint_that_is_whole_is_found_whatever_changed(checkpoints, data):
    path = checkpoints / "checkpoint-10" / data.draw(st.sampled_from(["model.safetensors", "optimizer.pt", SEAL]))
    before = path.read_bytes()
    content = data.draw(changed(before).filter(lambda content: content != before))
    path.write_bytes(content)
    same = path.name == SEAL and json_or_none(content) == json.loads(before)
    assert last_checkpoint(checkpoints).name == ("checkpoint-10" if same else "checkpoint-2")
    path.write_bytes(before)


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    root = tmp_path_factory.mktemp("checkpoints")
    for step in (2, 10):
        with written_whole(root / f"checkpoint-{step}") as folder:
            for name in ("model.safetensors", "optimizer.pt"):
                (folder / name).write_bytes(f"{name} of step {step}".encode())
    return root


def json_or_none(content):
    try:
        return json.loads(content)
    except ValueError:
        return None


@pytest.fixture(scope="module")
def unsealed(taught, tmp_path_factory):
    """The teacher as one of another's, without checksums: a config, a tokenizer and weights that loads well or not."""
    folder = tmp_path_factory.mktemp("unsealed") / "teacher"
    shutil.copytree(taught, folder)
    (folder / SEAL).unlink()
    return folder


@few
@given(
    data=st.data(),
    name=st.sampled_from(["config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"]),
)
def test_a_models_folder_with_any_change_answers_or_is_named(unsealed, world, data, name):
    path = unsealed / name
    before = path.read_bytes()
    path.write_bytes(data.draw(changed(before)))
    try:
        task = load_task("cola", world.data)
        tokenizer = load_tokenizer(str(unsealed), "--model_path")
        model = load_encoder(str(unsealed), task, "--model_path", must_have_head=True).eval()
        family = Encoder(tokenizer, task)
        rows = encode(task.read("dev").select(range(4)), tokenizer, 16)
        with torch.no_grad():
            assert family.answer(model, family.collator(list(rows))).shape == (4, 2)
    except SinkdError as error:
        assert one_sentence(error, unsealed, "the tokenizer gives the token", "special tokens")
    finally:
        path.write_bytes(before)
