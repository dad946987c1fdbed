"""The task that flags name: GLUE's or the user's own table, from finetune to predict."""

import csv

import pytest

from sinkd import SinkdError
from sinkd.cli.command import load_named_task, settle_output, show_summary
from sinkd.cli.main import main
from sinkd.training.arguments import FinetuneArguments
from sinkd.training.outcome import Outcome, Summary, read_outcome
from sinkd.training.settings import resolve_settings


def arguments(*argv):
    return resolve_settings(FinetuneArguments, list(map(str, argv)), "sinkd finetune")


def outcome(seed: int, best: float) -> Outcome:
    scores = {"mcc": best, "accuracy": 0.75}
    return Outcome("glue/cola", "mcc", best, best, scores, [], 1.0, 200.0, seed, f"O/seed-{seed}")


@pytest.fixture(scope="module")
def reviews(tmp_path_factory):
    """A user's own table: quoted fields with commas and line breaks, labels in words."""
    folder = tmp_path_factory.mktemp("own")
    texts = {"good": "The dog sees, and the cat sings.", "bad": 'The "dog"\nsee the cat.', "odd": "Cat dog the."}
    for name, repeats in (("train", 20), ("dev", 8), ("test", 4)):
        with (folder / f"{name}.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["title", "stars", "body"])
            for i in range(repeats):
                for label, text in texts.items():
                    writer.writerow([f"number {i}", label, text])
    return folder


def own(reviews, *more) -> list[str]:
    flags = {f"--{name}_file": reviews / f"{name}.csv" for name in ("train", "dev", "test")}
    flags |= {"--text_columns": "title, body", "--label_column": "stars"}
    return [str(part) for pair in flags.items() for part in pair] + list(more)


def test_every_command_takes_your_own_table(reviews, world, tmp_path, capsys):
    short = ["--num_train_epochs", "2", "--learning_rate", "3e-3", "--report_to", "none"]
    teacher, student = tmp_path / "teacher", tmp_path / "student"
    flags = own(reviews, *short)
    assert main(["finetune", *flags, "--model_path", str(world.teacher), "--output_dir", str(teacher)]) == 0
    assert "on table/" in capsys.readouterr().out
    paths = ["--teacher_path", teacher, "--student_path", world.student, "--output_dir", student]
    assert main(["distill", *flags, *map(str, paths), "--distill_loss", "kd+sinkhorn"]) == 0
    trained = capsys.readouterr().out.splitlines()
    # evaluate and predict take the same flags and give the same number
    assert main(["evaluate", *flags, "--model_path", str(student)]) == 0
    evaluated = capsys.readouterr().out.splitlines()
    assert trained[1].split()[1:3] == evaluated[1].split()[:2] == ["accuracy", "f1"]
    assert trained[2].split()[1:3] == evaluated[2].split()[:2]
    assert main(["predict", *flags, "--model_path", str(student), "--output_dir", str(tmp_path / "answers")]) == 0
    assert capsys.readouterr().out == f"wrote {tmp_path / 'answers' / 'predictions.tsv'}\n"
    header, *lines = (tmp_path / "answers" / "predictions.tsv").read_text().splitlines()
    assert header == "index\tprediction"
    assert [line.split("\t")[0] for line in lines] == [str(i) for i in range(12)]
    assert {line.split("\t")[1] for line in lines} <= {"good", "bad", "odd"}


def test_a_table_needs_its_text_columns(reviews):
    for flags in (["--test_file", reviews / "test.csv"], ["--labels", "good,bad"]):
        with pytest.raises(SinkdError, match="your own table also needs --text_columns"):
            load_named_task(arguments(*flags))


def test_a_task_and_a_table_are_two_tasks(reviews):
    with pytest.raises(SinkdError, match="--task_name cola and flags of your own table"):
        load_named_task(arguments(*own(reviews, "--task_name", "cola")))


def test_the_kind_of_a_table_can_be_said(reviews, tmp_path):
    (tmp_path / "t.tsv").write_text("text\tstars\na\t1\nb\t2\n")
    flags = ["--train_file", tmp_path / "t.tsv", "--dev_file", tmp_path / "t.tsv"]
    flags += ["--text_columns", "text", "--label_column", "stars"]
    assert load_named_task(arguments(*flags)).labels == ("1", "2")
    assert load_named_task(arguments(*flags, "--table_kind", "regression")).regression


@pytest.mark.parametrize(
    ("flags", "folder"),
    [
        (["--task_name", "CoLA"], "experiments/exp_distill_cola/teacher"),
        (["--task_name", "sst2", "--exp_name", "mine"], "experiments/exp_distill_sst-2/mine"),
        (["--task_name", "cola", "--output_dir", "O"], "O"),
    ],
)
def test_results_are_written_to_the_published_paths(flags, folder):
    args = arguments(*flags)
    settle_output(args)
    assert args.output_dir == folder


def test_a_summary_shows_a_line_a_seed_and_mean_and_spread_over_several(capsys):
    show_summary("S on glue/cola", Summary([outcome(0, 0.5), outcome(1, 0.7)]))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "S on glue/cola"
    assert [line.split()[:3] for line in lines[1:4]] == [
        ["seed", "mcc", "accuracy"],
        ["0", "0.5000", "0.7500"],
        ["1", "0.7000", "0.7500"],
    ]
    assert lines[4] == "mcc: mean 0.6000, spread 0.1414; in O"
    show_summary("S", Summary([outcome(0, 0.5)]))
    assert capsys.readouterr().out.splitlines()[-1] == "in O/seed-0"


def test_a_model_is_scored_at_the_length_it_was_trained_at(world, tmp_path, capsys):
    folder = tmp_path / "run"
    assert main(["finetune", "--model_path", str(world.student), *world.flags(folder, "--max_seq_length", "6")]) == 0
    flags = ["--task_name", "cola", "--data_dir", str(world.data), "--model_path", str(folder)]
    capsys.readouterr()
    assert main(["evaluate", *flags, "--per_gpu_batch_size", "16"]) == 0
    assert f"{read_outcome(folder).best:.4f}" in capsys.readouterr().out


def test_rows_that_are_too_long_for_a_model_are_refused_in_one_sentence(world, tmp_path, capsys):
    folder = tmp_path / "glue" / "CoLA"
    folder.mkdir(parents=True)
    for split in ("train", "dev"):
        (folder / f"{split}.tsv").write_text("".join(f"s\t{i % 2}\t\t{'the ' * 600}{i}\n" for i in range(8)))
    argv = ["finetune", "--model_path", str(world.student), "--data_dir", str(tmp_path / "glue")]
    argv += ["--task_name", "cola", "--output_dir", str(tmp_path / "run"), "--num_train_epochs", "1"]
    argv += ["--config_overrides", "max_position_embeddings=512", "--max_seq_length"]
    assert main([*argv, "600"]) == 2
    assert "do not fit the model, which reads 512; give --max_seq_length 512" in capsys.readouterr().err
    assert main([*argv, "512"]) == 0
