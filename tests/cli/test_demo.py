"""`sinkd demo`: its tables, its command lines and its comparison. CI runs the whole demo."""

import argparse
import csv

import pytest

from sinkd.cli.demo import ALONE, demo_tables, objectives, tabulate, trials
from sinkd.cli.main import main
from sinkd.exchange.snippets import DEV, MORE, TRAIN
from sinkd.training.inference import parameters
from sinkd.training.outcome import Outcome


@pytest.fixture
def table(tmp_path):
    """A user's own table of 1,200 rows."""
    path = tmp_path / "mine.tsv"
    rows = [f"sentence {n}\t{('bad', 'fine')[n % 2]}\n" for n in range(1200)]
    path.write_text("".join(["text\tlabel\n", *rows]))
    return path


def test_a_table_of_ones_own_is_split_and_cut(table, tmp_path):
    given = argparse.Namespace(data=str(table), output_dir=str(tmp_path / "out"), rows=110)
    data = demo_tables(given)
    labelled = {name: list(csv.DictReader((data / name).open())) for name in (TRAIN, DEV)}
    assert [len(rows) for rows in labelled.values()] == [110, 110]
    assert {row["label"] for row in labelled[TRAIN]} == {"bad", "fine"}
    more = (data / MORE).read_text().splitlines()
    assert len(more) == 110 and not set(more) & {row["text"] for rows in labelled.values() for row in rows}


def test_every_command_line_resolves_and_has_its_own_folder(tmp_path):
    planned = trials(tmp_path, tmp_path / "data", tmp_path / "encoder", [], "3,4")
    assert [trial.name for trial in planned] == ["teacher", *objectives(tmp_path)]
    assert len({trial.folder for trial in planned}) == len(planned)
    settings = {trial.name: trial.settings() for trial in planned}
    assert settings["teacher"].seed_list == [42]
    assert all(settings[name].seed_list == [3, 4] for name in objectives(tmp_path))
    assert {name for name, args in settings.items() if getattr(args, "teacher_path", None)} == {*objectives("")} - {
        ALONE
    }


def test_gains_are_those_over_labels_alone_with_the_same_seed(world):
    def runs(*scores):
        return [
            Outcome("table/x", "accuracy", score, score, {"accuracy": score}, [], 1.0, 1.0, 0, str(world.student))
            for score in scores
        ]

    results = {"teacher": runs(0.9), ALONE: runs(0.70, 0.76), "student, kd": runs(0.76, 0.78)}
    teacher, alone, kd = tabulate(results, {parameters(world.student): 1234.5}).rows
    assert teacher[3:] == ["90.0", "+17.0", "1,234"]
    assert alone[3:] == ["73.0 ± 4.2", "", "1,234"]
    assert kd[3:] == ["77.0 ± 1.4", "+4.0 (at least +2.0)", "1,234"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--seeds", "0,x"], '--seeds is "0,x"'),
        (["--data", "few.tsv"], "few.tsv has 2 rows; the demo needs at least 1,000"),
    ],
)
def test_what_cannot_be_shown_is_refused_before_anything_is_trained(
    flags, message, table, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "few.tsv").write_text("text\tlabel\na\tbad\nb\tfine\n")
    for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "README.md"):
        (tmp_path / "models" / "minilm" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "models" / "minilm" / name).touch()
    assert main(["demo", "--data", str(table), *flags]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.rglob("manifest.json"))
