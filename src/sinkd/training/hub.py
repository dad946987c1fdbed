"""`--push_to_hub`: checkpoints as they are written, and the finished run's folder.

The Trainer's own pushing copies half-trained weights and a pickle of its arguments into the output folder, and reads
folders in the background while they are renamed. Here whole folders are uploaded, before training goes on.
"""

import logging
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi
from transformers.trainer_utils import HubStrategy

import sinkd
from sinkd.errors import SinkdError, first_sentence

logger = logging.getLogger(__name__)

# What a checkpoint holds for going on, beside the model; and what lies in a run's folder beside its result.
TRAINING_STATE = ["optimizer*", "scheduler*", "scaler*", "rng_state*", "trainer_state.json", "objective.safetensors"]
UNFINISHED = ["checkpoint-*", "best/*", ".*", "_*"]


def api() -> HfApi:
    """The hub's client."""
    return HfApi(library_name="sinkd", library_version=sinkd.__version__)


def open_repository(trainer: Any, token: str | None = None, private: bool | None = None) -> None:
    """Make, or find, the repository that `--hub_model_id` names, or one called as the output folder.

    token, private: in place of `--hub_token` and `--hub_private_repo`. Raises SinkdError where the hub refuses or
    cannot be reached.
    """
    args = trainer.args
    name = args.hub_model_id or Path(args.output_dir).absolute().name
    token = args.hub_token if token is None else token
    private = args.hub_private_repo if private is None else private
    try:
        made = api().create_repo(name, token=token, private=private, exist_ok=True)
    except Exception as error:  # the hub's own classes, its client's and the system's
        reason = first_sentence(error)
        raise SinkdError(f"--push_to_hub: the hub does not give the repository {name}: {reason}") from error
    trainer.hub_model_id, trainer.push_in_progress = made.repo_id, None


def push_checkpoint(trainer: Any, folder: Path) -> None:
    """Upload what `--hub_strategy` wants of a checkpoint: its model, all of it to last-checkpoint, or to its own name.

    A failure is told and training goes on: the end of the run pushes again.
    """
    args = trainer.args
    strategy = args.hub_strategy
    if not args.push_to_hub or strategy == HubStrategy.END or not trainer.is_world_process_zero():
        return
    message = f"Training in progress, step {trainer.state.global_step}"
    try:
        _upload(trainer, folder, message, ignore=TRAINING_STATE)
        if strategy in (HubStrategy.CHECKPOINT, HubStrategy.ALL_CHECKPOINTS):
            place = "last-checkpoint" if strategy == HubStrategy.CHECKPOINT else folder.name
            _upload(trainer, folder, f"{message}, checkpoint", place=place)
    except Exception as error:
        logger.warning("%s was not pushed to the hub: %s", folder, first_sentence(error))


def push_run(trainer: Any) -> None:
    """Upload a finished run's folder: best model, card, metrics and manifest. Raises SinkdError where that fails."""
    args = trainer.args
    if not args.push_to_hub or not trainer.is_world_process_zero():
        return
    folder = Path(args.output_dir)
    try:
        _upload(trainer, folder, "End of training", ignore=UNFINISHED)
    except Exception as error:
        raise SinkdError(
            f"the run is finished in {folder}, and was not pushed to the hub ({first_sentence(error)}); "
            "the same command pushes it"
        ) from error


def _upload(
    trainer: Any, folder: Path, message: str, ignore: list[str] | None = None, place: str | None = None
) -> None:
    api().upload_folder(
        repo_id=trainer.hub_model_id,
        folder_path=folder,
        path_in_repo=place,
        commit_message=message,
        token=trainer.args.hub_token,
        revision=trainer.args.hub_revision,
        ignore_patterns=ignore,
    )
