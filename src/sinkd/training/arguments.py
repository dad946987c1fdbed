"""What a run can be told: dataclass fields on `transformers.TrainingArguments`, so that every Trainer flag works too.

A flag, a recipe's key and a field are one name; names of the published system are aliases. `TaskArguments` holds what
every command knows, `FinetuneArguments` and `DistillationArguments` add what their command does.
"""

import math
import os
from dataclasses import dataclass, field
from typing import Literal

import torch
from transformers import TrainingArguments
from transformers.utils import is_torch_xla_available

from sinkd.errors import SinkdError
from sinkd.training.flag import flag as _flag
from sinkd.training.generative_arguments import GenerativeArguments
from sinkd.training.objective_arguments import ObjectiveArguments


@dataclass
class TaskArguments(GenerativeArguments, TrainingArguments):
    """The data, the model being trained and the manner of evaluation, shared by every command."""

    ddp_backend: str | None = field(default=None, metadata={"help": "Backend of distributed training."})
    # Defaults of TrainingArguments that differ here
    # (its annotation is the Trainer's: HfArgumentParser takes the middle one for the flag's type)
    report_to: None | str | list[str] = field(  # noqa: RUF036
        default_factory=lambda: ["tensorboard"], metadata={"help": "Loggers."}
    )
    logging_steps: float = field(default=100, metadata={"help": "Log every so many steps."})
    eval_strategy: str = field(default="epoch", metadata={"help": "When to evaluate: epoch, steps or no."})
    save_strategy: str = field(default="epoch", metadata={"help": "When to write a checkpoint: epoch, steps or no."})
    save_steps: float = field(default=0, metadata={"help": "Also write a checkpoint every so many steps (0: no)."})
    save_total_limit: int | None = field(default=2, metadata={"help": "How many checkpoints to keep."})
    remove_unused_columns: bool = field(default=False, metadata={"help": "The collator knows what a model takes."})
    weight_decay: float = field(default=0.0, metadata={"help": "Weight decay of AdamW."})
    do_eval: bool = field(
        default=False, metadata={"help": "Published entry points: evaluate, if need be an earlier run."}
    )
    adam_epsilon: float = field(default=1e-8, metadata={"help": "Epsilon of AdamW."})

    config: str | None = _flag(None, "A YAML recipe; flags on the command line win over it.")
    dry_run: bool = _flag(False, "Read the flags and the recipe, print what would run, and stop.")
    traceback: bool = _flag(False, "Show where in the code an error arose.")

    task_name: str | None = _flag(
        None, "A task: cola, sst-2, mrpc, sts-b, qqp, mnli, qnli, rte, wnli, ax; superglue/copa, ..., anli/r1."
    )
    data_dir: str = _flag(
        "datas/glue", "The folder that holds the tasks' folders (SuperGLUE: datas/superglue, or the hub)."
    )
    train_file: str | None = _flag(None, "Your own table to train on (csv, tsv or jsonl), in place of a task.")
    dev_file: str | None = _flag(None, "Your own table to evaluate on.")
    test_file: str | None = _flag(None, "Your own table to predict.")
    text_columns: str | None = _flag(None, "The column, or two columns with a comma, that hold your text.")
    label_column: str | None = _flag(None, "The column that holds your labels.")
    table_kind: Literal["auto", "classification", "regression"] = _flag(
        "auto", "What your labels are; auto: scores if all are numbers and one has a fraction, else classes."
    )
    bad_rows: Literal["error", "skip"] = _flag("error", "A malformed row stops the run, or is dropped and counted.")
    max_train_rows: int | None = _flag(None, "Train on the first so many rows only.")
    max_seq_length: int = _flag(128, "Longer inputs are cut to so many tokens.")
    do_lower_case: bool = _flag(False, "Lower-case all text; without it the tokenizer's folder decides.")
    trim_embedding: bool = _flag(
        True, "Leave rows of the embedding that no training row uses out of training: same result."
    )
    group_by_length: bool = _flag(True, "Make batches of rows of like length: less padding, same rows.")

    per_gpu_batch_size: int | None = _flag(None, "Rows a device, in training and in evaluation.", "--batch_size")
    seeds: str | None = _flag(None, "Seeds with commas: repeat the run with each, report mean and spread.")
    protocol: Literal["clean", "published"] = _flag(
        "clean", "clean: evaluate each epoch; published: every few steps, and report the maximum."
    )
    overwrite: bool = _flag(False, "Replace what an earlier, different run left in the output folder.")
    do_test: bool = _flag(False, "After training, write predictions for the test set.")
    test_output_dir: str | None = _flag(None, "Where those predictions go (default: the output folder).")
    exp_name: str | None = _flag(None, "Name of the run's folder where no --output_dir is given.")

    keep_layers: str | None = _flag(None, "Keep only these layers of the model to be trained: 3, or 0,2,4.")
    config_overrides: str | None = _flag(None, "Values of the model's config, as in hidden_dropout_prob=0,...")

    def __post_init__(self) -> None:
        _refuse_impossible(self)
        self.refuse_impossible_generation()
        if self.per_gpu_batch_size is not None:
            self.per_device_train_batch_size = self.per_device_eval_batch_size = self.per_gpu_batch_size
        if self.protocol == "published":
            # The interval of MNLI changes within a run, so the trainer's own schedule decides when to evaluate.
            self.eval_strategy = "no"
        if self.save_steps and self.save_strategy == "epoch":
            self.save_strategy = "steps"
        if not torch.cuda.is_available():
            self.dataloader_pin_memory = False
            if int(os.environ.get("WORLD_SIZE", "1")) > 1:
                # Without these the processes that torchrun starts would not find each other.
                self.use_cpu, self.ddp_backend = True, self.ddp_backend or "gloo"
        if (self.bf16 or self.bf16_full_eval) and not torch.accelerator.is_available() and not is_torch_xla_available():
            self.use_cpu = True  # otherwise transformers refuses bfloat16 as a matter of GPUs
        if self.wandb_proj is not None:
            reports = [self.report_to] if isinstance(self.report_to, str) else list(self.report_to or [])
            self.report_to = self.loggers(reports)
        asked = self.do_eval
        super().__post_init__()
        self.do_eval = asked  # which the Trainer's arguments turn on for every run that evaluates

    @property
    def seed_list(self) -> list[int]:
        """The seeds of the runs to do: `seeds`, or `seed` alone."""
        return [self.seed] if self.seeds is None else [_integer(seed, "--seeds") for seed in self.seeds.split(",")]


@dataclass
class FinetuneArguments(TaskArguments):
    """`sinkd finetune`: a model by hard labels alone. Defaults are those of the published teacher script."""

    per_device_train_batch_size: int = field(default=32, metadata={"help": "Rows a device in training."})
    per_device_eval_batch_size: int = field(default=32, metadata={"help": "Rows a device in evaluation."})
    num_train_epochs: float = field(default=5.0, metadata={"help": "Passes over the training rows."})
    learning_rate: float = field(default=2e-5, metadata={"help": "The first learning rate of a linear decay."})
    seed: int = field(default=42, metadata={"help": "Decides initial weights, the order of batches and dropout."})

    model_path: str | None = _flag(None, "The model to train: a folder, or a name on the hub.")


@dataclass
class DistillationArguments(ObjectiveArguments, TaskArguments):
    """`sinkd distill`: a student under an objective. Defaults are those of the published student script."""

    per_device_train_batch_size: int = field(default=16, metadata={"help": "Rows a device in training."})
    per_device_eval_batch_size: int = field(default=16, metadata={"help": "Rows a device in evaluation."})
    num_train_epochs: float = field(default=8.0, metadata={"help": "Passes over the training rows."})
    learning_rate: float = field(default=5e-5, metadata={"help": "The first learning rate of a linear decay."})
    seed: int = field(default=0, metadata={"help": "Decides initial weights, the order of batches and dropout."})

    teacher_path: str | None = _flag(None, "The fine-tuned teacher: a folder, or a name on the hub.")
    student_path: str | None = _flag(None, "The student to train: a folder, or a name on the hub.")
    student_init: Literal["pretrained", "copy"] = _flag(
        "pretrained", "pretrained: the student's own weights; copy: the teacher's embeddings and layers."
    )
    copy_layers: str | None = _flag(None, "Which of the teacher's layers to copy: first (default), spaced or 0,2,4.")
    unlabeled_file: str | None = _flag(None, "More text without labels, for which the teacher answers.")
    teacher_cache: Literal["auto", "off"] = _flag(
        "auto",
        "auto: the teacher runs once over the data; off: live. mgskd needs token states, too large to be kept: "
        "with it only attributions are, and the teacher runs live.",
    )
    teacher_cache_dir: str | None = _flag(None, "Where the teacher's answers are kept (default: the user's cache).")

    teacher_cache_dtype: Literal["float32", "float16", "bfloat16"] = _flag("float32", "How those answers are kept.")
    on_policy: float = _flag(
        0.0, "How often (0 to 1) the student's own answers are compared, which the teacher scores."
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.on_policy <= 1:
            raise SinkdError(f"--on_policy is {self.on_policy}; it must be from 0 (never) to 1 (always)")
        self.refuse_impossible_cache()


REFUSED = {
    "label_smoothing_factor": "hard labels are taken as they are; a kd term softens them",
    "resume_from_checkpoint": "the same command goes on from the output folder's last checkpoint by itself",
}


def _refuse_impossible(args: TaskArguments) -> None:
    """Numbers that would train on nothing, or on garbage."""
    at_least_one = {"per_gpu_batch_size", "per_device_train_batch_size", "gradient_accumulation_steps"}
    at_least_one |= {"per_device_eval_batch_size", "max_seq_length", "max_train_rows"}
    for name in sorted(at_least_one):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise SinkdError(f"--{name} is {value}; it must be at least 1")
    for name, value in (("learning_rate", args.learning_rate), ("num_train_epochs", args.num_train_epochs)):
        if not (0 < value < math.inf):
            raise SinkdError(f"--{name} is {value}; it must be above 0")
    for name, why in REFUSED.items():
        if getattr(args, name) not in (None, 0.0):
            raise SinkdError(f"--{name} is {getattr(args, name)}; {why}")
    for seed in args.seed_list:
        if not 0 <= seed < 2**32:
            raise SinkdError(f"{seed} is no seed; a seed is a whole number from 0 to {2**32 - 1}")
        if args.seed_list.count(seed) > 1:
            raise SinkdError(f"--seeds {args.seeds} names {seed} twice; give each seed once")


def _integer(text: str, flag: str) -> int:
    try:
        return int(text)
    except ValueError as error:
        raise SinkdError(f'{flag} holds "{text}"; give whole numbers with commas, as in 0,1,2') from error
