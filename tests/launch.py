"""Start a sinkd command in processes of its own, alone or under torchrun, with or without a fault."""

import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent


def launch(
    *argv, victim: tuple[str, int] | None = None, processes: int = 1, restarts: int = 0
) -> subprocess.CompletedProcess:
    """Run a command to its end.

    Args:
        argv: The command line of `sinkd`.
        victim: A fault of training/victim.py, and when.
        processes, restarts: More than one process is torchrun's, which starts them again this many times.
    """
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    torchrun += ["--max_restarts", str(restarts)]
    program = [str(HERE / "training" / "victim.py"), *map(str, victim)] if victim else ["-m", "sinkd"]
    command = [sys.executable, *(torchrun if processes > 1 else []), *program, *map(str, argv)]
    # torch 2.13 hands a restarted worker the store of the attempt before it, with addresses of the dead.
    environment = {**os.environ, "PYTHONPATH": str(HERE.parent / "src"), "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
