"""Each fault of docs/reliability.md loses nothing: the same command goes on, and a run ends with the same weights."""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from processes import launch
from reliability.page import PageTable
from sinkd.cli.main import main
from sinkd.training.folder import LOCK
from sinkd.training.schedule import Schedule


@pytest.fixture(scope="module")
def page():
    return PageTable("fault")


@pytest.fixture(scope="module")
def undisturbed(command, tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    assert main(command(folder)) == 0
    return folder


@pytest.fixture(scope="module")
def killed(command, tmp_path_factory):
    """A run that SIGKILL ended after a random step, with two checkpoints."""
    folder, step = tmp_path_factory.mktemp("killed") / "run", random.randrange(9, 30)
    done = launch(*command(folder), victim=("step", step))
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not (folder / "metrics.json").exists()
    return folder


@pytest.fixture
def copied(killed, tmp_path, monkeypatch):
    """The killed run, as `run` in the current folder."""
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copytree(killed, "run"))


def assert_same_end(folder, undisturbed):
    assert (folder / "model.safetensors").read_bytes() == (undisturbed / "model.safetensors").read_bytes()
    for name in ("model.safetensors", "objective.safetensors"):
        newest = [(run / "checkpoint-30" / name).read_bytes() for run in (folder, undisturbed)]
        assert newest[0] == newest[1], name
    scores, expected = (json.loads((run / "metrics.json").read_text()) for run in (folder, undisturbed))
    assert (scores["best"], scores["final"]) == (expected["best"], expected["final"])
    assert [entry["step"] for entry in scores["history"]] == [10, 20, 30]
    assert scores["samples_per_second"] > 0


@pytest.mark.slow
def test_sigkill_at_a_random_step(copied, command, undisturbed, page):
    assert main(command()) == 0, sorted(copied.glob("checkpoint-*"))
    assert_same_end(copied, undisturbed)
    page.see("SIGKILL after a random step", "the same command goes on to the same weights", "nothing")


@pytest.mark.slow
def test_sigkill_during_a_save(command, undisturbed, page, tmp_path):
    assert launch(*command(tmp_path / "run"), victim=("save", 5)).returncode == -signal.SIGKILL
    assert main(command(tmp_path / "run")) == 0
    assert_same_end(tmp_path / "run", undisturbed)
    page.see("SIGKILL while a checkpoint is written", "the same command goes on from the one before", "nothing")


@pytest.mark.slow
def test_sigterm(command, undisturbed, page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    stopped = launch(*command(), victim=("terminate", 13))
    assert (stopped.returncode, Path("run/checkpoint-14").is_dir()) == (143, True)
    page.see("SIGTERM", "a checkpoint is written; status 143", stopped.stderr.splitlines()[-1].removeprefix("sinkd: "))
    assert main(command()) == 0
    assert_same_end(Path("run"), undisturbed)


@pytest.mark.slow
def test_a_damaged_checkpoint(copied, command, undisturbed, page, caplog):
    newest = max(copied.glob("checkpoint-*"), key=lambda path: int(path.name.partition("-")[2]))
    weights = bytearray((newest / "optimizer.pt").read_bytes())
    weights[len(weights) // 2] ^= 1
    (newest / "optimizer.pt").write_bytes(weights)
    assert main(command()) == 0
    assert_same_end(copied, undisturbed)
    (warning,) = (record.getMessage() for record in caplog.records if "as it was written" in record.getMessage())
    warning = warning.replace(newest.name, "checkpoint-N")
    page.see("a bit of the newest checkpoint flips", "the run goes on from the checkpoint before it", warning)


@pytest.mark.slow
def test_the_clock_moves_back(copied, command, undisturbed, page, monkeypatch):
    for path in copied.glob("checkpoint-*"):  # the older, the newer
        os.utime(path, (time.time() + 3600, time.time() + 7200 - int(path.name.partition("-")[2])))
    on_step_begin, clock, shift = Schedule.on_step_begin, time.time, []

    def patched(self, args, state, control, **kwargs):
        shift.append(86400)
        return on_step_begin(self, args, state, control, **kwargs)

    monkeypatch.setattr(Schedule, "on_step_begin", patched)
    monkeypatch.setattr(time, "time", lambda: clock() - sum(shift))
    assert main(command()) == 0
    assert_same_end(copied, undisturbed)
    page.see("the clock moves back, by a day in each step", "nothing: steps are counted, not dated", "nothing")


SERVER = """import os, signal
from completions_server import CompletionsHandler, CompletionsServer
class Dying(CompletionsHandler):
    def choice(self, asked):
        if len(self.server.prompts) > 60:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().choice(asked)
server = CompletionsServer("chat")
server.RequestHandlerClass = Dying
print(server.url, flush=True)
server.serve_forever()
"""


def test_a_served_teacher_is_killed(world, page, said, tmp_path, monkeypatch):
    pytest.importorskip("openai")
    from completions_server import CompletionsServer

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.01)  # the client waits for seconds otherwise
    monkeypatch.setattr("openai._base_client.MAX_RETRY_DELAY", 0.01)
    words = ["--teacher_model", "small", "--teacher_prompt", "{{sentence}} It is", "--teacher_timeout", "1"]
    words += ["--teacher_answers", "negative ||| positive", "--teacher_cache_dir", "cache", "--max_steps", "1"]
    run = ["distill", *words, *world.flags("run", "--student_path", world.student), "--teacher_url"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1])}
    with subprocess.Popen([sys.executable, "-c", SERVER], env=environment, stdout=subprocess.PIPE, text=True) as server:
        url = server.stdout.readline().strip()
        assert main([*run, url]) == 2
        assert server.wait() == -signal.SIGKILL
    kept = len(next(Path("cache").rglob("rows.jsonl")).read_text().splitlines()) - 1
    sentence = re.sub(r"row \d+", "row N", said().replace(url, "http://localhost:8080/v1"))
    page.see("a served teacher is killed", "all answers before that stay", sentence)
    with CompletionsServer("chat") as another:
        assert main([*run, another.url]) == 0
        # Of 160 training rows and 64 dev rows; one is asked twice, to find out how the server answers.
        assert kept > 40 and len(another.prompts) <= 160 - kept + 64 + 2


def test_a_corrupted_shard(command, page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    short = ["--teacher_cache_dir", "cache", "--num_train_epochs", "1"]
    assert main(command("whole", *short)) == 0
    (values,) = Path("cache").glob("*/logits.float32/00000/values.npy")
    content = values.read_bytes()
    values.write_bytes(content[:-9] + bytes([content[-9] ^ 1]) + content[-8:])
    assert main(command("again", *short)) == 0
    assert values.read_bytes() == content
    ends = [Path(run, "model.safetensors").read_bytes() for run in ("again", "whole")]
    assert ends[0] == ends[1]
    page.see("a bit of a cached shard flips", "the teacher answers that shard again", "nothing")


HOLD = """import sys, filelock
with filelock.FileLock(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_two_commands_in_one_folder(command, page, tmp_path, monkeypatch, said):
    monkeypatch.chdir(tmp_path)
    Path("run").mkdir()
    holder = [sys.executable, "-c", HOLD, f"run/{LOCK}"]
    with subprocess.Popen(holder, stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        assert main(command("run", "--max_steps", "1")) == 2
        assert os.listdir("run") == [LOCK]
        other.kill()
    page.see("two commands in one folder", "the second is refused", said())
    assert Path("run", LOCK).exists()  # a lock's file without its process keeps nobody out
    assert main(command("run", "--max_steps", "1")) == 0
    assert not Path("run", LOCK).exists()


@pytest.mark.slow
def test_nan_on_one_of_two_ranks(command, page, tmp_path):
    done = launch(*command(tmp_path / "run"), "--quiet", victim=("nan", 3), processes=2)
    assert done.returncode != 0
    (message,) = (line for line in done.stderr.splitlines() if line.startswith("sinkd: "))
    page.see("NaN on one of two processes", "all stop, with one message", message.removeprefix("sinkd: "))


@pytest.mark.slow
def test_the_curvature_was_learned_and_is_in_the_checkpoint_not_in_the_model(undisturbed):
    from safetensors.torch import load_file

    learned = load_file(undisturbed / "checkpoint-30" / "objective.safetensors")
    assert any(abs(float(value)) > 1e-6 for value in learned.values())
    assert not any("curvature" in name for name in load_file(undisturbed / "model.safetensors"))


FAULTS = [
    "SIGKILL after a random step",
    "SIGKILL while a checkpoint is written",
    "SIGTERM",
    "a bit of the newest checkpoint flips",
    "the clock moves back, by a day in each step",
    "a served teacher is killed",
    "a bit of a cached shard flips",
    "two commands in one folder",
    "NaN on one of two processes",
]


def test_the_page_has_these_faults_alone(page):
    page.end(FAULTS)
