"""Run trials on a Ray cluster, which schedules them."""

import logging
import os
import socket
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sinkd.errors import SinkdError, first_sentence
from sinkd.sweep.trial import Trial, TrialT, follow

logger = logging.getLogger(__name__)

RAY = "ray==2.60.0"


def run_on_ray(
    trials: Sequence[TrialT],
    resources: Mapping[str, float],
    logs: Path,
    on_end: Callable[[TrialT, str], None],
    address: str,
) -> None:
    """Run trials on the Ray cluster at `address`; the other arguments are those of `run_local`.

    Raises:
        SinkdError: if Ray is not installed, or no cluster listens at the address.
    """
    ray = _connect(address)
    try:
        _warn_if_no_room(ray, resources)
        # max_calls: a Ray worker exits after its trial, so it keeps no memory of earlier ones.
        task = ray.remote(**resources, max_calls=1, max_retries=0)(_run_trial)
        running = {task.remote(trial, trial.log(logs), os.getcwd()): trial for trial in trials}
        while running:
            (ended,), _ = ray.wait(list(running), num_returns=1)
            try:
                reason = ray.get(ended)
            except ray.exceptions.RayError as error:  # the worker died, or its machine
                cause = getattr(error, "cause", None) or error
                reason = f"{type(cause).__name__}: {first_sentence(cause).split('. ')[0].rstrip('.')}"
            on_end(running.pop(ended), reason)
    finally:
        ray.shutdown()


def _run_trial(trial: Trial, log: Path, folder: str) -> str:
    """Run a trial in a Ray worker, from the folder where the sweep was started."""
    os.chdir(folder)
    with trial.start(own_session=False) as process:
        return follow(process, log)


def _connect(address: str) -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError as error:
        raise SinkdError(f"--address needs Ray, which is not installed; pip install {RAY}") from error
    host, colon, port = address.rpartition(":")
    try:
        if colon and port.isdigit() and "/" not in host:  # Ray itself would try for minutes
            socket.create_connection((host, int(port)), timeout=10).close()
        ray.init(address, logging_level=logging.ERROR, log_to_driver=False)
    except (OSError, RuntimeError, ValueError) as error:
        hint = "is a cluster running there (ray start --head), and do both use the same token?"
        raise SinkdError(f"Ray does not start: {first_sentence(error)}; {hint}") from error
    return ray


def _warn_if_no_room(ray: Any, resources: Mapping[str, float]) -> None:
    wanted = {"CPU": resources.get("num_cpus", 0), "GPU": resources.get("num_gpus", 0)}
    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if not any(all(machine.get(name, 0) >= number for name, number in wanted.items()) for machine in machines):
        asked = " and ".join(f"{number:g} {name}" for name, number in wanted.items() if number)
        logger.warning("a trial asks for %s, which no machine of the cluster has yet; Ray waits for one", asked)
