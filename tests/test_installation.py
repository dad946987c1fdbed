"""The published entry points run with any Python, through the `.venv` next to them."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ENTRIES = ["main_glue.py", "main_glue_distill.py"]


@pytest.fixture
def checkout(tmp_path):
    """The entry points in a separate folder."""
    for name in ["installation.py", *ENTRIES]:
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


def run_bare(entry: Path, *flags: str, cwd: Path, python: str | Path = sys.executable):
    """Start an entry point with a Python that has the standard library and nothing else (-S)."""
    return subprocess.run([python, "-S", entry, *flags], cwd=cwd, capture_output=True, text=True, env={})


@pytest.mark.parametrize("entry", ENTRIES)
def test_a_bare_python_hands_over_to_the_installation(entry, checkout, tmp_path_factory):
    python = checkout / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/sh\npwd\nprintf "%s\\n" "$@"\nexit 7\n')
    python.chmod(0o755)
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    done = run_bare(checkout / entry, "--exp_name", "two words", cwd=elsewhere)
    assert done.stdout.splitlines() == [str(elsewhere), str(checkout / entry), "--exp_name", "two words"]
    assert done.returncode == 7


@pytest.mark.parametrize("entry", ENTRIES)
def test_without_an_installation_one_sentence_says_how_to_get_it(entry, checkout):
    done = run_bare(checkout / entry, cwd=checkout)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == 'sinkd is not installed here; run "sh ins.sh" first\n'


def test_an_unfinished_installation_is_reported_and_does_not_loop(checkout):
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", checkout / ".venv"], check=True)
    done = run_bare(checkout / "main_glue.py", cwd=checkout)
    assert done.returncode == 2
    assert 'run "sh ins.sh" first' in done.stderr


@pytest.mark.parametrize(
    ("script", "target"), [("ins.sh", "install"), ("T0/ins.sh", "generative"), ("GPT-Neo/ins.sh", "generative")]
)
def test_an_installation_script_is_a_target_of_make_from_anywhere(script, target, tmp_path):
    """With a `make` that says where it was started, and with what."""
    make = tmp_path / "make"
    make.write_text('#!/bin/sh\npwd\nprintf "%s\\n" "$@"\n')
    make.chmod(0o755)
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    done = subprocess.run(["sh", ROOT / script], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.stdout.splitlines() == [str(ROOT), "--no-print-directory", target]
    assert f"\n{target}:" in (ROOT / "Makefile").read_text()
