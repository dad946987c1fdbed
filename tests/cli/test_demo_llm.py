"""`sinkd demo-llm`: its command lines. CI runs it small."""

from sinkd.cli.demo_llm import PRIORS, trials


def test_students_differ_in_their_answers_prior_alone_and_see_no_labels(tmp_path):
    planned = trials(tmp_path, tmp_path / "data", tmp_path / "llm", tmp_path / "encoder", [], "3,4")
    assert [trial.name for trial in planned] == [*PRIORS]
    settings = [trial.settings().to_dict() for trial in planned]
    assert [args["class_prior"] for args in settings] == ["uniform", "none"]
    different = {name for name, value in settings[0].items() if value != settings[1][name]}
    assert {"class_prior", "output_dir"} <= different <= {"class_prior", "output_dir", "logging_dir"}
    assert all(args["train_file"] is None and args["seeds"] == "3,4" for args in settings)
