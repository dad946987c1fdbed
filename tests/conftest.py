"""Shared fixtures: real data if it exists next to the checkout, and a small generated world.

One thread per process, so that numbers do not depend on the machine; a separate cache folder for the test session.
"""

import os
import signal
import threading
from dataclasses import dataclass
from pathlib import Path

import pytest

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"
# POT imports an installed TensorFlow, which takes seconds, for a backend that is not used here.
os.environ["POT_BACKEND_DISABLE_TENSORFLOW"] = "1"
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
# Without a GPU, Triton's kernels run in its interpreter; Triton asks as it is imported.
if not Path("/dev/nvidiactl").exists():
    os.environ["TRITON_INTERPRET"] = "1"
# Otherwise hundreds of processes would compile all of sinkd again.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# Processes started in the background ignore Ctrl-C, and so would those that tests start and interrupt.
if threading.current_thread() is threading.main_thread():
    signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).resolve().parents[1]


def pytest_runtest_setup(item):
    if item.get_closest_marker("gpu"):
        import torch

        if not torch.cuda.is_available():
            pytest.skip("there is no CUDA device")


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory):
    """Nothing is read from, or left in, the user's cache."""
    import torch

    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("cache")
    os.environ["SINKD_CACHE"] = str(folder)
    return folder


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The real GLUE and SuperGLUE files, which are not part of the project."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"needs the real data files in {folder}")
    return folder


@pytest.fixture
def refusal(capsys):
    """Runs a command line that is refused; the one sentence that says why."""
    from sinkd.cli.main import main

    def refusal(*argv: object) -> str:
        capsys.readouterr()
        assert main(list(map(str, argv))) == 2
        said = capsys.readouterr().err
        assert said.startswith("sinkd: ") and said.count("\n") == 1
        return said

    return refusal


@dataclass(frozen=True)
class World:
    """Folders as a user has them: a generated corpus, and two untrained encoders with one vocabulary."""

    data: Path
    teacher: Path
    student: Path

    def flags(self, output: Path, *more: object) -> list[str]:
        """A command line on the corpus: one epoch of small batches unless `more` says otherwise."""
        common = {"--task_name": "cola", "--data_dir": self.data, "--output_dir": output, "--per_gpu_batch_size": 16}
        common |= {"--num_train_epochs": 1, "--learning_rate": 1e-3}
        given = {flag for flag in map(str, more) if flag.startswith("--")}
        kept = [str(part) for flag, value in common.items() if flag not in given for part in (flag, value)]
        return [*kept, *map(str, more)]


@pytest.fixture(scope="session")
def world(tmp_path_factory, own_cache) -> World:
    """Made once: 160 training and 64 dev sentences, a teacher of two layers, a student of one."""
    from sinkd.tasks import load_task
    from small_encoders import train_tokenizer, write_encoder
    from synthetic_corpus import write_corpus

    folder = tmp_path_factory.mktemp("world")
    write_corpus(folder / "glue", 160, 64, seed=3)
    tokenizer = train_tokenizer(load_task("cola", folder / "glue").read("train")["text"], 400)
    teacher = write_encoder(folder / "teacher", tokenizer, layers=2, width=32, heads=2, seed=1, dropout=0.1)
    student = write_encoder(folder / "student", tokenizer, layers=1, width=16, heads=2, seed=2, dropout=0.1)
    return World(folder / "glue", teacher, student)


@pytest.fixture(scope="session")
def taught(world, tmp_path_factory) -> Path:
    """The world's teacher after a short fine-tuning: a folder for `--teacher_path`."""
    from sinkd.cli.main import main

    folder = tmp_path_factory.mktemp("taught") / "teacher"
    assert main(["finetune", "--model_path", str(world.teacher), *world.flags(folder)]) == 0
    return folder
