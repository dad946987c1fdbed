"""Flags choose layers, and these layers are the student's; test_families.py holds more about each family."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sinkd import SinkdError
from sinkd.models import choose_layers, copy_layers, depth, keep_layers
from small_families import family_model

KINDS = ["bert", "distilbert", "roberta", "modernbert", "electra"]


@pytest.fixture(params=KINDS)
def family(request):
    def make(layers: int, seed: int = 0):
        return family_model(request.param, seed=seed, num_hidden_layers=layers)

    make.name = request.param
    return make


# Which layers


@pytest.mark.parametrize(
    ("text", "available", "wanted", "layers"),
    [
        ("3", 6, None, [0, 2, 4]),
        ("6", 12, None, [0, 2, 4, 6, 8, 10]),
        ("4", 6, None, [0, 1, 3, 4]),
        ("1", 6, None, [0]),
        ("6", 6, None, [0, 1, 2, 3, 4, 5]),
        ("first:2", 6, None, [0, 1]),
        ("last:2", 6, None, [4, 5]),
        ("0,2,4", 6, None, [0, 2, 4]),
        ("5,", 6, None, None),
        ("first", 6, 3, [0, 1, 2]),
        ("spaced", 6, 3, [0, 2, 4]),
        ("0,3,5", 6, 3, [0, 3, 5]),
        ("4", 6, 1, [4]),
    ],
)
def test_a_number_is_evenly_spaced_and_numbers_are_themselves(text, available, wanted, layers):
    if layers is None:
        with pytest.raises(SinkdError):
            choose_layers(text, available, "--keep_layers", wanted)
    else:
        assert choose_layers(text, available, "--keep_layers", wanted) == layers


@given(st.integers(1, 48), st.data())
def test_spaced_layers_rise_from_the_first_by_steps_that_differ_by_one_at_most(available, data):
    wanted = data.draw(st.integers(1, available))
    layers = choose_layers(str(wanted), available, "--keep_layers")
    steps = {b - a for a, b in pairwise(layers)}
    assert (layers[0], len(layers)) == (0, wanted)
    assert layers[-1] < available
    assert max(steps, default=1) - min(steps, default=1) <= 1


@pytest.mark.parametrize(
    ("text", "wanted", "fragments"),
    [
        ("7", None, ["asks for 7 layers", "the model has 6"]),
        ("0", None, ["asks for 0 layers"]),
        ("last:7", None, ["asks for 7 layers"]),
        ("first:0,2", None, ["first:3, last:3"]),
        ("0,6", None, ["rising layer numbers from 0 to 5"]),
        ("2,1", None, ["rising"]),
        ("1,1", None, ["rising"]),
        ("-1,2", None, ["rising"]),
        ("many", None, ['"many"', "as in 0,2,4"]),
        ("0,1", 3, ["names 2 layers", "the student has 3"]),
        ("first", 7, ["7 layers cannot be taken from 6"]),
        ("spaced", None, ["as in 0,2,4"]),
    ],
)
def test_impossible_choices_are_refused(text, wanted, fragments):
    with pytest.raises(SinkdError) as caught:
        choose_layers(text, 6, "--keep_layers", wanted)
    for fragment in ["--keep_layers", *fragments]:
        assert fragment in str(caught.value)


# Keeping


def test_kept_layers_are_the_layers(family):
    model, whole = keep_layers(family(6), [0, 2, 4]), family(6)
    kept, layers = ([m for m in x.modules() if type(m).__name__.endswith(("Layer", "Block"))] for x in (model, whole))
    assert (len(kept), len(layers)) == (3, 6)
    for layer, number in zip(kept, [0, 2, 4], strict=True):
        for mine, its in zip(layer.parameters(), layers[number].parameters(), strict=True):
            torch.testing.assert_close(mine, its)


def test_a_model_without_layers_is_refused(family):
    model = family(1)
    with pytest.raises(SinkdError, match="has no stack of layers"):
        for owner in list(model.modules()):
            for name, child in list(owner.named_children()):
                if isinstance(child, torch.nn.ModuleList):
                    setattr(owner, name, torch.nn.Identity())
        depth(model)


# Copying


@pytest.mark.parametrize(("text", "layers"), [("first", [0, 1]), ("spaced", [0, 2]), ("1,3", [1, 3])])
def test_a_student_takes_all_of_the_teacher_but_its_head(family, text, layers):
    student, teacher = family(2, seed=1), family(4, seed=2)
    own = {name: parameter.clone() for name, parameter in student.named_parameters()}
    chosen = choose_layers(text, depth(teacher), "--copy_layers", depth(student))
    assert chosen == layers
    if family.name == "modernbert" and layers[0] != 0:
        with pytest.raises(SinkdError, match="layer 1 does not fit"):
            copy_layers(student, teacher, chosen)
        return
    copy_layers(student, teacher, chosen)
    shortened = keep_layers(family(4, seed=2), layers)
    for name, its in shortened.named_parameters():
        taken = name.startswith(f"{student.base_model_prefix}.") and "pooler" not in name
        torch.testing.assert_close(student.get_parameter(name), its if taken else own[name])


def test_layers_of_another_width_are_refused():
    teacher = family_model("bert", num_hidden_layers=2)
    student = family_model("bert", num_hidden_layers=1, hidden_size=8)
    with pytest.raises(SinkdError, match=r"layer 0 does not fit.*equal width.*--student_init pretrained"):
        copy_layers(student, teacher, [0])
