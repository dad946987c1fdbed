"""A trial: the flags of one command, run in a separate process."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from sinkd.errors import SinkdError
from sinkd.training.arguments import DistillationArguments, FinetuneArguments, TaskArguments
from sinkd.training.manifest import describe, read_manifest
from sinkd.training.outcome import Outcome, read_outcome
from sinkd.training.settings import resolve_settings

COMMANDS: dict[str, type[TaskArguments]] = {"distill": DistillationArguments, "finetune": FinetuneArguments}


@dataclass(frozen=True)
class Trial:
    """A command line of `sinkd`, with a folder for its results.

    Attributes:
        name: Its name in tables, logs and messages.
        command, argv: The trial runs `sinkd COMMAND ARGV`.
    """

    name: str
    command: str
    argv: tuple[str, ...]
    folder: Path

    def settings(self) -> TaskArguments:
        """Resolve the command line as its command does. Raises SinkdError if the command would refuse it."""
        return resolve_settings(COMMANDS[self.command], self.argv, f"sinkd {self.command}")

    def outcome(self, files: Mapping[str, str]) -> Outcome | None:
        """The outcome of a finished trial; None for a trial to start or resume.

        Args:
            files: fingerprints of the task's data files, under the names in the manifest.

        Raises:
            SinkdError: if the folder contains a run with other settings or data.
        """
        manifest = read_manifest(self.folder)
        if manifest is None:
            return None
        args = self.settings()
        # Left open, the template is the run's choice. Models are not read here: a run that resumes compares them.
        args.template_name = args.template_name or manifest.settings["template_name"]
        difference = describe(args, {**manifest.inputs, **files}).same_run(manifest)
        if difference is not None:
            raise SinkdError(
                f"{self.folder} holds another run ({difference}); choose another --output_dir, or --overwrite"
            )
        return read_outcome(self.folder)

    def log(self, logs: Path) -> Path:
        """The file for the trial's output, in the folder `logs`."""
        return logs / f"{'-'.join(self.folder.relative_to(logs.parent).parts)}.log"

    def start(self, environment: Mapping[str, str] | None = None, own_session: bool = True) -> subprocess.Popen[str]:
        """Start the command with its output in one pipe; in its own session, Ctrl-C does not reach it."""
        return subprocess.Popen(
            [sys.executable, "-m", "sinkd", self.command, *self.argv, "--traceback"],
            env={**os.environ, **(environment or {})},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            errors="replace",
            start_new_session=own_session,
        )


TrialT = TypeVar("TrialT", bound=Trial)


def follow(process: subprocess.Popen[str], log: Path, on_line: Callable[[str], None] = lambda line: None) -> str:
    """Copy a trial's output into its log until it ends; return "", or a one-sentence reason for its failure."""
    assert process.stdout is not None
    said = ""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w", encoding="utf-8") as file:
        for line in process.stdout:
            file.write(line)
            file.flush()
            said = line.removeprefix("sinkd: ").strip() if line.startswith("sinkd: ") else said
            on_line(line.rstrip())
    status = process.wait()
    if status < 0:
        return f"its process was killed by {signal.Signals(-status).name}; was there too little memory?"
    return (said or f"its process ended with status {status}") if status else ""
