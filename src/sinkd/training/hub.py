"""`--push_to_hub`: upload checkpoints as they are written, and the finished run's folder.

The Trainer's own pushing copies half-trained weights and a pickle of its arguments into the output folder, and reads
folders in the background while they are renamed. Here whole folders are uploaded before training goes on.
"""

import logging
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi
from transformers import TrainingArguments
from transformers.trainer_utils import HubStrategy

import sinkd
from sinkd.errors import SinkdError, first_sentence

logger = logging.getLogger(__name__)

# Files that a checkpoint needs only to resume, and what lies in a run's folder beside its result.
TRAINING_STATE = ["optimizer*", "scheduler*", "scaler*", "rng_state*", "trainer_state.json", "objective.safetensors"]
UNFINISHED = ["checkpoint-*", "best/*", ".*", "_*"]


def repository(args: TrainingArguments, token: str | None = None, private: bool | None = None) -> str:
    """Create or find the repository that `--hub_model_id` names, by default the output folder's name; return its name.

    Args:
        args: The settings of the run.
        token, private: Override `--hub_token` and `--hub_private_repo`.

    Raises:
        SinkdError: if the hub refuses or cannot be reached.
    """
    name = args.hub_model_id or Path(args.output_dir).absolute().name
    token = args.hub_token if token is None else token
    private = args.hub_private_repo if private is None else private
    try:
        return _api().create_repo(name, token=token, private=private, exist_ok=True).repo_id
    except Exception as error:  # from the hub, its HTTP client, or the system
        reason = first_sentence(error)
        raise SinkdError(f"--push_to_hub: the hub refuses the repository {name}: {reason}") from error


def push_checkpoint(trainer: Any, folder: Path) -> None:
    """Upload a checkpoint as `--hub_strategy` says: its model, and all of it to last-checkpoint or its own name.

    A failure is logged and training goes on, since the end of the run pushes again.
    """
    args = trainer.args
    strategy = args.hub_strategy
    if not args.push_to_hub or strategy == HubStrategy.END or not trainer.is_world_process_zero():
        return
    message = f"Training in progress, step {trainer.state.global_step}"
    try:
        _upload(args, trainer.hub_model_id, folder, message, ignore_patterns=TRAINING_STATE)
        if strategy in (HubStrategy.CHECKPOINT, HubStrategy.ALL_CHECKPOINTS):
            place = "last-checkpoint" if strategy == HubStrategy.CHECKPOINT else folder.name
            _upload(args, trainer.hub_model_id, folder, f"{message}, checkpoint", path_in_repo=place)
    except Exception as error:
        logger.warning("%s was not pushed to the hub: %s", folder, first_sentence(error))


def push_run(args: TrainingArguments) -> None:
    """Upload a finished run's folder: the best model, card, metrics and manifest. Raises SinkdError if that fails."""
    if args.process_index != 0:
        return
    folder = Path(args.output_dir)
    try:
        _upload(args, repository(args), folder, "End of training", ignore_patterns=UNFINISHED)
    except Exception as error:
        raise SinkdError(
            f"the run is finished in {folder}, but was not pushed to the hub ({first_sentence(error)}); "
            "the same command pushes it"
        ) from error


def _api() -> HfApi:
    return HfApi(library_name="sinkd", library_version=sinkd.__version__)


def _upload(args: TrainingArguments, name: str, folder: Path, message: str, **options: Any) -> None:
    _api().upload_folder(
        repo_id=name,
        folder_path=folder,
        commit_message=message,
        token=args.hub_token,
        revision=args.hub_revision,
        **options,
    )
