"""`manifest.json`: everything that determines a run, written before it starts; it identifies a folder's run."""

import json
import platform
import sys
from dataclasses import asdict, dataclass, field, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

import sinkd
from sinkd.errors import SinkdError
from sinkd.training.arguments import TaskArguments
from sinkd.training.checkpoint import write_text

PACKAGES = ("torch", "transformers", "accelerate", "datasets", "tokenizers", "numpy")

# Settings that change only where a run reads and writes and what it shows, not its results.
INCIDENTAL = {
    "output_dir", "overwrite", "traceback", "quiet", "dry_run", "config", "seeds", "disable_tqdm", "report_to",
    "run_name",
    "log_level", "log_level_replica", "log_on_each_node", "save_total_limit", "local_rank", "do_train",
    "do_eval", "do_predict", "do_test", "test_output_dir", "exp_name", "resume_from_checkpoint", "teacher_cache_dir",
    "teacher_cache", "data_dir", "train_file", "dev_file", "test_file", "unlabeled_file",
    "push_to_hub", "hub_model_id", "hub_strategy", "hub_token", "hub_private_repo", "hub_always_push", "hub_revision",
    "greater_is_better", "save_steps", "save_strategy", "logging_steps",
    "per_device_eval_batch_size", "per_gpu_batch_size", "dataloader_pin_memory", "dataloader_num_workers",
    "model_path", "teacher_path", "student_path", "parallelize", "wandb_proj", "tokenizer_name", "config_name",
    "teacher_url", "teacher_concurrency", "teacher_timeout", "teacher_max_requests", "templates_dir", "use_cpu",
}  # fmt: skip


@dataclass(frozen=True)
class Manifest:
    """Everything that determines a run.

    Attributes:
        argv: The command line.
        config: The settings that affect the result.
        inputs: Fingerprints of the run's inputs (data files, starting model, teacher), by name.
        versions: Versions of Python and of packages, by name.
        balances: How the teachers' answers were balanced, known once they have answered.
    """

    argv: list[str]
    config: dict[str, Any]
    settings: dict[str, Any]
    inputs: dict[str, str]
    versions: dict[str, str]
    seed: int
    world_size: int
    balances: list[dict[str, Any]] = field(default_factory=list)

    def same_run(self, other: "Manifest") -> str | None:
        """Compare with another manifest: return None for the same run, else the first difference."""
        now = {**self.config, **self.inputs, "world_size": self.world_size}
        then = {**other.config, **other.inputs, "world_size": other.world_size}
        for name in sorted(now.keys() | then.keys()):
            if now.get(name) != then.get(name):
                return f"{name} was {then.get(name)!r} and is {now.get(name)!r}"
        return None

    def write(self, folder: Path) -> None:
        """Write `manifest.json` into a run's folder."""
        write_text(folder / "manifest.json", json.dumps(asdict(self), indent=1, default=str) + "\n")


def describe(args: TaskArguments, inputs: dict[str, str]) -> Manifest:
    """Return the manifest of a run that is about to start."""
    settings = json.loads(json.dumps(args.to_dict(), default=str))
    names = {f.name for f in fields(args)} - INCIDENTAL
    program = Path(sys.argv[0])
    return Manifest(
        # a script as typed, T0/distillation.py; of an installed program its name alone
        argv=[program.name if program.is_absolute() else sys.argv[0], *_without_secrets(sys.argv[1:])],
        config={name: settings[name] for name in sorted(names) if name in settings},
        settings=settings,
        inputs=inputs,
        versions={
            "python": platform.python_version(),
            "sinkd": sinkd.__version__,
            **{name: version(name) for name in PACKAGES},
        },
        seed=args.seed,
        world_size=args.world_size,
    )


def _without_secrets(words: list[str]) -> list[str]:
    """A command line without the hub's token: manifest and model card are published with the model."""
    hidden = ["--hub_token=..." if word.startswith("--hub_token=") else word for word in words]
    return ["..." if before == "--hub_token" else word for before, word in zip(["", *words], hidden, strict=False)]


def read_manifest(folder: Path) -> Manifest | None:
    """Read the manifest in a run's folder; None if there is none. Raises SinkdError if it cannot be read."""
    path = folder / "manifest.json"
    if not path.is_file():
        return None
    try:
        return Manifest(**json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise SinkdError(f"{path} is no manifest of this version of sinkd; choose another folder") from error
