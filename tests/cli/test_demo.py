"""`sinkd demo` runs completely and prints its table, at any size."""

import re

import pytest

from sinkd.cli.demo import objectives
from sinkd.cli.main import main


@pytest.mark.slow
def test_a_small_demo_prints_its_table_and_a_second_one_changes_nothing(tmp_path, capsys):
    command = ["demo", "--train_rows", "120", "--dev_rows", "60", "--seeds", "0"]
    command += ["--output_dir", str(tmp_path / "demo")]
    assert main(command) == 0
    shown = capsys.readouterr().out
    assert "corpus: 120 sentences to train on, 240 more without labels" in shown
    table = shown[shown.index("What the student learned") :].splitlines()
    rows = ["teacher", *(f"student, {name}" for name in objectives(tmp_path))]
    assert [row for row in rows if not any(line.startswith(row) for line in table)] == []
    sizes = {name: re.search(rf"^{name}\D*([\d,]+)", shown, re.M).group(1) for name in ("teacher", "student, kd")}
    assert int(sizes["teacher"].replace(",", "")) > 2 * int(sizes["student, kd"].replace(",", ""))
    assert "| teacher |" in (tmp_path / "demo" / "README.md").read_text()
    models = {p: p.read_bytes() for p in (tmp_path / "demo").rglob("model.safetensors")}
    assert main(command) == 0
    again = {p: p.read_bytes() for p in (tmp_path / "demo").rglob("model.safetensors")}
    assert again == models


def test_wrong_seeds_are_refused_before_anything_is_trained(tmp_path, capsys):
    command = ["demo", "--train_rows", "120", "--dev_rows", "60", "--output_dir", str(tmp_path / "demo")]
    assert main([*command, "--seeds", "0,x"]) == 2
    assert '--seeds is "0,x"' in capsys.readouterr().err
    assert not list(tmp_path.rglob("manifest.json"))
