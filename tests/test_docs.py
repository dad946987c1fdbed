"""Every command in README and docs runs as typed, in a checkout whose data and models are small fixtures."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from completions_server import CompletionsServer
from small_language_models import write_copa, write_language_model

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
# .ci/run runs these itself; in the scratch checkout they would change the environment that these tests run in.
IN_CI = {"make install", "make generative", "make demo", "make demo-llm", "make test", "make test-slow", "make lint"}
IN_CI |= {"sh ins.sh", "sh T0/ins.sh", "sh GPT-Neo/ins.sh"}
# A launcher that waits for other machines or accelerators; the command that it starts is parsed instead.
ELSEWHERE = re.compile(r"^torchrun (?:--nnodes 4|--standalone --nproc_per_node 8).*? -m (sinkd .*)")
# These need a network, so they only say what they would do.
NETWORK = re.compile(r"sinkd download (?!.*--dry_run)")
# Benchmarks need the pretrained encoder, real data and minutes; test_benchmarks.py runs each at a small size.
BENCHMARK = re.compile(r"python -m benchmarks\.(?!models)\w+|python benchmarks/\w+\.py|benchmarks/gpu\.sh|make bench")


def blocks(page: Path, *kinds: str) -> list[str]:
    """Return the fenced blocks of a page with these languages."""
    found = re.findall(r"^```(\w*)\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    return [text for kind, text in found if kind in kinds]


def commands(page: Path) -> list[str]:
    """Return the page's shell commands in order, continued lines joined."""
    lines = "\n".join(blocks(page, "sh")).replace("\\\n", " ").splitlines()
    return [" ".join(line.split()) for line in lines if line.strip() and not line.startswith("#")]


def commands_to_run(page: Path) -> list[str]:
    """Return the commands of a page that run with it; those that the README has too run with the README."""
    readme = set() if page.name == "README.md" else set(commands(ROOT / "README.md"))
    return [command for command in commands(page) if command not in IN_CI | readme and not BENCHMARK.search(command)]


TESTED_PAGES = [page for page in PAGES if commands_to_run(page) or blocks(page, "python")]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory, world, taught, google) -> Path:
    """A copy of the repository with fixtures where its pages expect data and models."""
    folder = tmp_path_factory.mktemp("prepared") / "sinkd"
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    for name in filter(lambda name: (ROOT / name).is_file(), listed.stdout.splitlines()):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, folder / name)
    (folder / ".venv").symlink_to(Path(sys.prefix))
    (folder / "datas").mkdir()
    (folder / "datas" / "glue").symlink_to(world.data)
    (folder / "models").mkdir()
    six_layers(world.teacher, folder / "models" / "minilm")
    shutil.copytree(google, folder / "models" / "bert_uncased_L-12_H-768_A-12")
    published_student(taught, folder / "models" / "published-student")
    # T is what the page's first command leaves behind.
    for name, target in {"M": world.teacher, "T": "experiments/exp_distill_cola/teacher", "S": world.student}.items():
        (folder / name).symlink_to(target)
    for name, rows in {"reviews.csv": 40, "reviews-dev.csv": 20}.items():
        lines = [f'"title {i}","a body, quoted {i % 7}",{i % 2 + 1}' for i in range(rows)]
        (folder / name).write_text("\n".join(["title,body,stars", *lines]) + "\n")
    (folder / "M2").symlink_to(taught)
    write_copa(folder / "datas" / "superglue")
    for name, kind in {"t5": "t5", "gpt": "gpt_neo"}.items():
        write_language_model(folder / "models" / f"{name}-teacher", kind, width=32, positions=512)
        write_language_model(folder / "models" / f"{name}-student", kind, width=16, positions=512)
    (folder / "LM").symlink_to("models/gpt-teacher")
    (folder / "more.txt").write_text("".join(f"more text {i}\n" for i in range(10)))
    return folder


@pytest.fixture
def checkout(prepared, tmp_path) -> Path:
    """The prepared checkout, once for each page."""
    return shutil.copytree(prepared, tmp_path / "sinkd", symlinks=True)


@pytest.fixture
def served():
    """The server of which the pages speak."""
    with CompletionsServer("chat") as server:
        server.model = {"id": "SmolLM2-135M"}
        yield server


def six_layers(start: Path, folder: Path) -> None:
    """An encoder of six layers, like the one that `make models/minilm` brings."""
    from sinkd.models import load_tokenizer
    from small_encoders import write_encoder

    write_encoder(folder, load_tokenizer(str(start), "--model_path"), layers=6, width=16, heads=2)


@pytest.fixture(scope="module")
def google(world, tmp_path_factory) -> Path:
    """A BERT of two layers as Google packs it, written by TensorFlow in a separate process."""
    folder = tmp_path_factory.mktemp("google")
    words = json.loads((world.teacher / "tokenizer.json").read_text())["model"]["vocab"]
    (folder / "words.txt").write_text("".join(f"{word}\n" for word in sorted(words, key=words.get)))
    program = ROOT / "tests" / "exchange" / "tensorflow_bert.py"
    subprocess.run([sys.executable, program, folder, folder / "words.txt"], capture_output=True, check=True)
    return folder


def published_student(taught: Path, folder: Path) -> None:
    """A trained model as transformers 3 left it: its weights are a pickle."""
    import torch
    from safetensors.torch import load_file

    names = {"manifest.json", "metrics.json", "model.safetensors", "checksums.json"}
    shutil.copytree(taught, folder, ignore=lambda _, found: [name for name in found if name in names or "-" in name])
    state = load_file(taught / "model.safetensors")
    torch.save(
        {name.replace("LayerNorm.weight", "LayerNorm.gamma"): tensor for name, tensor in state.items()},
        folder / "pytorch_model.bin",
    )


def test_pages_have_commands_and_name_their_shell():
    assert {page.name for page in PAGES} >= {"README.md", "zh.md", "log.md"}
    for page in PAGES:
        assert not blocks(page, ""), f"{page.name} has a block that says no language"
    assert len(commands(ROOT / "README.md")) >= 8
    assert {page.name for page in TESTED_PAGES} >= {"README.md", "zh.md", "scale.md", "exchange.md", "generative.md"}


def test_ci_runs_the_commands_left_to_it():
    script = (ROOT / ".ci" / "run").read_text()
    makefile = (ROOT / "Makefile").read_text()
    assert "pytest -n 2 --dist worksteal -m slow" in script  # `make test-slow`, written out
    for command in IN_CI - {"make install", "make test-slow"}:
        assert not command.startswith("make") or command.removeprefix("make ") in re.findall(
            r"make --no-print-directory ([\w-]+)", script
        )
    assert "install: $(INSTALLED)" in makefile and "$(TESTABLE): $(INSTALLED)" in makefile


@pytest.mark.slow
@pytest.mark.parametrize("page", TESTED_PAGES, ids=lambda page: page.name)
def test_every_command_runs_as_typed(page, checkout, served):
    environment = {**os.environ, "PATH": f"{checkout / '.venv' / 'bin'}:{os.environ['PATH']}"}
    for command in commands_to_run(page):
        elsewhere = ELSEWHERE.match(command)
        typed = f"{elsewhere[1]} --dry_run --use_cpu" if elsewhere else command
        typed += " --dry_run" * bool(NETWORK.search(command))
        typed = typed.replace("http://127.0.0.1:8080/v1", served.url)
        done = subprocess.run(
            ["bash", "-c", typed], cwd=checkout, env=environment, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    for program in blocks(page, "python"):
        done = subprocess.run([sys.executable, "-c", program], cwd=checkout, capture_output=True, text=True)
        assert done.returncode == 0, f"{program}\n{done.stderr}"
