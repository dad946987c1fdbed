"""Encoders that classify, and language models that answer: the one place that tells which a task is for."""

from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from sinkd.errors import SinkdError
from sinkd.models import cut_head, load_encoder, load_language_model, load_tokenizer, shared_vocabulary
from sinkd.models.encoder import find_checkpoint, fitting_config, load_config
from sinkd.tasks import ChoiceTask, Task
from sinkd.training.arguments import TaskArguments
from sinkd.training.choice_rows import ChoiceRows
from sinkd.training.rows import Rows
from sinkd.training.teacher import SavedTeacher

AnyTask = Task | ChoiceTask
AnyRows = Rows | ChoiceRows


def load_model(
    path: str, flag: str, task: AnyTask, args: TaskArguments, *, to_train: bool = False, overrides: dict | None = None
) -> PreTrainedModel:
    """The model that a task is for; one that is not `to_train` must know its labels already."""
    if isinstance(task, ChoiceTask):
        config_path = args.config_name if to_train else None
        return load_language_model(
            path, flag, overrides=overrides, parallelize=args.parallelize, config_path=config_path
        )
    return load_encoder(path, task, flag, overrides=overrides, must_have_head=not to_train)


def saved_teacher(path: str, task: AnyTask, args: TaskArguments, width: int | None = None) -> SavedTeacher:
    """The teacher at `path`, refused now where it is none for the task, and loaded when it is first asked.

    width: what a language model's head is cut to.
    """
    folder = find_checkpoint(path, "--teacher_path")
    if isinstance(task, ChoiceTask):
        cut = width or load_config(path, "--teacher_path").get_text_config().vocab_size
        return SavedTeacher(folder, lambda: cut_head(load_model(path, "--teacher_path", task, args), cut), cut)
    fitting_config(path, task, "--teacher_path", must_have_head=True)
    return SavedTeacher(folder, lambda: load_model(path, "--teacher_path", task, args))


def trained_config(path: str, flag: str, args: TaskArguments) -> PretrainedConfig:
    """The config of the language model that is trained: of `--config_name`, else the model's own."""
    named = args.config_name
    return load_config(named or path, "--config_name" if named else flag)


def shared_width(
    task: AnyTask, tokenizer: PreTrainedTokenizerBase, teacher: str, student: str, args: TaskArguments
) -> tuple[int | None, str | None]:
    """`shared_vocabulary` of language models; nothing for encoders, whose heads the task decides."""
    if not isinstance(task, ChoiceTask):
        return None, None
    configs = load_config(teacher, "--teacher_path"), trained_config(student, "--student_path", args)
    return shared_vocabulary(tokenizer, *configs)


def read_rows(
    task: AnyTask,
    tokenizer: PreTrainedTokenizerBase,
    args: TaskArguments,
    path: str,
    flag: str,
    *,
    to_train: bool = False,
) -> AnyRows:
    """The task's rows, for models like the one at `path`; `to_train`: like what it becomes with `--config_name`."""
    if isinstance(task, ChoiceTask):
        config = trained_config(path, flag, args) if to_train else load_config(path, flag)
        return ChoiceRows(task, tokenizer, args, config)
    return Rows(task, tokenizer, args)


def read_tokenizer(path: str, flag: str, args: TaskArguments) -> PreTrainedTokenizerBase:
    """The tokenizer that `--tokenizer_name` names, else the model's own."""
    named = args.tokenizer_name
    if named is None:
        return load_tokenizer(path, flag, args.do_lower_case)
    return load_tokenizer(named, "--tokenizer_name", args.do_lower_case, load_config(path, flag))


def refuse_for_language_models(task: AnyTask, args: TaskArguments) -> None:
    """Raise SinkdError for flags that only encoders understand, where a language model is to be trained."""
    if not isinstance(task, ChoiceTask):
        return
    given = {name: getattr(args, name, None) for name in ("keep_layers", "copy_layers", "unlabeled_file")}
    given["student_init"] = None if getattr(args, "student_init", "pretrained") == "pretrained" else "copy"
    for name, value in given.items():
        if value is not None:
            raise SinkdError(f"--{name} is for encoders, and {task.name} is answered by a language model; leave it out")
