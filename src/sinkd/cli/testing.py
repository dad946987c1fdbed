"""Predictions for the test set right after training (`--do_test`)."""

from pathlib import Path

from sinkd.training.arguments import TaskArguments
from sinkd.training.inference import Model
from sinkd.training.kind import AnyTask
from sinkd.training.outcome import Summary


def predict_after(args: TaskArguments, task: AnyTask, summary: Summary) -> None:
    """Write the test set's answers of each run, where `--do_test` asks for them."""
    if not (args.do_test or args.do_predict):
        return
    for outcome in summary.outcomes:
        folder = Path(args.test_output_dir or outcome.folder)
        if args.test_output_dir and len(summary.outcomes) > 1:
            folder /= f"seed-{outcome.seed}"
        for path in Model.load(outcome.folder, task, args).write_submissions(folder):
            if args.should_save:  # one line, however many processes there are
                print(f"wrote {path}")
