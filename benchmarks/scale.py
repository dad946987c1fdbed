"""What processes and micro-batches cost: rows per second, seconds per update, memory.

    python -m benchmarks.scale --encoder models/minilm --data_dir datas/glue

On CoLA's training text, a 6-layer encoder teaches its own layers 0, 2, 4 (kd + sinkhorn, Lorentz, the teacher's answers
cached), with one thread a process. Every line is a run of its own under torchrun; lines take turns, round by round.

- processes: updates of 32 rows by one process, and by two with 16 rows each.
- micro-batches: updates of 32 rows at once, and as four micro-batches of 8 whose transport sees the whole update
  (`--transport_scope window`: one more forward pass of the student) or a micro-batch each (`micro`).
- memory: the peak of a process whose updates grow from one micro-batch of 8 rows to 32 of them, and of one that takes
  all rows at once.

A figure is the median over rounds. Beside the seconds that pass stand those that the process computes: with one thread
they are what would pass where nothing else is at work, waiting for the other process left out.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import transformers
from benchmarks.pipeline import Lesson, add_lesson, trained
from benchmarks.result import machine, publish
from transformers import TrainerCallback

from sinkd.report import Table
from sinkd.training.gather import leave_group


@dataclass(frozen=True)
class Cut:
    """How an update is cut: `rows` of a micro-batch, `micro_batches` of each process, and what transport sees."""

    rows: int
    micro_batches: int = 1
    processes: int = 1
    scope: str = "window"

    def __str__(self) -> str:
        several = f" x {self.micro_batches} micro-batches" if self.micro_batches > 1 else ""
        processes = f" x {self.processes} processes" if self.processes > 1 else ""
        return f"{self.rows} rows{several}{processes}" + (", transport of each" if self.scope == "micro" else "")


SPEED = [Cut(32), Cut(16, processes=2), Cut(8, 4), Cut(8, 4, scope="micro")]
MEMORY = [Cut(8), Cut(8, 8), Cut(8, 32), Cut(64), Cut(256)]


class Computing(TrainerCallback):
    """Seconds of this process's own computing, from the first step to the end of training."""

    seconds = 0.0

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == 0:
            self.started = time.process_time()

    def on_train_end(self, args, state, control, **kwargs):
        self.seconds = time.process_time() - self.started


def work(given: argparse.Namespace) -> None:
    """One run, in a process of its own: prints seconds, updates and peak memory as JSON."""
    cut = Cut(**json.loads(given.cut))
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    trainer = Lesson(given.encoder, given.data_dir, given.rows).trainer(
        given.folder,
        per_gpu_batch_size=cut.rows,
        gradient_accumulation_steps=cut.micro_batches,
        transport_scope=cut.scope,
    )
    computing = Computing()
    trainer.add_callback(computing)
    seconds = trained(trainer)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    if trainer.is_world_process_zero():
        figures = {"seconds": seconds, "computing": computing.seconds}
        print(json.dumps(figures | {"updates": trainer.state.global_step, "megabytes": peak}), flush=True)
    leave_group()


def run(cut: Cut, given: argparse.Namespace, folder: str, rows: int) -> dict:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(cut.processes)]
    command += ["-m", "benchmarks.scale", "--cut", json.dumps(asdict(cut)), "--folder", folder]
    command += ["--encoder", given.encoder, "--data_dir", given.data_dir, "--rows", str(rows)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "SINKD_CACHE": folder}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"{cut} failed:\n{done.stderr}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_lesson(parser)
    parser.add_argument("--rows", type=int, default=512, help="rows a run")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/scale.json"), help="where the JSON goes")
    parser.add_argument("--cut", help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.cut is not None:
        work(given)
        return
    torch.set_num_threads(1)  # as every run has, for the machine in the title
    found: dict[str, list[dict]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for cut in [SPEED[0], *SPEED * given.rounds]:
            found.setdefault(str(cut), []).append(run(cut, given, folder, given.rows))
        # The first run filled the teacher's cache.
        found[str(SPEED[0])].pop(0)
        peaks = {str(cut): run(cut, given, folder, given.rows)["megabytes"] for cut in MEMORY}
    head = ["", "rows/s", "range", "seconds an update", "computing", "of the first"]
    speed = Table(f"Updates of 32 rows ({machine()})", head)
    first = statistics.median(run["computing"] for run in found[str(SPEED[0])])
    for name, runs in found.items():
        seconds, computing = (statistics.median(run[key] for run in runs) for key in ("seconds", "computing"))
        speeds = [given.rows / run["seconds"] for run in runs]
        spread = f"{min(speeds):.0f} to {max(speeds):.0f}"
        each = [f"{figure / runs[0]['updates']:.3f}" for figure in (seconds, computing)]
        speed.add(name, f"{given.rows / seconds:.0f}", spread, *each, f"{computing / first:.2f}x")
    memory = Table("Peak memory of a process", ["an update", "MB"])
    for name, megabytes in peaks.items():
        memory.add(name, f"{megabytes:.0f}")
    publish("scale", given.out, speed, memory, speed=found, megabytes=peaks)


if __name__ == "__main__":
    main()
