"""Run Python in a process of its own, with this checkout's code: a program, or a command of sinkd."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PATH = os.pathsep.join(map(str, (ROOT / "src", ROOT / "tests", ROOT)))
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node")


def python(*words: object, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess:
    """Run `python WORDS` to its end, with its output as text."""
    return subprocess.run(
        [sys.executable, *map(str, words)],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": PATH, **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )


def launch(
    *argv: object, victim: tuple[str, int] | None = None, processes: int = 1, restarts: int = 0
) -> subprocess.CompletedProcess:
    """Run a command of sinkd to its end.

    Args:
        argv: The command line of `sinkd`.
        victim: A fault of training/victim.py, and when.
        processes, restarts: More than one process is torchrun's, which starts them again this many times.
    """
    torchrun = (*TORCHRUN, processes, "--max_restarts", restarts) if processes > 1 else ()
    program = (ROOT / "tests" / "training" / "victim.py", *victim) if victim else ("-m", "sinkd")
    # torch 2.13 hands a restarted worker the store of the attempt before it, with addresses of the dead.
    return python(*torchrun, *program, *argv, TORCH_DISABLE_SHARE_RDZV_TCP_STORE="1")
