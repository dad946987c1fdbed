"""A checkpoint that lacks weights is refused: what it lacks would be drawn at random, without a word."""

import shutil

import pytest
from safetensors.torch import load_file, save_file

from sinkd.errors import SinkdError
from sinkd.models import load_encoder
from sinkd.tasks import load_task


@pytest.fixture
def damaged(taught, tmp_path):
    """Copies the taught model with other names for its weights: old name -> new name, None to leave it out."""

    def make(rename):
        shutil.copytree(taught, tmp_path / "damaged")
        path = tmp_path / "damaged" / "model.safetensors"
        renamed = {rename(name): tensor for name, tensor in load_file(path).items() if rename(name) is not None}
        save_file(renamed, path, metadata={"format": "pt"})
        return str(path.parent)

    return make


def test_weights_under_other_names_are_refused(damaged, world):
    path = damaged(lambda name: f"module.{name}")
    with pytest.raises(SinkdError, match=r"--teacher_path .* lacks \d+ of the model's weights, .* among them"):
        load_encoder(path, load_task("cola", world.data), "--teacher_path", must_have_head=True)


def test_a_teacher_whose_head_is_not_in_the_file_is_refused(damaged, world):
    path = damaged(lambda name: None if name.startswith("classifier") else name)
    with pytest.raises(SinkdError, match=r"lacks 2 of the model's weights, classifier\.bias among them"):
        load_encoder(path, load_task("cola", world.data), "--teacher_path", must_have_head=True)


def test_overrides_do_not_touch_what_the_task_decides(world):
    with pytest.raises(SinkdError, match="--config_overrides sets num_labels, which the task decides"):
        load_encoder(str(world.student), load_task("cola", world.data), "--model_path", overrides={"num_labels": 5})
