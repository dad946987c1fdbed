"""`sinkd predict`: write a trained model's answers for a test set in the format of GLUE's or SuperGLUE's server."""

from collections.abc import Sequence
from pathlib import Path

from sinkd.cli.command import load_named_task, show_plan
from sinkd.errors import SinkdError
from sinkd.tasks import Task
from sinkd.training.arguments import ModelArguments, TaskArguments
from sinkd.training.inference import Model
from sinkd.training.outcome import Outcome
from sinkd.training.settings import READING, resolve_settings


def main(argv: Sequence[str]) -> None:
    """Run a command line."""
    args = resolve_settings(ModelArguments, argv, "sinkd predict", trained=READING)
    if show_plan(args):
        return
    path = args.model("model_path")
    task = load_named_task(args)
    if not task.test_splits:
        raise SinkdError(f"{task.name} has no test file; give one by --test_file")
    _write(args, task, path, Path(args.output_dir or path))


def predict_after(args: TaskArguments, task: Task, outcomes: Sequence[Outcome]) -> None:
    """Predict the test set with each run's model, if `--do_test` or `--do_predict` is given."""
    if not (args.do_test or args.do_predict):
        return
    for outcome in outcomes:
        folder = Path(args.test_output_dir or outcome.folder)
        if args.test_output_dir and len(outcomes) > 1:
            folder /= f"seed-{outcome.seed}"
        _write(args, task, outcome.folder, folder)


def _write(args: TaskArguments, task: Task, model: str, folder: Path) -> None:
    for path in Model.load(model, task, args).write_submissions(folder):
        if args.should_save:  # print once, not in every process
            print(f"wrote {path}")
