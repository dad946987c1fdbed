"""Flags choose layers, and a student made of them saves, loads and answers the same."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    DistilBertConfig,
    ElectraConfig,
    ModernBertConfig,
    RobertaConfig,
    set_seed,
)

from sinkd import SinkdError
from sinkd.models import choose_layers, copy_layers, depth, keep_layers

SIZES = {"vocab_size": 50, "hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32}
MODERN = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2}
FAMILIES = {
    "bert": lambda n: BertConfig(num_hidden_layers=n, **SIZES),
    "distilbert": lambda n: DistilBertConfig(vocab_size=50, dim=16, n_heads=2, hidden_dim=32, n_layers=n),
    "roberta": lambda n: RobertaConfig(num_hidden_layers=n, **SIZES),
    "modernbert": lambda n: ModernBertConfig(num_hidden_layers=n, local_attention=4, **MODERN, **SIZES),
    "electra": lambda n: ElectraConfig(num_hidden_layers=n, embedding_size=16, **SIZES),
}


@pytest.fixture(params=FAMILIES)
def family(request):
    def make(layers: int, seed: int = 0, **changes):
        set_seed(seed)
        config = FAMILIES[request.param](layers)
        for name, value in changes.items():
            setattr(config, name, value)
        model = AutoModelForSequenceClassification.from_config(config).eval()
        with torch.no_grad():  # biases and norms begin all alike: make every layer another
            for parameter in model.parameters():
                parameter += 0.1 * torch.randn_like(parameter)
        return model

    make.name = request.param
    return make


@torch.no_grad()
def answer(model) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(3, 50, (3, 12), generator=generator)
    return model.eval()(input_ids=ids, attention_mask=torch.ones_like(ids)).logits


# Which layers


@pytest.mark.parametrize(
    ("text", "available", "wanted", "layers"),
    [
        ("3", 6, None, [0, 2, 4]),
        ("6", 12, None, [0, 2, 4, 6, 8, 10]),
        ("4", 6, None, [0, 1, 3, 4]),
        ("1", 6, None, [0]),
        ("6", 6, None, [0, 1, 2, 3, 4, 5]),
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


@pytest.mark.parametrize("layers", [[0, 2, 4], [0], [0, 1, 5]])
def test_a_model_of_kept_layers_answers_the_same_after_saving_and_loading(family, layers, tmp_path):
    model = keep_layers(family(6), layers)
    assert depth(model) == len(layers)
    model.save_pretrained(tmp_path)
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert depth(loaded) == len(layers)
    assert loaded.state_dict().keys() == model.state_dict().keys()
    torch.testing.assert_close(answer(loaded), answer(model))


def test_kept_layers_are_the_layers(family):
    model, whole = keep_layers(family(6), [0, 2, 4]), family(6)
    kept, layers = ([m for m in x.modules() if type(m).__name__.endswith("Layer")] for x in (model, whole))
    kept = kept or [m for m in model.modules() if type(m).__name__ == "TransformerBlock"]
    layers = layers or [m for m in whole.modules() if type(m).__name__ == "TransformerBlock"]
    assert len(layers) == 6
    for layer, number in zip(kept, [0, 2, 4], strict=True):
        for mine, its in zip(layer.parameters(), layers[number].parameters(), strict=True):
            torch.testing.assert_close(mine, its)


def test_keeping_every_layer_changes_nothing(family):
    torch.testing.assert_close(answer(keep_layers(family(3), [0, 1, 2])), answer(family(3)))


def test_layers_that_could_not_be_loaded_again_are_refused(family, tmp_path):
    # ModernBERT's first layer has no norm before its attention, so another cannot take its place.
    if family.name == "modernbert":
        with pytest.raises(SinkdError, match=r"--keep_layers 1,2 gives no ModernBert.*keep layer 0"):
            keep_layers(family(3), [1, 2])
    else:
        keep_layers(family(3), [1, 2]).save_pretrained(tmp_path)


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


def test_a_copy_is_a_copy(family):
    student, teacher = family(1, seed=1), family(2, seed=2)
    before = answer(teacher)
    copy_layers(student, teacher, [0])
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.zero_()
    torch.testing.assert_close(answer(teacher), before)


def test_layers_of_another_width_are_refused():
    narrow = {**SIZES, "hidden_size": 8}
    teacher = AutoModelForSequenceClassification.from_config(BertConfig(num_hidden_layers=2, **SIZES))
    student = AutoModelForSequenceClassification.from_config(BertConfig(num_hidden_layers=1, **narrow))
    with pytest.raises(SinkdError, match=r"layer 0 does not fit.*equal width.*--student_init pretrained"):
        copy_layers(student, teacher, [0])
