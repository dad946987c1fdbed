"""Language models too have one loss, gradient and end, however an update is cut among micro-batches and processes.

Parts of an update hold different numbers of answer tokens, and the last update of an epoch has a single row.
"""

import itertools
import json
from pathlib import Path

import pytest
import torch

from processes import TORCHRUN, python
from training import decoder_cuts
from training.test_gradient_cache import BOUND, distance, is_far

HERE = Path(__file__).resolve().parent
KINDS = ["t5", "gpt2"]
# Each at a temperature at which a wrong cut shows in the loss itself, and ten updates do not make rounding grow.
COSTS = {"l1": 4.0, "lorentz": 0.5}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """(kind, cost, rows, micro-batches, scope, processes) -> a job for `decoder_cuts.py`."""
    folder = tmp_path_factory.mktemp("decoders")

    def job(kind, cost, rows, micro_batches, scope="window", processes=1):
        name = "-".join(map(str, (kind, cost, rows, micro_batches, scope, processes)))
        settings = {"per_device_train_batch_size": rows, "gradient_accumulation_steps": micro_batches}
        settings |= {"transport_scope": scope, "teacher_cache_dir": str(folder / "cache")}
        settings |= {"sinkhorn_cost": cost, "sinkhorn_temperature": COSTS[cost]}
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
    assert is_far(torch.load(micro["out"]), whole(kind, cost))


@pytest.mark.parametrize("kind", KINDS)
def test_transport_of_each_answer_counts_by_answers(prepared, kind):
    # row by row, a term with its own parameter
    found = []
    for rows, micro_batches in ((32, 1), (8, 4)):
        job = prepared(kind, "lorentz", rows, micro_batches, scope="micro")
        job["settings"] |= {"sinkhorn_group": "sequence", "learnable_curvature": True, "curvature_lr": 10.0}
        decoder_cuts.run(job)
        found.append(torch.load(job["out"]))
    whole, parts = found
    assert whole["moved_own"].norm() > 1e-3
    assert distance(parts, whole) < BOUND


@pytest.fixture(scope="module")
def by_two(prepared, tmp_path_factory):
    """Every job of two processes, run by one pair of them: starting a pair takes longer than ten updates."""
    cuts = [(16, 1, "window"), (8, 2, "window"), (16, 1, "rank"), (8, 2, "micro")]
    every = itertools.product(KINDS, COSTS, cuts)
    jobs = {(kind, cost, *cut): prepared(kind, cost, *cut, 2) for kind, cost, cut in every}
    listed = tmp_path_factory.mktemp("jobs") / "jobs.json"
    listed.write_text(json.dumps(list(jobs.values())))
    done = python(*TORCHRUN, 2, HERE / "decoder_cuts.py", listed)
    assert done.returncode == 0, done.stderr
    return {key: torch.load(job["out"]) for key, job in jobs.items()}


@pytest.mark.slow
@pytest.mark.parametrize("cost", COSTS)
@pytest.mark.parametrize("kind", KINDS)
def test_processes_give_the_loss_of_one_for_answers(by_two, whole, kind, cost):
    for rows, micro_batches in ((16, 1), (8, 2)):
        assert distance(by_two[kind, cost, rows, micro_batches, "window"], whole(kind, cost)) < BOUND
    for cut in ((16, 1, "rank"), (8, 2, "micro")):
        assert is_far(by_two[(kind, cost, *cut)], whole(kind, cost)), (cut, cost)
