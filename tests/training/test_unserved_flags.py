"""A flag of `TrainingArguments` is served, or refused by name and left out of the help."""

from dataclasses import replace

import pytest
from transformers import TrainingArguments

from glue_layouts import write_task
from sinkd import DistillationArguments, SinkdError
from sinkd.cli.main import main
from sinkd.tasks import load_superglue, load_task
from sinkd.training.arguments import FinetuneArguments
from sinkd.training.settings import resolve_settings
from sinkd.training.unserved_flags import ALWAYS, NEVER, UNSERVED
from superglue_layouts import write_superglue

# Values other than the default, of flags that are no switches.
VALUES = {
    "accelerator_config": '{"split_batches": true}', "average_tokens_across_devices": "False", "debug":
    "underflow_overflow", "disable_tqdm": "True", "dataloader_in_order": "False", "eval_do_concat_batches": "False",
    "greater_is_better": "False", "include_for_metrics": "inputs", "label_names": "label", "label_smoothing_factor":
    "0.1", "length_column_name": "size", "load_best_model_at_end": None, "resume_from_checkpoint": "out",
    "skip_memory_metrics": "False", "train_sampling_strategy": "sequential", "parallelism_config": None,
}  # fmt: skip


def read(*argv: str, kind=FinetuneArguments):
    return resolve_settings(kind, ["--output_dir", "out", *argv], "test")


@pytest.mark.parametrize("name", sorted(UNSERVED.keys() - {"parallelism_config", "load_best_model_at_end"}))
def test_a_flag_that_is_not_served_is_refused_with_the_reason(name, tmp_path):
    value = VALUES.get(name, "True")
    with pytest.raises(SinkdError, match=f"^--{name} is not supported; leave it out: {UNSERVED[name][:20]}"):
        read(f"--{name}", value)
    (tmp_path / "run.yaml").write_text(f"{name}: {value}\n")
    with pytest.raises(SinkdError, match=f"run.yaml sets {name}, which is not supported; leave it out"):
        read("--config", str(tmp_path / "run.yaml"))


def test_help_names_every_flag_that_is_served_and_no_other(capsys):
    main(["finetune", "--help-all"])
    shown = set(capsys.readouterr().out.split())
    own = TrainingArguments.__dataclass_fields__.keys()
    assert {name for name in own if f"--{name}" in shown} == own - UNSERVED.keys()


@pytest.mark.parametrize("name", sorted(NEVER.keys() - {"parallelism_config", "resume_from_checkpoint"}))
def test_a_program_is_told_too(name):
    value = {"debug": "underflow_overflow", "label_smoothing_factor": 0.1}.get(name, "other")
    with pytest.raises(SinkdError, match=f"--{name} is not supported"):
        DistillationArguments(output_dir="out", **{name: value})


def test_defaults_and_what_a_command_does_anyway_are_accepted():
    argv = [f"--{name}={value}" for name, value in ALWAYS.items()]
    args = read(*argv, "--label_smoothing_factor", "0", "--dataloader_in_order", "--train_sampling_strategy", "random")
    assert not args.load_best_model_at_end and args.greater_is_better is None
    assert replace(args, seed=7).seed == 7  # as for each seed


@pytest.mark.parametrize("flags", ["--dataloader_persistent_workers", "--dataloader_multiprocessing_context spawn"])
def test_flags_of_processes_that_load_data_need_some(flags):
    with pytest.raises(SinkdError, match="give --dataloader_num_workers too"):
        read(*flags.split())
    assert read(*flags.split(), "--dataloader_num_workers", "1").dataloader_num_workers == 1


@pytest.fixture
def run(world, tmp_path, capsys):
    def run(*flags: str) -> str:
        flags = ("--model_path", world.student, "--max_steps", "1", "--per_gpu_batch_size", "64", *flags)
        status = main(["finetune", *map(str, world.flags(tmp_path / "out", *flags))])
        shown = capsys.readouterr()
        return shown.err if status else (tmp_path / "out" / "metrics.json").read_text()

    return run


def test_the_best_model_is_selected_by_a_score_that_the_task_has(run, world):
    assert '"metric": "accuracy"' in run("--metric_for_best_model", "eval_accuracy")
    assert "metric_for_best_model was 'eval_accuracy' and is None" in run()
    assert run("--metric_for_best_model", "f1") == "sinkd: glue/cola has no score f1; choose one of mcc, accuracy\n"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--optim lomo", "sinkd: --optim lomo: You need to install `lomo_optim`"),
        ("--lr_scheduler_type warmup_stable_decay", "sinkd: --lr_scheduler_type warmup_stable_decay: get_wsd_schedule"),
        ("--fsdp", "sinkd: the Trainer: Using fsdp only works in distributed training"),
    ],
)
def test_what_transformers_refuses_is_one_sentence(run, flags, message):
    assert message in run(*flags.split())


SCORES = {
    "cola": "mcc, accuracy",
    "mnli": "accuracy_matched, accuracy_mismatched, accuracy",
    "sts-b": "pearson, spearman",
    "superglue/multirc": "f1a, em, accuracy",
    "superglue/record": "f1, em, accuracy",
    "superglue/copa": "accuracy",
}


@pytest.mark.parametrize("name", SCORES)
def test_a_task_names_its_scores(name, tmp_path):
    write, load = (write_superglue, load_superglue) if "/" in name else (write_task, load_task)
    write(name.rpartition("/")[2], tmp_path / "data")
    task = load(name, tmp_path / "data")
    assert task.selected_by(None) is task
    for chosen in SCORES[name].split(", "):
        assert task.selected_by(chosen).metric == chosen
    with pytest.raises(SinkdError, match=f"{task.name} has no score loss; choose one of {SCORES[name]}$"):
        task.selected_by("loss")
