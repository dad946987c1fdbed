"""Describe the flags of a dataclass of arguments as plain data, each with its topic and place in the help."""

import argparse
from collections.abc import Iterable

from transformers import HfArgumentParser

from sinkd.losses.objective import TERMS
from sinkd.losses.option_flags import flags_of
from sinkd.training.arguments import TaskArguments
from sinkd.training.flag_help import MORE, TOPICS
from sinkd.training.parser import TYPES, Flag, FlagParser
from sinkd.training.unserved_flags import UNSERVED

# The flags of each topic, the most needed first. Flags of transformers that are not here have the topic MORE.
ORDER = {
    "task": "task_name train_file dev_file test_file text_columns label_column labels unlabeled_file max_train_rows "
    "max_dev_rows max_seq_length data_dir dataset_name dataset_config_name table_kind bad_rows encoding quoting "
    "column_names do_lower_case num_shots template_name templates_dir max_length target_max_length input_eos "
    "pad_to_max_length length_normalize",
    "model": "model_path prompt answers",
    "teacher": "teacher_path teacher_weights teacher_prompt teacher_answers class_prior teacher_cache "
    "teacher_cache_dir teacher_cache_dtype teacher_cache_top_k teacher_url teacher_model teacher_concurrency "
    "teacher_timeout teacher_max_requests",
    "student": "student_path student_init copy_layers keep_layers tokenizer_name "
    "config_name config_overrides trim_embedding parallelize",
    "objective": "distill_loss alpha beta transport_scope on_policy curvature_lr mgskd_w only_mgskd",
    "training": "num_train_epochs learning_rate per_gpu_batch_size per_device_train_batch_size "
    "per_device_eval_batch_size seed seeds config metric_for_best_model eval_strategy protocol group_by_length "
    "weight_decay adam_epsilon",
    "output": "output_dir overwrite format quantize do_test test_output_dir exp_name wandb_proj dry_run quiet "
    "traceback",
    "trainer": "max_steps gradient_accumulation_steps warmup_steps lr_scheduler_type optim max_grad_norm bf16 fp16 "
    "use_cpu eval_steps save_strategy save_steps save_total_limit logging_steps report_to activation_checkpointing "
    "torch_compile dataloader_num_workers fsdp deepspeed push_to_hub hub_model_id",
}
TOPIC_OF = {name: topic for topic, names in ORDER.items() for name in names.split()}


def flag_parser(kind: type[TaskArguments], prog: str | None = None) -> FlagParser:
    """The parser of a dataclass of arguments."""
    flags = described(HfArgumentParser(kind))
    return FlagParser(by_topic(flags, kind.trains), prog, terms=term_texts())


def described(parser: argparse.ArgumentParser) -> list[Flag]:
    """The flags and operands of a parser, all with the topic "flags"."""
    found = []
    for action in parser._actions:
        if action.dest == "help" or isinstance(action, argparse._StoreFalseAction):
            continue  # FlagParser adds them
        spellings = {action.dest, action.dest.replace("_", "-")}
        kind = getattr(action.type, "__name__", "").replace("string_to_bool", "bool")
        found.append(
            Flag(
                action.dest,
                action.help or "",
                "flags",
                action.default,
                kind if kind in TYPES else "str",
                action.nargs,
                [*action.choices] if action.choices else None,
                [name for name in action.option_strings if name.lstrip("-") not in spellings],
                operand=not action.option_strings,
            )
        )
    return found


def by_topic(flags: Iterable[Flag], trains: bool) -> list[Flag]:
    """The flags in the order of the help, with their topics: "" if it is not served, MORE if rarely needed."""
    terms: dict[str, list[str]] = {}
    for term, kind in TERMS.items():
        for name in flags_of(term, kind.Options):
            terms.setdefault(name, []).append(term)
    flags = list(flags)
    distils = any(flag.name == "student_path" for flag in flags)
    placed = []
    for flag in flags:
        topic = "objective" if flag.name in terms else TOPIC_OF.get(flag.name, MORE)
        if topic in ("teacher", "student") and not distils:
            topic = "model"
        if not trains and topic in ("training", "trainer") and flag.name != "per_gpu_batch_size":
            topic = MORE
        topic = "" if flag.name in UNSERVED else topic
        placed.append(flag._replace(topic=topic, terms=", ".join(terms.get(flag.name, []))))
    places = [*TOPICS, ""]
    names = [*TOPIC_OF, *terms]
    return sorted(
        placed,
        key=lambda flag: (places.index(flag.topic), names.index(flag.name) if flag.name in names else len(names)),
    )


def term_texts() -> dict[str, str]:
    """Each term of an objective, with the first paragraph about it."""
    return {name: " ".join((kind.__doc__ or "").partition("\n\n")[0].split()) for name, kind in TERMS.items()}
