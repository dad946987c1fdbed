"""The settings of a run: `transformers.TrainingArguments` with more fields, so every Trainer flag works.

A flag, its key in a recipe and its field have the same name.
"""

import os
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import ClassVar, Literal

import torch
from transformers import TrainingArguments
from transformers.utils import is_torch_xla_available

from sinkd.errors import SinkdError
from sinkd.training.gpu import WORKERS, choose_for_gpu
from sinkd.training.objective_arguments import ObjectiveArguments
from sinkd.training.parser import flag
from sinkd.training.served_arguments import ServedArguments
from sinkd.training.unserved_flags import refuse_impossible


@dataclass
class TaskArguments(TrainingArguments):
    """Settings of every command: data, model, training and evaluation."""

    trains: ClassVar[bool] = True  # False for commands that use a trained model
    role: ClassVar[str]  # "teacher" or "student": selects the published recipe and the folder

    # Defaults and texts of TrainingArguments that differ here.
    output_dir: str = flag(None, "Folder for checkpoints, scores and the model.")
    ddp_backend: str | None = flag(None, "Backend of distributed training.")
    # HfArgumentParser parses the flag as the second of these types.
    report_to: None | str | list[str] = field(  # noqa: RUF036
        default_factory=lambda: ["tensorboard"], metadata={"help": "Loggers."}
    )
    logging_steps: float = flag(100, "Log every this many steps.")
    logging_nan_inf_filter: bool = flag(False, "Log a loss that is not finite as the mean before; waits for a GPU.")
    bf16: bool | None = field(
        default=None,
        metadata={"help": "Multiply in bfloat16 (default: on a GPU that can).", "nargs": "?", "const": True},
    )
    dataloader_num_workers: int | None = flag(
        None, f"Processes that prepare batches (default: {WORKERS} on a GPU, else none)."
    )
    eval_strategy: str = flag("epoch", "When to evaluate: epoch, steps or no.")
    save_strategy: str = flag("epoch", "When to write a checkpoint: epoch, steps or no.")
    save_steps: float = flag(0, "Also write a checkpoint every this many steps (0: no).")
    save_total_limit: int | None = flag(2, "How many checkpoints to keep.")
    remove_unused_columns: bool = flag(False, "In a program: keep only the columns that the model's forward names.")
    weight_decay: float = flag(0.0, "Weight decay of AdamW.")
    adam_epsilon: float = flag(1e-8, "Epsilon of AdamW.")
    metric_for_best_model: str | None = flag(
        None, "The score that selects the best model. Default: the one that the task is known for."
    )
    do_eval: bool = flag(False, "Published entry points: evaluate; without --do_train, an earlier run.")

    config: str | None = flag(None, "A YAML file of settings; flags on the command line override it.")
    dry_run: bool = flag(False, "Print the settings that would run, and stop.")
    traceback: bool = flag(False, "Show the traceback of an error.")
    quiet: bool = flag(False, "Leave out advice on how to get a better or faster student.")

    # The task
    task_name: str | None = flag(
        None,
        "A task: cola, mnli ..., superglue/copa ..., anli/r1. GLUE has cola, sst-2, mrpc, sts-b, qqp, mnli, qnli, rte, "
        "wnli and ax.",
    )
    dataset_name: str | None = flag(None, "super_glue or anli: the collection that holds the task.")
    dataset_config_name: str | None = flag(None, "The task in that collection: copa, cb, ..., r1.")
    data_dir: str = flag("datas/glue", "The folder of the tasks' folders. SuperGLUE: datas/superglue, or the hub.")
    train_file: str | None = flag(None, "Your own table to train on: csv, tsv, jsonl or parquet.")
    dev_file: str | None = flag(None, "Your own table to evaluate on. Without one, the last epoch's model is kept.")
    test_file: str | None = flag(None, "Your own table to predict.")
    text_columns: str | None = flag(None, "The column that holds your text, or two columns separated by a comma.")
    label_column: str | None = flag(None, "The column that holds your labels. For distill, --train_file may lack it.")
    labels: str | None = flag(
        None,
        "Your classes in the order of their ids, as in negative,positive. Default: those of your files, sorted; N/A, "
        "None and the like are missing labels.",
    )
    table_kind: Literal["auto", "classification", "regression"] = flag(
        "auto", "Type of your labels. auto: scores if most are numbers and one has a fraction, else classes."
    )
    column_names: str | None = flag(None, "Columns of csv and tsv files without a header, with commas.")
    quoting: Literal["auto", "none", "minimal"] = flag(
        "auto",
        "Quotes in your csv and tsv files. none: text like any other; minimal: they enclose fields, as pandas writes; "
        "auto: they do in csv, and in tsv if the file uses them so.",
    )
    encoding: str = flag("utf-8", "Encoding of your files, if they do not say, such as latin-1.")
    bad_rows: Literal["error", "skip"] = flag("error", "Stop at a malformed row, or drop such rows and count them.")
    max_train_rows: int | None = flag(None, "Train on the first rows only, at most this many.")
    max_dev_rows: int | None = flag(None, "Evaluate on the first rows only, at most this many.")
    num_shots: int | None = flag(None, "Train a language model on this many examples, drawn by the seed.")

    # Reading
    max_seq_length: int = flag(128, "Cut inputs to this many tokens.")
    do_lower_case: bool = flag(False, "Lower-case all text; without it the tokenizer's folder decides.")
    template_name: str | None = flag(None, "The prompt template of a language model (default: the task's first).")
    templates_dir: str | None = flag(None, "A folder of your own templates, in promptsource's format.")
    max_length: int = flag(1024, "Cut a language model's prompts to this many tokens.")
    target_max_length: int = flag(256, "Cut a language model's answers to this many tokens.")
    input_eos: bool = flag(False, "End prompts with the end-of-sequence token. T5 was trained so, T0 was not.")
    pad_to_max_length: bool = flag(False, "Pad every prompt to --max_length: the same losses, slower.")
    length_normalize: bool = flag(False, "Compare answers by their tokens' mean log-probability, not its sum.")

    # The model to train
    keep_layers: str | None = flag(
        None, "Keep only these layers of the model to be trained: 3 (spaced), first:3, last:3, or 0,2,4."
    )
    config_overrides: str | None = flag(None, "Change values of the model's config: hidden_dropout_prob=0,...")
    config_name: str | None = flag(None, "Take the config of the model to be trained from here.")
    tokenizer_name: str | None = flag(None, "Take the tokenizer from here.")
    parallelize: bool = flag(False, "Spread models over all accelerators of the machine.")
    trim_embedding: bool = flag(True, "Leave unused embedding rows out of training. The same result, faster.")

    # The run
    per_gpu_batch_size: int | None = flag(None, "Rows per device, in training and in evaluation.", "--batch_size")
    group_by_length: bool = flag(True, "Batch rows of similar length: less padding, the same rows.")
    seeds: str | None = flag(None, "Repeat the run with each of these seeds, as in 0,1,2.")
    protocol: Literal["clean", "published"] = flag(
        "clean", "Evaluate each epoch, or as published. published: every few steps, and report the maximum."
    )
    overwrite: bool = flag(False, "Replace the files of a different run in the output folder.")
    do_test: bool = flag(False, "After training, write predictions for the test set.")
    test_output_dir: str | None = flag(None, "Where to write those predictions (default: the output folder).")
    exp_name: str | None = flag(None, "Name of the run's folder if no --output_dir is given.")
    wandb_proj: str | None = flag(None, "Also log to this project of Weights & Biases.")

    def __post_init__(self) -> None:
        choose_for_gpu(self)
        refuse_impossible(self)
        if self.per_gpu_batch_size is not None:
            self.per_device_train_batch_size = self.per_device_eval_batch_size = self.per_gpu_batch_size
        if self.protocol == "published":
            # MNLI's interval changes during a run, so `Schedule` decides when to evaluate.
            self.eval_strategy = "no"
        if self.save_steps and self.save_strategy == "epoch":
            self.save_strategy = "steps"
        if not torch.cuda.is_available():
            self.dataloader_pin_memory = False
            if int(os.environ.get("WORLD_SIZE", "1")) > 1:
                # Without these, the processes that torchrun starts would not find each other.
                self.use_cpu, self.ddp_backend = True, self.ddp_backend or "gloo"
        if (self.bf16 or self.bf16_full_eval) and not torch.accelerator.is_available() and not is_torch_xla_available():
            self.use_cpu = True  # otherwise transformers refuses bfloat16 without a GPU
        if self.wandb_proj is not None:
            self._log_to_wandb(self.wandb_proj)
        given = {name: getattr(self, name) for name in ("do_eval", "metric_for_best_model", "greater_is_better")}
        super().__post_init__()
        for name, value in given.items():  # TrainingArguments evaluates in every run, and takes the loss for a metric
            setattr(self, name, value)

    def _log_to_wandb(self, project: str) -> None:
        if find_spec("wandb") is None:
            raise SinkdError("--wandb_proj needs Weights & Biases; install it with .venv/bin/pip install wandb")
        os.environ["WANDB_PROJECT"] = project
        loggers = [self.report_to] if isinstance(self.report_to, str) else list(self.report_to or [])
        self.report_to = loggers if "wandb" in loggers else [*loggers, "wandb"]

    @property
    def own_table(self) -> bool:
        """True if the data is the user's own table and not a task."""
        names = (self.text_columns, self.label_column, self.labels, self.column_names)
        files = (self.train_file, self.dev_file, self.test_file)
        return any((*files, *names, self.quoting != "auto", self.encoding != "utf-8"))

    @property
    def seed_list(self) -> list[int]:
        """The seeds to run: `seeds`, or `seed` alone."""
        try:
            return [self.seed] if self.seeds is None else [int(seed) for seed in self.seeds.split(",")]
        except ValueError as error:
            raise SinkdError(f'--seeds is "{self.seeds}"; give whole numbers with commas, as in 0,1,2') from error

    def model(self, name: str) -> str:
        """The path of a required model. Raises SinkdError if its flag is missing."""
        path = getattr(self, name)
        if path is None:
            raise SinkdError(f"--{name} is missing; name a model's folder, or a name on the hub")
        return path


@dataclass
class FinetuneArguments(TaskArguments):
    """`sinkd finetune`: train on labels alone. The defaults are those of the published teacher script."""

    role = "teacher"

    per_device_train_batch_size: int = flag(32, "Rows per device in training.")
    per_device_eval_batch_size: int = flag(32, "Rows per device in evaluation.")
    num_train_epochs: float = flag(5.0, "Passes over the training rows.")
    learning_rate: float = flag(2e-5, "Initial learning rate; it decays linearly.")
    seed: int = flag(42, "Seed of new weights, the order of batches and dropout.")

    model_path: str | None = flag(None, "The model to train: a folder, or a name on the hub.")


@dataclass
class ModelArguments(FinetuneArguments):
    """`sinkd evaluate` and `sinkd predict`: use a trained model, or a language model that is asked in words."""

    trains = False

    prompt: str | None = flag(
        None,
        "What to ask a language model. A Jinja template over the row's columns, as text, as a file, or by its name in "
        "--templates_dir.",
    )
    answers: str | None = flag(
        None, 'Its answers, in the order of the labels: "negative ||| positive". Numbers for regression.'
    )
    class_prior: str | None = flag(
        None,
        "sinkd evaluate: also score answers balanced to class frequencies. uniform, labels "
        "(those of the labelled training rows) or numbers in the labels' order.",
    )


@dataclass
class DistillationArguments(ServedArguments, ObjectiveArguments, TaskArguments):
    """`sinkd distill`: train a student under an objective. The defaults are those of the published student script."""

    role = "student"

    per_device_train_batch_size: int = flag(16, "Rows per device in training.")
    per_device_eval_batch_size: int = flag(16, "Rows per device in evaluation.")
    num_train_epochs: float = flag(8.0, "Passes over the training rows.")
    learning_rate: float = flag(5e-5, "Initial learning rate; it decays linearly.")
    seed: int = flag(0, "Seed of new weights, the order of batches and dropout.")

    teacher_path: list[str] | None = flag(
        None, "The teacher: a folder, or a name on the hub. Of several, the mean of their probabilities."
    )
    teacher_weights: list[float] | None = flag(None, "Weights of several teachers in their mean (default: equal).")
    teacher_prompt: str | None = flag(
        None,
        "What to ask a teacher that is a language model. A Jinja template over the row's columns, as text, as a "
        "file, or by its name in --templates_dir.",
    )
    teacher_answers: str | None = flag(
        None, 'Its answers, in the order of the labels: "negative ||| positive". Numbers for regression.'
    )
    class_prior: str | None = flag(
        None,
        "Balance the teacher's answers to class frequencies. uniform, labels (those of the labelled training "
        "rows), none, or numbers in the labels' order, as in 0.3,0.7. Default: none for a fine-tuned teacher; for a "
        "prompted one labels, or uniform if there are none.",
    )
    student_path: str | None = flag(None, "The student to train: a folder, or a name on the hub.")
    student_init: Literal["pretrained", "copy"] = flag(
        "pretrained",
        "Its own weights, or a copy of teacher layers. A copy has all outside them too, but not the head.",
    )
    copy_layers: str | None = flag(None, "Teacher layers to copy: first (default), spaced or a list (0,2,4).")
    unlabeled_file: str | None = flag(None, "More text without labels; the teacher answers it.")
    teacher_cache: Literal["auto", "off"] = flag(
        "auto",
        "Cache the teacher's answers, or run it live: off. The token states of mgskd "
        "are too large to cache, so it runs the teacher live and caches attributions only.",
    )
    teacher_cache_dir: str | None = flag(None, "Folder for the teacher's cached answers (default: the user's cache).")
    teacher_cache_dtype: Literal["float32", "float16", "bfloat16"] = flag("float32", "Precision of cached answers.")
    on_policy: float = flag(
        0.0,
        "Share of batches on the student's own answers (language models). From 0 to 1; the teacher scores them.",
    )

    def __post_init__(self) -> None:
        if isinstance(self.teacher_path, str):  # as in a program, or in a YAML file
            self.teacher_path = [self.teacher_path]
        super().__post_init__()
        if not 0 <= self.on_policy <= 1:
            raise SinkdError(f"--on_policy is {self.on_policy}; it must be from 0 (never) to 1 (always)")
        self.check_cache()
        self.check_served(self)

    @property
    def teacher_names(self) -> list[str]:
        """What to call the teachers: their paths, or a model's name and its server."""
        return [f"{self.teacher_model} at {self.teacher_url}"] if self.teacher_url else list(self.teacher_path or [])

    @property
    def teacher_paths(self) -> list[str]:
        """The paths of the teachers, at least one. Raises SinkdError if `--teacher_path` is missing."""
        self.model("teacher_path")
        return list(self.teacher_path or [])
