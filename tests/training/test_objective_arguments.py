"""A term's options are its flags: adding a term takes one file and one line in the registry."""

import json
import subprocess
import sys
from dataclasses import dataclass

import pytest

from sinkd import DistillationArguments
from sinkd.losses.objective import TERMS
from sinkd.losses.option_flags import Options, flags_of, option
from sinkd.losses.term import Term
from sinkd.training.objective_arguments import term_flags

NEW_TERM = """
from dataclasses import dataclass

from sinkd.losses.option_flags import Options, option
from sinkd.losses.term import RowTerm


@dataclass(frozen=True)
class GapOptions(Options):
    power: float = option(2.0, "The power of the gap.")
    side: str = option("both", "Which gaps count.", flag="gap_of")


class Gap(RowTerm):
    Options = GapOptions

    def __init__(self, name, options):
        super().__init__(name, options)
        self.power = options.power

    def forward(self, student, teacher, batch, progress):
        return (student.logits - teacher.logits).abs().pow(self.power).mean()
"""

COMMAND = """
import json, sys

import torch

import sinkd.losses.objective
from new_term import Gap

sinkd.losses.objective.TERMS["gap"] = Gap

from sinkd import DistillationArguments
from sinkd.cli.main import main
from sinkd.losses.term import View
from sinkd.training.settings import resolve_settings

values = []
for power in ("2", "3"):
    args = resolve_settings(DistillationArguments, ["--distill_loss", "gap:1", "--gap_power", power], "test")
    student, teacher = View(torch.full((1, 2), 2.0)), View(torch.zeros(1, 2))
    values.append(args.parse_objective()(student, teacher, {"labels": torch.zeros(1)}).total.item())
json.dump(values, open(sys.argv[1], "w"))
raise SystemExit(main(["distill", "--help", "objective"]) or main(sys.argv[2:]))
"""


def test_a_new_term_is_one_file_and_one_line_in_the_registry(world, taught, tmp_path):
    (tmp_path / "new_term.py").write_text(NEW_TERM)
    (tmp_path / "command.py").write_text(COMMAND)

    models = ["--teacher_path", taught, "--student_path", world.student]
    flags = ["--distill_loss", "kd+gap", "--gap_power", "3", "--num_train_epochs", "1"]
    command = [sys.executable, "command.py", "values.json", "distill", *world.flags(tmp_path / "run", *models, *flags)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "--gap_power [2]\n      The power of the gap.\n" in done.stdout and "--gap_of [both]" in done.stdout
    assert json.loads((tmp_path / "values.json").read_text()) == [4.0, 8.0]
    card = (tmp_path / "run" / "README.md").read_text()
    assert "| gap_power | 3 |" in card and "| gap_of | both |" in card and "sinkhorn_cost" not in card


def test_terms_that_share_a_flag_agree_on_it(monkeypatch):
    assert term_flags()["curvature"].default == 1.0

    @dataclass(frozen=True)
    class FlatOptions(Options):
        curvature: float = option(0.0, "Curvature.", flag="curvature")

    class Flat(Term):
        Options = FlatOptions

    monkeypatch.setitem(TERMS, "flat", Flat)
    with pytest.raises(TypeError, match="the flag --curvature of flat"):
        term_flags()


@pytest.mark.parametrize("term", TERMS)
def test_the_flags_of_a_term_have_the_defaults_of_its_options(term):
    args, options = DistillationArguments(output_dir="o"), TERMS[term].Options()
    for name, flag in flags_of(term, TERMS[term].Options).items():
        assert getattr(args, name) == getattr(options, flag.field) == flag.default
        assert flag.help and args.__dataclass_fields__[name].metadata["help"] == flag.help
