"""A model on a server teaches a student: it is asked once a row, and its key stays in the environment."""

import json
import shutil

import pytest
import torch

from completions_server import CompletionsServer, next_words
from sinkd.cli.main import main
from sinkd.models import family_of, student_and_teachers
from sinkd.tasks import load_task
from sinkd.training.arguments import DistillationArguments
from sinkd.training.ensemble import Ensemble

SECRET = "sk-never-written"
PROMPT = "{{sentence}}\nThe sentiment is"


@pytest.fixture
def server(monkeypatch):
    pytest.importorskip("openai")
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    with CompletionsServer("chat") as server:
        yield server


def flags(server, folder, *more):
    asked = ["--teacher_url", server.url, "--teacher_model", "small", "--teacher_prompt", PROMPT]
    return [*asked, "--teacher_answers", "negative ||| positive", "--teacher_cache_dir", str(folder / "cache"), *more]


def test_a_run_from_a_server(server, world, tmp_path, caplog):
    def distill(name):
        words = world.flags(tmp_path / name, "--student_path", world.student, "--distill_loss", "kd+sinkhorn")
        return main(["distill", *words, *flags(server, tmp_path)])

    assert distill("one") == 0
    asked = len(server.prompts)
    words = ["--task_name", "cola", "--data_dir", str(world.data), "--distill_loss", "kd"]
    assert main(["cache-teacher", *words, *flags(server, tmp_path)]) == 0
    assert len(server.prompts) == asked, "the same rows, before there is a student"
    assert f"sending 160 of 160 rows to {server.url}, model small" in caplog.text
    assert set(server.keys) == {f"Bearer {SECRET}"}
    server.shutdown()
    assert distill("two") == 0, "all answers are kept, so the server is not needed"
    assert len(server.prompts) == asked
    assert (tmp_path / "one/model.safetensors").read_bytes() == (tmp_path / "two/model.safetensors").read_bytes()
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(written) > 10
    assert not any(SECRET.encode() in path.read_bytes() for path in written)
    card = (tmp_path / "one/README.md").read_text()
    assert f"taught by `small at {server.url}`" in card
    assert "| teacher_prompt | `{{sentence}}\\nThe sentiment is` |" in card
    assert r"| teacher_answers | `negative \|\|\| positive` |" in card
    assert json.loads((tmp_path / "one/manifest.json").read_text())["inputs"]["teacher's prompt"]


def test_the_folder_to_delete_holds_all_answers_of_a_model(server, world, tmp_path, capfd):
    words = ["cache-teacher", "--task_name", "cola", "--data_dir", str(world.data), "--distill_loss", "kd"]
    assert main([*words, *flags(server, tmp_path)]) == 0
    (folder,) = (tmp_path / "cache").iterdir()
    server.model = {"id": "small", "root": "another"}
    asked = len(server.prompts)
    assert main([*words, *flags(server, tmp_path, "--teacher_prompt", "{{sentence}} It is")]) == 2
    said = capfd.readouterr().err
    assert f"{folder} keeps the answers of another model" in said and "delete the folder" in said
    assert len(server.prompts) == asked
    shutil.rmtree(folder)
    assert main([*words, *flags(server, tmp_path)]) == 0
    assert set(server.prompts[asked:]) == set(server.prompts[:asked])


def test_its_logits_are_the_answers_log_probabilities(server, world, tmp_path):
    words = ["--task_name", "cola", "--data_dir", str(world.data), "--output_dir", str(tmp_path / "run")]
    words += ["--student_path", str(world.student)]
    from sinkd.training.settings import resolve_settings

    args = resolve_settings(DistillationArguments, [*words, *flags(server, tmp_path)], "sinkd distill")
    task = load_task("cola", world.data)
    student, families = student_and_teachers(task, args)
    (teacher,) = Ensemble.of(args, families).teachers
    progress = []
    answers = teacher.dev_answers(args, lambda done, rows: progress.append((done, rows)))["dev"]
    after = [next_words(f"{row['text']}\nThe sentiment is") for row in task.read("dev")]
    expected = torch.tensor([[words[" negative"], words[" positive"]] for words in after]).log_softmax(-1)
    torch.testing.assert_close(answers, expected)
    assert progress[-1] == (len(answers), len(answers)) and progress == sorted(progress)
    assert type(student) is type(family_of(task, args, str(world.student), "--student_path", to_train=True))


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (["--teacher_path", "T"], "--teacher_path and --teacher_url name two teachers"),
        (["--teacher_cache", "off"], "asked once, before training; leave out --teacher_cache off"),
        (["--length_normalize"], "leave out --length_normalize"),
        (["--teacher_concurrency", "0"], "--teacher_concurrency is 0; it must be at least 1"),
        (["--teacher_timeout", "0"], "--teacher_timeout is 0; it must be above 0"),
        (["--distill_loss", "kd+sinkhorn_hidden"], "shows no hidden states"),
        (["--distill_loss", "kd+saliency"], "shows no "),
        (["--student_init", "copy"], "--student_init copy copies a classifier's layers"),
        (["--teacher_model", "large"], "has no model large; --teacher_model can be small"),
        (["--teacher_max_requests", "5"], "5 requests were sent, as many as --teacher_max_requests allows"),
        (["--teacher_answers", "negative ||| positive ||| good"], "found 3 answers"),
    ],
)
def test_what_a_server_cannot_do_is_one_sentence(server, world, tmp_path, capfd, more, sentence):
    words = world.flags(tmp_path / "run", "--student_path", world.student)
    assert main(["distill", *words, *flags(server, tmp_path), *more]) == 2
    said = capfd.readouterr().err.strip().splitlines()[-1]
    assert sentence in said and said.startswith("sinkd: ")


def test_flags_of_a_server_need_its_address(world, tmp_path, capfd):
    words = world.flags(tmp_path / "run", "--student_path", world.student, "--teacher_path", world.teacher)
    assert main(["distill", *words, "--teacher_concurrency", "4"]) == 2
    assert "--teacher_concurrency is for a teacher on a server" in capfd.readouterr().err
