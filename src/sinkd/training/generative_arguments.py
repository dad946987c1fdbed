"""What a run of a language model can be told beside what every run can: prompts, lengths, shots, answers."""

import os
from dataclasses import dataclass
from importlib.util import find_spec

from sinkd.errors import SinkdError
from sinkd.training.flag import flag


@dataclass
class GenerativeArguments:
    """Flags of tasks that a language model answers in words."""

    dataset_name: str | None = flag(None, "super_glue or anli: the collection that the task is from.")
    dataset_config_name: str | None = flag(None, "The task of that collection: copa, cb, ..., r1.")
    template_name: str | None = flag(None, "The prompt template (default: the task's first).")
    templates_dir: str | None = flag(None, "A folder of templates in promptsource's format, in front of the others.")
    max_length: int = flag(1024, "Longer prompts are cut to so many tokens.")
    target_max_length: int = flag(256, "Longer answers are cut to so many tokens.")
    input_eos: bool = flag(False, "End prompts with the end-of-sequence token, as T5 was trained; T0 was not.")
    pad_to_max_length: bool = flag(False, "Pad every prompt to --max_length: same losses, slower.")
    num_shots: int | None = flag(None, "Train on so many examples only, drawn by the seed.")
    max_dev_rows: int | None = flag(None, "Evaluate on the first so many rows only.")
    length_normalize: bool = flag(False, "Compare answers by the mean log-probability of their tokens, not the sum.")
    parallelize: bool = flag(False, "Spread models over all accelerators of the machine.")
    config_name: str | None = flag(None, "Take the config of the model being trained from here.")
    tokenizer_name: str | None = flag(None, "Take the tokenizer from here.")
    wandb_proj: str | None = flag(None, "Also log to this project of Weights & Biases.")

    def refuse_impossible_generation(self) -> None:
        """Raise SinkdError for counts that leave nothing to train on or to evaluate."""
        for name in ("num_shots", "max_dev_rows"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise SinkdError(f"--{name} is {value}; it must be at least 1")

    def loggers(self, report_to: list[str]) -> list[str]:
        """The loggers of a run, W&B among them where a project is named; SinkdError where it is not installed."""
        if self.wandb_proj is None or "wandb" in report_to:
            return report_to
        if find_spec("wandb") is None:
            raise SinkdError("--wandb_proj needs Weights & Biases; install it by .venv/bin/pip install wandb")
        os.environ["WANDB_PROJECT"] = self.wandb_proj
        return [*report_to, "wandb"]
