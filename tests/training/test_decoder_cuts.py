"""Language models too have one loss, gradient and end, however an update is cut among micro-batches and processes.

Parts of an update hold different numbers of answer tokens, and the last update of an epoch has a single row.
"""

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from training import decoder_cuts
from training.test_window import BOUND, distance

HERE = Path(__file__).resolve().parent
KINDS = ["t5", "gpt2"]
COSTS = ["l1", "lorentz"]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """(kind, cost, rows, micro-batches, scope, processes) -> a job for `decoder_cuts.py`."""
    folder = tmp_path_factory.mktemp("decoders")

    def job(kind, cost, rows, micro_batches, scope="window", processes=1):
        name = "-".join(map(str, (kind, cost, rows, micro_batches, scope, processes)))
        settings = {"per_device_train_batch_size": rows, "gradient_accumulation_steps": micro_batches}
        settings |= {"transport_scope": scope, "sinkhorn_cost": cost, "teacher_cache_dir": str(folder / "cache")}
        return {"out": str(folder / f"{name}.pt"), "kind": kind, "n_rows": 129, "settings": settings}

    return job


@pytest.fixture(scope="module")
def whole(prepared):
    """(kind, cost) -> what a training with all 32 rows at once keeps."""
    found = {}

    def whole(kind, cost):
        if (kind, cost) not in found:
            job = prepared(kind, cost, 32, 1)
            decoder_cuts.run(job)
            found[kind, cost] = torch.load(job["out"])
        return found[kind, cost]

    return whole


@pytest.mark.parametrize("cost", COSTS)
@pytest.mark.parametrize("kind", KINDS)
def test_micro_batches_of_answers_give_the_loss_of_the_whole(prepared, whole, kind, cost):
    window, micro = (prepared(kind, cost, 8, 4, scope) for scope in ("window", "micro"))
    for job in (window, micro):
        decoder_cuts.run(job)
    assert distance(torch.load(window["out"]), whole(kind, cost)) < BOUND
    assert distance(torch.load(micro["out"]), whole(kind, cost)) > 100 * BOUND


@pytest.fixture(scope="module")
def by_two(prepared, tmp_path_factory):
    """Every job of two processes, run by one pair of them: starting a pair takes longer than ten updates."""
    cuts = [(16, 1, "window"), (8, 2, "window"), (16, 1, "rank"), (8, 2, "micro")]
    every = itertools.product(KINDS, COSTS, cuts)
    jobs = {(kind, cost, *cut): prepared(kind, cost, *cut, 2) for kind, cost, cut in every}
    listed = tmp_path_factory.mktemp("jobs") / "jobs.json"
    listed.write_text(json.dumps(list(jobs.values())))
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (HERE.parent, HERE.parents[1] / "src")))}
    done = subprocess.run(
        [*torchrun, HERE / "decoder_cuts.py", listed], env=environment, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr
    return {key: torch.load(job["out"]) for key, job in jobs.items()}


@pytest.mark.slow
@pytest.mark.parametrize("cost", COSTS)
@pytest.mark.parametrize("kind", KINDS)
def test_processes_give_the_loss_of_one_for_answers(by_two, whole, kind, cost):
    for rows, micro_batches in ((16, 1), (8, 2)):
        assert distance(by_two[kind, cost, rows, micro_batches, "window"], whole(kind, cost)) < BOUND
    for cut in ((16, 1, "rank"), (8, 2, "micro")):
        assert distance(by_two[(kind, cost, *cut)], whole(kind, cost)) > 100 * BOUND
