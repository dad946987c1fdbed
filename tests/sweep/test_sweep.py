"""A sweep's file becomes trials, or is refused before the first one starts; results are paired by seed."""

import csv
import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from sinkd import DistillationArguments, SinkdError
from sinkd.cli.main import main
from sinkd.cli.sweep import run
from sinkd.sweep.comparison import Result, compare, mixed_inputs, write_csv
from sinkd.sweep.sweep import Combination, make_sweep, read_sweep
from sinkd.tasks import load_task
from sinkd.training.outcome import Outcome
from small_language_models import write_copa, write_language_model, write_templates

SMALL = {"tasks": ["cola"], "objectives": ["kd"], "seeds": [0]}


@pytest.fixture
def read(tmp_path):
    """A sweep from what its file holds."""

    def read(content: object, **kwargs):
        path = tmp_path / "sweep.yaml"
        path.write_text(content if isinstance(content, str) else yaml.safe_dump(content, sort_keys=False))
        return read_sweep(path, Path("O"), **kwargs)

    return read


# Reading a sweep


def test_every_combination_is_a_trial_with_its_own_folder_and_command(read):
    sweep = read(
        """
        tasks:
          cola: {teacher_path: T}
          rte: {teacher_path: U, num_train_epochs: 7}
        objectives: [kd, "ce:1+sinkhorn:0.5"]
        settings:
          slow: {learning_rate: 1e-5}
          fast: {learning_rate: 1e-4, num_train_epochs: 2}
        seeds: [0, 3]
        flags: {student_path: S, num_train_epochs: 5}
        """
    )
    assert len(sweep.trials) == len({trial.folder for trial in sweep.trials}) == 16
    assert [trial.name for trial in sweep.trials[:3]] == [
        "cola kd slow seed 0",
        "cola kd slow seed 3",
        "cola kd fast seed 0",
    ]
    last = sweep.trials[-1]
    assert last.folder == Path("O/rte/ce-1+sinkhorn-0.5/fast/seed-3")
    args = last.settings()
    assert isinstance(args, DistillationArguments)
    told = (args.task_name, args.teacher_path, args.student_path, args.distill_loss, args.learning_rate, args.seed)
    assert told == ("rte", ["U"], "S", "ce:1+sinkhorn:0.5", 1e-4, 3)
    assert args.output_dir == "O/rte/ce-1+sinkhorn-0.5/fast/seed-3"
    # a setting's flag overrides a task's, which overrides one for every trial
    assert [trial.settings().num_train_epochs for trial in sweep.trials[4 * 2 :: 2]] == [7, 2, 7, 2]
    assert {trial.settings().num_train_epochs for trial in sweep.trials[:8]} == {5, 2}


def test_a_setting_for_one_batch_size_overrides_a_flag_for_both(read):
    content = {**SMALL, "flags": {"per_gpu_batch_size": 6}, "settings": {"s": {"per_device_train_batch_size": 2}}}
    args = read(content).trials[0].settings()
    assert (args.per_device_train_batch_size, args.per_device_eval_batch_size) == (2, 6)


def test_an_objective_may_have_its_own_flags_and_name(read):
    objectives = {"kd": None, "flat": {"distill_loss": "kd+sinkhorn", "sinkhorn_cost": "l1"}}
    _, flat = read({**SMALL, "objectives": objectives}).trials
    args = flat.settings()
    assert (args.distill_loss, args.sinkhorn_cost, flat.folder) == ("kd+sinkhorn", "l1", Path("O/cola/flat/seed-0"))


def test_a_table_of_your_own_is_a_task(read):
    own = {"train_file": "a.csv", "dev_file": "b.csv", "text_columns": "text", "label_column": "label"}
    (trial,) = read({**SMALL, "tasks": {"reviews": own}}).trials
    assert (trial.settings().task_name, trial.settings().train_file) == (None, "a.csv")


def test_a_recipe_may_lie_under_a_task(read):
    recipe = Path(__file__).resolve().parents[2] / "recipes" / "glue" / "rte-student.yaml"
    (trial,) = read({**SMALL, "tasks": {"rte": {"config": str(recipe)}}, "seeds": [4]}).trials
    args = trial.settings()
    assert (args.num_train_epochs, args.temperature, args.distill_loss, args.seed) == (5, 3.5, "kd", 4)


def test_finetune_is_swept_without_objectives(read):
    (trial,) = read({"command": "finetune", "tasks": ["cola"], "seeds": [1], "flags": {"model_path": "M"}}).trials
    assert (trial.folder, trial.name) == (Path("O/cola/seed-1"), "cola seed 1")
    assert trial.settings().model_path == "M"


def test_flags_of_every_kind_become_words_of_a_command_line(read):
    flags = {"keep_layers": [0, 2, 4], "group_by_length": False, "report_to": ["none"], "lr_scheduler_kwargs": {"a": 1}}
    flags |= {"representation_scale": None, "config_overrides": "hidden_dropout_prob=0", "max_steps": -1}
    (trial,) = read({**SMALL, "flags": flags}).trials
    args = trial.settings()
    assert (args.keep_layers, args.group_by_length, args.report_to) == ("0,2,4", False, [])
    assert (args.lr_scheduler_kwargs, args.representation_scale, args.max_steps) == ({"a": 1}, None, -1)


def test_the_file_that_the_documentation_shows_is_a_sweep(read, monkeypatch):
    root = Path(__file__).resolve().parents[2]
    monkeypatch.chdir(root)
    (shown,) = re.findall(r"^```yaml\n(.*?)^```", (root / "docs" / "sweep.md").read_text(), re.MULTILINE | re.DOTALL)
    sweep = read(shown)
    assert len(sweep.trials) == 2 * 2 * 2 * 3 and sweep.baseline == "kd"
    assert sweep.trials[0].settings().alpha == 0.9  # of the recipe


def test_seeds_of_the_command_line_replace_the_files(read):
    assert [trial.seed for trial in read(SMALL, seeds="5,6").trials] == [5, 6]
    assert [trial.seed for trial in read({key: SMALL[key] for key in ("tasks", "objectives")}).trials] == [0, 1, 2]


def test_the_baseline_is_the_first_objective_unless_it_is_named(read):
    two = {**SMALL, "objectives": ["kd", "kl"]}
    assert read(two).baseline == "kd"
    assert read({**two, "baseline": "kl"}).baseline == "kl"
    assert dict(read(two).resources) == {"num_cpus": 1}
    assert dict(read({**two, "resources": {"num_gpus": 0.5}}).resources) == {"num_cpus": 1, "num_gpus": 0.5}


@pytest.mark.parametrize(
    ("content", "fragments"),
    [
        ("a: [", ["not YAML"]),
        ("- a", ["must hold the keys", "tasks"]),
        ({**SMALL, "objectivs": ["kd"]}, ['"objectivs"', 'did you mean "objectives"']),
        ({"objectives": ["kd"]}, ["lacks tasks"]),
        ({"tasks": ["cola"]}, ["lacks objectives"]),
        ({**SMALL, "command": "train"}, ['command to "train"', "distill or finetune"]),
        ({**SMALL, "command": "finetune"}, ["objectives", "finetune does not have"]),
        ({**SMALL, "tasks": []}, ["tasks to []"]),
        ({**SMALL, "tasks": "cola"}, ["tasks to 'cola'", "list of names"]),
        ({**SMALL, "tasks": ["cola", "cola"]}, ["one of its tasks twice"]),
        ({**SMALL, "objectives": [1]}, ["1 among its objectives"]),
        ({**SMALL, "objectives": {"kd": 3}}, ["(objectives: kd) holds 3"]),
        ({**SMALL, "objectives": ["kd", "kd+snkhorn"]}, ["cola kd+snkhorn seed 0", '"snkhorn"']),
        ({**SMALL, "objectives": ["a/b", "a b"]}, ["would share O/cola/a-b/seed-0"]),
        ({**SMALL, "settings": ["a"]}, ["settings to ['a']", "names with flags"]),
        ({**SMALL, "settings": {"a": {"learning_rte": 1}}}, ["(settings: a)", '"learning_rte"', "learning_rate"]),
        ({**SMALL, "flags": {"learning_rate": "high"}}, ["(flags)", "learning_rate to 'high'"]),
        ({**SMALL, "flags": {"learning_rate": -1}}, ["cola kd seed 0", "--learning_rate is -1.0"]),
        ({**SMALL, "flags": {"seed": 1}}, ["(flags) sets seed", "takes from seeds"]),
        ({**SMALL, "flags": {"output_dir": "X"}}, ["sets output_dir", "--output_dir"]),
        ({**SMALL, "settings": {"a": {"distill_loss": "kl"}}}, ["sets distill_loss", "objectives"]),
        ({**SMALL, "flags": [1]}, ["(flags) holds [1]"]),
        ({**SMALL, "flags": {"config": "absent.yaml"}}, ["cola kd seed 0", "absent.yaml"]),
        ({**SMALL, "seeds": 3}, ["seeds to 3"]),
        ({**SMALL, "seeds": []}, ["at least one"]),
        ({**SMALL, "seeds": [1, 1]}, ["each seed once"]),
        ({**SMALL, "seeds": [0.5]}, ["whole numbers"]),
        ({**SMALL, "baseline": "kl"}, ['baseline to "kl"', "one of kd"]),
        ({**SMALL, "resources": {"cpus": 1}}, ["resources", "num_cpus and num_gpus"]),
        ({**SMALL, "resources": {"num_cpus": -1}}, ["num_cpus to -1"]),
        ({**SMALL, "resources": {"num_gpus": 2}}, ["num_gpus to 2", "one process"]),
    ],
)
def test_errors_name_the_sweep_file_and_the_key(read, content, fragments, tmp_path):
    with pytest.raises(SinkdError) as error:
        read(content)
    for fragment in [str(tmp_path / "sweep.yaml"), *fragments]:
        assert fragment in str(error.value)
    assert "\n" not in str(error.value)


# Which trials are finished


@pytest.fixture(scope="module")
def done(world, taught, tmp_path_factory) -> Combination:
    """A trial that was run, by its own command."""
    folder = tmp_path_factory.mktemp("sweep")
    flags = {"teacher_path": str(taught), "student_path": str(world.student), "data_dir": str(world.data)}
    flags |= {"num_train_epochs": 1, "batch_size": 16}
    (folder / "sweep.yaml").write_text(yaml.safe_dump({**SMALL, "flags": flags}))
    (trial,) = read_sweep(folder / "sweep.yaml", folder / "O").trials
    assert main([trial.command, *trial.argv]) == 0
    return trial


@pytest.fixture
def files(world) -> dict[str, str]:
    task = load_task("cola", world.data)
    return {f"{split} file": task.fingerprint(split) for split in ("train", "dev")}


def test_a_trial_that_its_own_command_ran_is_finished(done, files):
    outcome = done.outcome(files)
    assert (outcome.task, outcome.seed, outcome.folder) == ("glue/cola", 0, str(done.folder))


def test_a_trial_without_metrics_is_to_be_resumed(done, files, tmp_path):
    shutil.copytree(done.folder, tmp_path / "run")
    (tmp_path / "run" / "metrics.json").unlink()
    assert replace(done, folder=tmp_path / "run").outcome(files) is None
    assert replace(done, folder=tmp_path / "none").outcome(files) is None


def test_a_folder_with_other_settings_or_data_is_refused(done, files):
    other = replace(done, argv=(*done.argv, "--learning_rate", "3e-4"))
    with pytest.raises(SinkdError, match=r"another run \(learning_rate was 5e-05 and is 0.0003\)"):
        other.outcome(files)
    with pytest.raises(SinkdError, match=r"another run \(train file was"):
        done.outcome({**files, "train file": "other"})


@pytest.mark.parametrize("flags", [{}, {"template_name": "plain"}])
def test_a_trial_of_a_language_model_has_the_settings_of_its_command(tmp_path, flags):
    """The published settings of T0, and the template that the run chose."""
    shared = {"data_dir": str(write_copa(tmp_path / "superglue")), "num_train_epochs": 1, "max_length": 64}
    shared["model_path"] = str(write_language_model(tmp_path / "M", "t5"))
    shared["templates_dir"] = str(write_templates(tmp_path / "templates"))
    content = {"command": "finetune", "tasks": ["superglue/copa"], "seeds": [0], "flags": shared | flags}
    sweep = make_sweep(content, "a sweep", tmp_path / "O")
    (trial,) = sweep.trials
    assert main([trial.command, *trial.argv]) == 0
    assert [result.outcome.task for result in run(sweep, tmp_path / "O")] == ["superglue/copa"]


def test_a_dry_run_prints_the_commands(done, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = done.folder.parents[3] / "sweep.yaml"
    assert main(["sweep", "--config", str(config), "--output_dir", "P", "--seeds", "1,2", "--dry_run"]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("sinkd distill ") and "--seed 1 --output_dir P/cola/kd/seed-1" in first
    assert second.endswith("--output_dir P/cola/kd/seed-2")
    assert not list(tmp_path.iterdir())


def test_without_ray_one_sentence_says_how_to_install_it(done, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    config = done.folder.parents[3]
    command = ["sweep", "--config", str(config / "sweep.yaml"), "--output_dir", str(config / "P")]
    assert main([*command, "--address", "auto"]) == 2
    shown = capsys.readouterr()
    assert shown.err == "sinkd: --address needs Ray, which is not installed; pip install ray==2.60.0\n"


def test_a_finished_sweep_ends_in_its_table(done, capsys):
    config = done.folder.parents[3]
    assert main(["sweep", "--config", str(config / "sweep.yaml"), "--output_dir", str(config / "O")]) == 0
    counts, _, title, head, row, note = capsys.readouterr().out.splitlines()
    assert counts == f"1 trials, 1 finished earlier, 0 to run; in {config / 'O'}"
    assert (title, head.split()) == ("Results of the trials", ["metric", "runs", "mean", "spread", "rows/s"])
    assert row.split()[:4] == ["cola", "kd", "mcc", "1"]
    assert note == f"each trial in {config / 'O' / 'sweep.csv'}"
    assert "cola kd" in (config / "O" / "README.md").read_text()


@pytest.mark.parametrize(
    ("flags", "fragments"),
    [
        ({"data_dir": "nowhere"}, ["nowhere/CoLA"]),
        ({"teacher_path": "./nowhere"}, ["--teacher_path", "./nowhere"]),
    ],
)
def test_missing_inputs_are_named_before_any_trial_starts(done, flags, fragments, refusal, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    content = yaml.safe_load((done.folder.parents[3] / "sweep.yaml").read_text())
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump({**content, "flags": content["flags"] | flags}))
    shown = refusal("sweep", "--config", "sweep.yaml")
    assert all(fragment in shown for fragment in fragments)
    assert [path.name for path in tmp_path.iterdir()] == ["sweep.yaml"]


# Comparing results


def result(objective: str, seed: int, best: float | None, task: str = "cola", folder: Path = Path("O")) -> Result:
    trial = Combination(f"{task} {objective}", "distill", (), folder, task, objective, "", seed)
    if best is None:
        return Result(trial, None, "it rained")
    return Result(trial, Outcome(task, "mcc", best, best, {"mcc": best}, [], 2.0, 50.0, seed))


def test_differences_are_paired_by_seed_and_task():
    results = [result("kd", seed, best) for seed, best in enumerate([0.1, 0.4, None, 0.2])]
    results += [result("sinkhorn", seed, best) for seed, best in enumerate([0.2, 0.4, 0.9, None])]
    results += [result("sinkhorn", 0, 0.7, task="rte")]
    kd, sinkhorn, alone = compare(results, "kd")
    assert (kd.finished, kd.crashed, kd.difference, kd.difference_spread) == (3, 1, None, None)
    assert (kd.mean, kd.spread) == pytest.approx((0.7 / 3, 0.152753), abs=1e-6)
    # seeds 0 and 1 have both: +0.1 and 0
    assert (sinkhorn.finished, sinkhorn.mean) == (3, pytest.approx(0.5))
    assert (sinkhorn.difference, sinkhorn.difference_spread) == pytest.approx((0.05, 0.0707107), abs=1e-6)
    assert (alone.name, alone.mean, alone.spread, alone.difference) == ("rte sinkhorn", 0.7, None, None)


def test_an_objective_that_only_crashed_has_a_line():
    (line,) = compare([result("kd", 0, None)], "kd")
    assert (line.metric, line.finished, line.crashed, line.mean, line.spread) == ("", 0, 1, None, None)


def test_runs_without_a_dev_set_have_a_line_without_a_score(tmp_path):
    results = [result(objective, 0, 0.5) for objective in ("kd", "kl")]
    results = [replace(each, outcome=replace(each.outcome, best=None, final=None)) for each in results]
    write_csv(tmp_path / "sweep.csv", results)
    assert [row["best"] for row in csv.DictReader((tmp_path / "sweep.csv").open(newline=""))] == ["", ""]
    for line in compare(results, "kd"):
        assert (line.finished, line.mean, line.difference, line.rows_per_second) == (1, None, None, 50.0)


def test_sweep_csv_holds_every_trial_and_why_it_crashed(tmp_path):
    write_csv(tmp_path / "sweep.csv", [result("kd", 0, 0.25), result("ce:1+kl:2", 1, None)])
    first, second = csv.DictReader((tmp_path / "sweep.csv").open(newline=""))
    assert (first["status"], first["best"], first["reason"], first["rows_per_second"]) == (
        "finished",
        "0.25",
        "",
        "50.0",
    )
    assert (second["objective"], second["status"], second["reason"], second["best"]) == (
        "ce:1+kl:2",
        "crashed",
        "it rained",
        "",
    )


def test_a_teacher_that_changed_between_trials_is_reported(done, tmp_path):
    outcome = Outcome("glue/cola", "mcc", 0.1, 0.1, {}, [], 1.0, 1.0, 0)
    same = Result(done, outcome)
    shutil.copytree(done.folder, tmp_path / "other")
    other = Result(replace(done, folder=tmp_path / "other"), outcome)
    assert mixed_inputs([same, other]) is None
    manifest = tmp_path / "other" / "manifest.json"
    content = yaml.safe_load(manifest.read_text())
    manifest.write_text(manifest.read_text().replace(content["inputs"]["teacher"], "0" * 64))
    assert f"{done.folder} and {tmp_path / 'other'} had a different teacher" in mixed_inputs([same, other])
