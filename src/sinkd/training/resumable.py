"""A Trainer whose runs can be killed at any point and resumed to the same weights."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, rotate_checkpoints

from sinkd.errors import SinkdError, first_sentence
from sinkd.models.seal import damaged
from sinkd.training.checkpoint import PARTIAL, last_checkpoint, remove_partial, written_whole
from sinkd.training.cpu import CpuTrainer
from sinkd.training.hub import push_checkpoint, repository
from sinkd.training.schedule import Schedule

BEST = "best"
TIMING = ("runtime", "_per_second", "_time", "epoch")  # in the names of what an evaluation reports beside scores


class ResumableTrainer(CpuTrainer):
    """A Trainer with atomic checkpoints, and the best model in a separate folder.

    Args:
        interval: See `Schedule`, which decides when to evaluate, save and stop.
        kwargs: Those of `transformers.Trainer`.
    """

    def __init__(self, *, interval: Callable[[int], int | None] | None = None, **kwargs: Any):
        super().__init__(**kwargs)
        self.schedule = Schedule(interval, evaluates=bool(self.eval_dataset))
        self.add_callback(self.schedule)
        self._saving_to: Path | None = None

    def train(self, resume_from_checkpoint=None, **kwargs):
        if self.args.should_save:
            remove_partial(Path(self.args.output_dir))
        if resume_from_checkpoint is True:  # the newest that is whole; the Trainer complains if there is none
            newest = last_checkpoint(Path(self.args.output_dir))
            resume_from_checkpoint = True if newest is None else str(newest)
        with self.schedule.catching_signals():
            result = super().train(resume_from_checkpoint=resume_from_checkpoint, **kwargs)
        if self.args.load_best_model_at_end and self.state.best_metric is not None:
            self._load_from_checkpoint(str(Path(self.args.output_dir, BEST)))
        return result

    def _get_output_dir(self, trial):
        return super()._get_output_dir(trial) if self._saving_to is None else str(self._saving_to)

    def _save_checkpoint(self, model, trial):
        folder = Path(self.args.output_dir)
        name = f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        with written_whole(folder / name, writer=self.args.should_save) as staged:
            # The Trainer writes to `<its output folder>/checkpoint-N`, and every process its own files there.
            self._saving_to = folder / PARTIAL
            try:
                super()._save_checkpoint(model, trial)
                if self.args.should_save:
                    self.save_extras(staged)
            except RuntimeError as error:  # torch.save's, which does not say that a disk is full
                full = shutil.disk_usage(folder).free < 2**20
                raise OSError("No space left on device" if full else first_sentence(error)) from error
            finally:
                self._saving_to = None
            self.accelerator.wait_for_everyone()
        self.accelerator.wait_for_everyone()
        push_checkpoint(self, folder / name)
        if self.args.should_save:
            rotate_checkpoints(output_dir=str(folder), save_total_limit=self.args.save_total_limit, use_mtime=False)

    def save_extras(self, folder: Path) -> None:
        """Write what a resumed run needs beside the Trainer's own files."""

    def init_hf_repo(self, token=None, private=None):
        if self.is_world_process_zero():
            self.hub_model_id, self.push_in_progress = repository(self.args, token, private), None

    def _push_from_checkpoint(self, checkpoint_folder):
        """Do nothing: `_save_checkpoint` pushes the folder once it is complete."""

    def _save(self, output_dir=None, state_dict=None):
        super()._save(output_dir, state_dict)
        # A pickle of the arguments, which sinkd does not read; the manifest contains them.
        Path(output_dir or self.args.output_dir, "training_args.bin").unlink(missing_ok=True)

    def _determine_best_metric(self, metrics, trial):
        wanted = self.args.metric_for_best_model
        if wanted is not None and f"eval_{wanted.removeprefix('eval_')}" not in metrics:
            known = ", ".join(name.removeprefix("eval_") for name in metrics if not name.endswith(TIMING))
            raise SinkdError(f"metric_for_best_model is {wanted}, and an evaluation gives {known}; choose one of these")
        is_best = super()._determine_best_metric(metrics, trial)
        self.state.best_global_step = None  # else the Trainer would look for the best model among the checkpoints
        if is_best:
            self._save_best()
        return is_best

    def _save_best(self) -> None:
        with written_whole(Path(self.args.output_dir) / BEST, writer=self.args.should_save) as partial:
            self.save_model(str(partial), _internal_call=True)
            self.accelerator.wait_for_everyone()
        self.accelerator.wait_for_everyone()

    def adopt_best(self) -> None:
        """Copy the best model into the output folder and load it; the last model if none was evaluated."""
        folder = Path(self.args.output_dir)
        best = folder / BEST
        if not best.is_dir():
            self._save_best()
        self.accelerator.wait_for_everyone()
        if (broken := damaged(best)) is not None:
            raise SinkdError(f"{broken} is not as it was written; --overwrite trains the model again")
        if self.args.should_save:
            for path in best.iterdir():
                shutil.copy2(path, folder / path.name)
        self._load_from_checkpoint(str(best))
        self.accelerator.wait_for_everyone()
