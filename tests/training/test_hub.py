"""`--push_to_hub` against a hub on this machine."""

import json
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from huggingface_hub import constants

from hub_standin import TOKEN, Hub
from processes import python
from sinkd import SinkdError
from sinkd.cli.main import main
from sinkd.models import load_encoder
from sinkd.tasks import load_task
from sinkd.training.arguments import TaskArguments
from sinkd.training.trainer import TaskTrainer


@pytest.fixture
def hub():
    with Hub() as hub:
        yield hub


def finetune(world, folder: Path, hub: Hub, *flags: str) -> CompletedProcess:
    command = ["finetune", "--model_path", world.student, *world.flags(folder), "--push_to_hub", *flags]
    return python("-m", "sinkd", *command, **hub.environment)


@pytest.mark.slow
def test_checkpoints_and_the_finished_run_are_pushed(world, tmp_path, hub):
    folder = tmp_path / "run"
    flags = ["--hub_model_id", "user/student", "--hub_strategy", "checkpoint", "--num_train_epochs", "2"]
    done = finetune(world, folder, hub, *flags)
    assert done.returncode == 0, done.stderr
    pushed = hub.files["user/student"]
    for name in ("README.md", "model.safetensors", "config.json", "tokenizer.json", "metrics.json", "manifest.json"):
        assert pushed[name] == (folder / name).read_bytes()
    assert {"last-checkpoint/optimizer.pt", "last-checkpoint/trainer_state.json"} <= pushed.keys()
    assert not [name for name in pushed if name.startswith(("checkpoint-", "best", "."))]
    assert not [name for name in pushed if name.endswith("training_args.bin") or name == "optimizer.pt"]
    assert not (folder / "training_args.bin").exists()
    messages = [message for _, message, _ in hub.commits]
    assert messages[0] == "Training in progress, step 10"
    assert messages[-1] == "End of training" and len(messages) == 5
    assert b"user/student" in pushed["README.md"]
    assert not [name for name, content in pushed.items() if TOKEN.encode() in content]

    # The same command again trains nothing, and pushes once more; one without pushing is the same run.
    seconds = json.loads((folder / "metrics.json").read_text())["seconds"]
    assert finetune(world, folder, hub, *flags).returncode == 0
    assert len(hub.commits) == 6
    kept = ["--model_path", str(world.student), *map(str, world.flags(folder, "--num_train_epochs", "2"))]
    assert main(["finetune", *kept]) == 0
    assert json.loads((folder / "metrics.json").read_text())["seconds"] == seconds


@pytest.fixture
def here(hub, monkeypatch):
    """The same hub for runs in this process, whose settings were read when it started."""
    monkeypatch.setattr(constants, "ENDPOINT", hub.environment["HF_ENDPOINT"])
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    return hub


def test_a_failing_hub_does_not_stop_training(world, tmp_path, here, capsys, caplog):
    flags = ["finetune", *map(str, world.flags(tmp_path / "run", "--model_path", world.student, "--push_to_hub"))]
    here.refuse_commits = True
    assert main(flags) == 2
    assert "checkpoint-10 was not pushed to the hub" in caplog.text
    assert f"the run is finished in {tmp_path / 'run'}, but was not pushed" in capsys.readouterr().err
    assert (tmp_path / "run" / "metrics.json").is_file()
    here.refuse_commits = False
    assert main(flags) == 0
    assert [message for _, message, _ in here.commits] == ["End of training"]
    assert here.files["user/run"].keys() >= {"README.md", "model.safetensors"}


def test_a_token_that_the_hub_does_not_know_is_one_sentence_before_any_training(
    world, tmp_path, here, capsys, monkeypatch
):
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    flags = ["finetune", *map(str, world.flags(tmp_path / "run", "--model_path", world.student, "--push_to_hub"))]
    assert main(flags) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "--push_to_hub: the hub refuses the repository run" in error
    assert not (tmp_path / "run" / "metrics.json").exists()


def test_several_seeds_are_not_pushed_to_one_place(world, tmp_path, refusal):
    flags = ["--model_path", world.student, "--push_to_hub", "--seeds", "0,1"]
    assert "--push_to_hub and --seeds" in refusal("finetune", *map(str, world.flags(tmp_path / "run", *flags)))


def test_a_trainer_in_a_program_of_ones_own_takes_token_and_privacy_from_the_call(world, tmp_path, here, monkeypatch):
    """As `push_to_hub(token=..., private=...)` of every Trainer passes them on."""
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    args = TaskArguments(output_dir=str(tmp_path / "run"), eval_strategy="no", hub_model_id="user/own")
    trainer = TaskTrainer(model=load_encoder(str(world.student), load_task("cola", world.data), "student"), args=args)
    with pytest.raises(SinkdError, match="--push_to_hub: the hub refuses the repository user/own"):
        trainer.init_hf_repo()
    trainer.init_hf_repo(token=TOKEN, private=True)
    assert trainer.hub_model_id == "user/own" and here.private == {"user/own"}
