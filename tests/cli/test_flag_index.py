"""Help, completion and wrong flags come from an index in step with the code, before any large library is imported."""

import json
import subprocess
import sys
from dataclasses import fields

import pytest
import transformers
from transformers import TrainingArguments

from sinkd.cli.flag_index import INDEX, text
from sinkd.cli.main import COMMANDS, main
from sinkd.training.arguments import DistillationArguments
from sinkd.training.flag_topics import flag_parser

pytestmark = pytest.mark.skipif(
    json.loads(INDEX.read_text(encoding="utf-8"))["versions"]["transformers"] != transformers.__version__,
    reason="the index has the flags of another transformers, so commands read their flags themselves",
)
LARGE = {"torch", "transformers", "numpy", "datasets", "rich"}


def test_the_index_is_in_step():
    assert INDEX.read_text(encoding="utf-8") == text(), "run: python -m sinkd.cli.flag_index"


def test_help_and_wrong_flags_import_nothing_large():
    lines = [[command, "--help"] for command in COMMANDS]
    lines += [["distill", "--help", "objective"], ["distill", "--help-all"], ["--completion", "zsh"]]
    wrong = [["distill", "--aplha", "1"], ["distill", "--distill_loss", "kd+salience"], ["sweep", "--seed", "1"]]
    wrong += [["distill", "--alpha", "much"], ["convert"], ["distill", "--help", "objectives"], ["distil"]]
    code = f"""
import sys
from sinkd.cli.main import main
assert [main(line) for line in {lines}] == [0] * {len(lines)}
assert [main(line) for line in {wrong}] == [2] * {len(wrong)}
assert sys.modules.keys().isdisjoint({LARGE}), sys.modules.keys() & {LARGE}
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for nearest in ("--alpha", "saliency", "--seeds", "objective", "distill"):
        assert f'did you mean "{nearest}"?' in done.stderr


@pytest.mark.parametrize("command", ["finetune", "distill", "evaluate", "export"])
def test_the_overview_has_a_line_for_each_flag_on_one_page(command, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert main([command, "--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 150 and max(map(len, lines)) <= 80
    starts = [line.split()[0] for line in lines if line.startswith("  --")]
    assert len(starts) == len(set(starts))


def test_flags_of_ours_have_a_topic_of_their_own():
    known = {field.name for field in fields(TrainingArguments)}
    flags = flag_parser(DistillationArguments).flags.values()
    assert [flag.name for flag in flags if flag.topic in ("", "more") and flag.name not in known] == []


def test_a_topic_lists_whole_texts_choices_and_the_terms_own_options(capsys):
    assert main(["distill", "--help", "objective"]) == 0
    shown = capsys.readouterr().out
    assert "options of sinkhorn:" in shown and "--sinkhorn_epsilon [0.1]" in shown
    assert "one of unroll, implicit, envelope" in shown and "--task_name" not in shown


def test_a_shell_completes_commands_flags_and_choices(capsys, tmp_path):
    assert main(["--completion", "bash"]) == 0
    ask = """
for words in "sinkd dis" "sinkd distill --sinkhorn_gr" "sinkd distill --sinkhorn_gradient im"; do
  COMP_WORDS=($words); COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); COMPREPLY=(); _shtab_sinkd; echo ${COMPREPLY[*]}
done
"""
    done = subprocess.run(["bash"], input=capsys.readouterr().out + ask, capture_output=True, text=True)
    assert done.stdout.splitlines() == ["distill", "--sinkhorn_gradient --sinkhorn_group", "implicit"]
    assert main(["--completion", "fish"]) == 2
    assert "bash or zsh" in capsys.readouterr().err
