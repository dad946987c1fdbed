"""Attributions: the formula with the task's own loss, its limit, gradients of gradients, and encoders of all kinds."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import reference
from sinkd import SinkdError
from sinkd.losses.attribution import Attribution, margins, mean_gradients
from sinkd.losses.feature import Forward
from sinkd.losses.input_embedding import embedding_module, replaced, watched
from sinkd.losses.objective import Objective
from sinkd.losses.term import Progress, View
from sinkd.models.forward import observe

MASK = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0], [1, 1, 0, 0]])
LABELS = torch.tensor([1, 0, 1])
SCORES = torch.tensor([0.4, 2.0, -1.0], dtype=torch.float64)


def make_term(**options):
    (term,) = Objective.parse("integrated_saliency:1", integrated_saliency=options)
    return term


class Encoder(nn.Module):
    """A smooth model of the shape that encoders have: embedding, layers, a head on the mean of real tokens."""

    def __init__(self, classes: int, seed: int = 0, width: int = 5):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.embedding = nn.Embedding(11, width)
        self.layers = nn.ModuleList([nn.Linear(width, width), nn.Linear(width, width)])
        self.head = nn.Linear(width, classes)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) / 2)
        self.double()

    def get_input_embeddings(self) -> nn.Module:
        return self.embedding

    def forward(self, input_ids, attention_mask):
        return SimpleNamespace(logits=self.top(self.embedding(input_ids), attention_mask))

    def top(self, x, mask):
        for layer in self.layers:
            x = torch.tanh(layer(x))
        weights = mask.unsqueeze(-1) / mask.sum(-1).view(-1, 1, 1)
        return self.head((x * weights).sum(1))


def see(model: nn.Module, mask: torch.Tensor = MASK) -> tuple[Forward, dict]:
    ids = torch.arange(mask.numel()).reshape(mask.shape) % 11
    inputs = {"input_ids": ids, "attention_mask": mask}
    with watched(model) as embeddings:
        logits = model(**inputs).logits
    return Forward(model, inputs, logits, None, embeddings[0]), inputs


def losses(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The scalars s of rows, (B, S): the loss of hard labels, or -log p_c of every class where there are more."""
    margin = margins(logits, labels)
    return (margin - labels.unsqueeze(1)).square() if logits.shape[-1] == 1 else F.softplus(margin)


def labels_for(classes: int) -> torch.Tensor:
    return SCORES if classes == 1 else LABELS


def plain_loss(logits: torch.Tensor, classes: int, label: torch.Tensor) -> torch.Tensor:
    """The task's loss of one row as the task computes it."""
    return (logits - label).square().sum() if classes == 1 else F.cross_entropy(logits.unsqueeze(0), label.view(1))


def expected_maps(model: Encoder, classes: int, steps: int, norm: int, topk: int | None) -> torch.Tensor:
    """(B, S, L), row by row, each row alone and without its padding."""
    rows = []
    for row, (mask, label) in enumerate(zip(MASK, labels_for(classes), strict=True)):
        length = int(mask.sum())
        ids = torch.arange(MASK.numel()).reshape(MASK.shape)[row : row + 1, :length] % 11
        embeddings = model.embedding(ids)
        maps = []
        for target in [label] if classes <= 2 else torch.arange(classes):
            gradient = 0
            for k in range(1, steps + 1):
                scaled = embeddings.detach() * k / steps
                scaled.requires_grad_()
                loss = plain_loss(model.top(scaled, mask[None, :length])[0], classes, target)
                gradient = gradient + torch.autograd.grad(loss, scaled)[0] / steps
            maps.append(F.pad(reference.attribution(embeddings, gradient, norm, topk)[0], (0, 4 - length)))
        rows.append(torch.stack(maps))
    return torch.stack(rows).detach()


@pytest.mark.parametrize("classes", [1, 2, 3])
@pytest.mark.parametrize(("steps", "norm", "topk"), [(1, 2, None), (1, 1, 3), (3, 2, 3), (4, 1, None)])
def test_a_map_is_that_of_the_tasks_loss(classes, steps, norm, topk):
    model = Encoder(classes)
    seen, batch = see(model)
    found = Attribution(steps, norm, topk).read(seen, batch | {"labels": labels_for(classes)})
    torch.testing.assert_close(found.detach(), expected_maps(model, classes, steps, norm, topk))


@pytest.mark.parametrize("classes", [1, 2, 3])
def test_integrated_gradients_sum_to_the_embeddings_contribution(classes):
    """Completeness: as steps grow, the sum over tokens tends to s(embedding) - s(no embedding)."""
    model = Encoder(classes)
    seen, _ = see(model)
    labels = labels_for(classes)
    empty = model.top(torch.zeros_like(seen.embeddings), MASK)
    exact = losses(seen.logits, labels) - losses(empty, labels)
    errors = []
    for steps in (10, 20, 200):
        gradients = mean_gradients(seen, labels, steps)
        errors.append(float(((seen.embeddings * gradients).sum((-2, -1)).T - exact).detach().abs().max()))
    assert errors[1] == pytest.approx(errors[0] / 2, rel=0.3)
    assert errors[2] < 1e-2


@pytest.mark.parametrize("classes", [1, 2, 3])
@pytest.mark.parametrize(("steps", "kind"), [(1, "L2"), (2, "smoothL1")])
def test_gradcheck_through_the_students_own_gradient(classes, steps, kind):
    student, teacher = Encoder(classes), Encoder(classes, seed=1)
    term = make_term(ig_steps=steps, loss_func=kind, topk=3)
    batch = {"labels": labels_for(classes)}
    seen, inputs = see(teacher)
    theirs = View(features={term.teacher_map: term.teacher_map.read(seen, batch | inputs)})
    parameters = dict(student.named_parameters())

    def loss(*values: torch.Tensor) -> torch.Tensor:
        model = Encoder(classes)
        for name, value in zip(parameters, values, strict=True):
            owner, _, leaf = name.rpartition(".")
            module = model.get_submodule(owner)
            del module._parameters[leaf]
            setattr(module, leaf, value)
        seen, inputs = see(model)
        ours = View(features={term.student_map: term.student_map.read(seen, batch | inputs)})
        return term(ours, theirs, batch, Progress())

    assert torch.autograd.gradcheck(loss, [p.detach().requires_grad_() for p in parameters.values()])


@pytest.mark.parametrize("kind", ["L1", "L2", "smoothL1"])
def test_the_loss_is_a_sum_over_tokens_and_classes_by_the_teachers_entries(kind):
    term = make_term(loss_func=kind)
    ours, theirs = torch.rand(3, 3, 4), torch.rand(3, 3, 4) * MASK.unsqueeze(1)
    views = (View(features={f: x}) for f, x in ((term.student_map, ours), (term.teacher_map, theirs)))
    function = {"L1": F.l1_loss, "L2": F.mse_loss, "smoothL1": F.smooth_l1_loss}[kind]
    expected = sum(function(ours[:, c], theirs[:, c], reduction="sum") / (theirs[:, c] != 0).sum() for c in range(3))
    torch.testing.assert_close(term(*views, {}, Progress()), expected)


def test_a_student_that_is_its_teacher_has_nothing_to_learn():
    model = Encoder(2)
    seen, batch = see(model)
    term = make_term(topk=768)
    views = [View(features={f: f.read(seen, batch)}) for f in (term.student_map, term.teacher_map)]
    assert term(*views, batch, Progress()).item() == 0


@pytest.mark.parametrize("steps", [1, 3])
def test_padding_changes_nothing_and_a_kept_map_is_the_map(steps):
    model = Encoder(3)
    feature = Attribution(steps, 2, 4)
    seen, batch = see(model)
    value = feature.read(seen, batch | {"labels": LABELS})
    longer = F.pad(MASK, (0, 3))
    ids = F.pad(batch["input_ids"], (0, 3), value=7)
    inputs = {"input_ids": ids, "attention_mask": longer}
    with watched(model) as embeddings:
        logits = model(**inputs).logits
    padded = feature.read(Forward(model, inputs, logits, None, embeddings[0]), inputs | {"labels": LABELS})
    torch.testing.assert_close(padded, F.pad(value, (0, 3)))
    rows = feature.split(padded, inputs)
    assert [tuple(row.shape) for row in rows] == [(4, 3), (3, 3), (2, 3)]
    torch.testing.assert_close(feature.join(rows, batch), value)


def test_a_sure_teacher_still_says_why():
    """Where the loss has no slope left in float32 the margin has: its gradient points the same way."""
    model = Encoder(2).float()
    with torch.no_grad():
        model.head.bias.copy_(torch.tensor([0.0, 80.0]))
    seen, batch = see(model)
    lengths = Attribution(1, 2).read(seen, batch | {"labels": torch.tensor([1, 1, 1])})
    torch.testing.assert_close(lengths.norm(dim=-1), torch.ones(3, 1))


def test_rows_without_labels_count_if_no_label_is_needed():
    model = Encoder(2)
    seen, batch = see(model)
    unlabelled = batch | {"labels": torch.tensor([-100, 0, -100])}
    assert (Attribution(1, 2).read(seen, unlabelled)[:, 0].norm(dim=-1) > 0).tolist() == [True, True, True]
    assert (Attribution(2, 2).read(seen, unlabelled)[:, 0].norm(dim=-1) > 0).tolist() == [False, True, False]
    scores = Encoder(1)
    seen, batch = see(scores)
    unscored = batch | {"labels": torch.tensor([float("nan"), 1.0, 2.0], dtype=torch.float64)}
    assert (Attribution(2, 2).read(seen, unscored)[:, 0].norm(dim=-1) > 0).tolist() == [False, True, True]


def test_a_frozen_teacher_is_read_under_no_grad():
    model = Encoder(2).requires_grad_(False)
    with torch.no_grad():
        seen, batch = see(model)
        value = Attribution(2, 2).read(seen, batch | {"labels": LABELS})
    assert not value.requires_grad and (value.norm(dim=-1) > 0).all()
    torch.testing.assert_close(value, expected_maps(Encoder(2), 2, 2, 2, None))


def test_language_models_have_no_attribution():
    seen, batch = see(Encoder(2))
    with pytest.raises(SinkdError, match="Encoder has no attribution"):
        Attribution(1, 2).read(replace(seen, counts=torch.tensor([1, 1, 1])), batch)


FAMILIES = {
    "BertForSequenceClassification": "bert.embeddings",
    "DistilBertForSequenceClassification": "distilbert.embeddings",
    "RobertaForSequenceClassification": "roberta.embeddings",
    "ModernBertForSequenceClassification": "model.embeddings",
    "ElectraForSequenceClassification": "electra.embeddings",
}


def make(name: str, seed: int = 0) -> nn.Module:
    import transformers

    sizes = {"vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    sizes |= {"intermediate_size": 24, "max_position_embeddings": 40, "pad_token_id": 0, "num_labels": 2}
    if name.startswith("Distil"):
        sizes |= {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 24}
    config = getattr(transformers, name.replace("ForSequenceClassification", "Config"))(**sizes)
    torch.manual_seed(seed)
    return getattr(transformers, name)(config).eval()


@pytest.mark.parametrize("name", FAMILIES)
def test_the_embedding_of_any_encoder_is_found(name):
    model = make(name)
    assert model.get_submodule(FAMILIES[name]) is embedding_module(model)
    inputs = {"input_ids": torch.arange(1, 13).reshape(2, 6), "attention_mask": torch.ones(2, 6, dtype=torch.long)}
    with watched(model) as seen:
        outputs = model(**inputs, output_hidden_states=True)
    assert len(seen) == 1
    if name != "ElectraForSequenceClassification":  # whose hidden states begin after a projection
        torch.testing.assert_close(seen[0], outputs.hidden_states[0])


def test_a_model_that_hides_its_embedding_is_refused():
    with pytest.raises(SinkdError, match="Linear has no get_input_embeddings"):
        embedding_module(nn.Linear(2, 2))


def test_embeddings_that_begin_with_the_tokens_are_refused():
    model = Encoder(2)
    seen, batch = see(model)
    turned = Forward(model, seen.inputs, seen.logits, None, seen.embeddings.transpose(0, 1))
    with pytest.raises(SinkdError, match=r"embed it as \(rows, tokens, width\)"):
        Attribution(1, 2).read(turned, batch)


@pytest.mark.parametrize("classes", [1, 2, 3])
def test_slopes_below_float16s_range_still_weight_the_steps(classes):
    """A row with a loss near 0: its slope is 1e-9, and float16 ends at 6e-8."""
    model = Encoder(classes).float().requires_grad_(False)
    with torch.no_grad():
        model.head.bias.copy_(torch.tensor([0.0] * (classes - 1) + [20.0]))
    labels = torch.full((3,), 10.0) if classes == 1 else torch.full((3,), classes - 1)
    maps = []
    for dtype in (torch.float16, torch.float32):
        with torch.no_grad(), torch.autocast("cpu", dtype=dtype, enabled=dtype == torch.float16):
            seen, batch = see(model)
            maps.append(Attribution(3, 2).read(seen, batch | {"labels": labels}))
    torch.testing.assert_close(maps[1].norm(dim=-1), torch.ones(maps[1].shape[:2]))
    torch.testing.assert_close(maps[0], maps[1], rtol=0.05, atol=0.02)


def test_steps_without_labels_are_refused():
    seen, batch = see(Encoder(2))
    with pytest.raises(SinkdError, match="attributions in 2 steps need the loss of hard labels"):
        Attribution(2, 2).read(seen, batch)


def test_every_step_along_the_line_has_the_dropout_of_the_pass_that_was_seen():
    """And draws nothing more: the next batch's dropout does not depend on the number of steps."""
    model = make("BertForSequenceClassification").train()
    batch = {"input_ids": torch.arange(1, 13).reshape(2, 6), "attention_mask": torch.ones(2, 6, dtype=torch.long)}
    batch["labels"] = torch.tensor([0, 1])
    logits, states = [], []
    for steps in (1, 3):
        torch.manual_seed(0)
        with model.register_forward_hook(lambda module, args, output: logits.append(output.logits.detach())):
            observe(model, batch, [Attribution(steps, 2)])
        states.append(torch.get_rng_state())
    assert torch.equal(*states)
    assert len(logits) == 4 and torch.equal(logits[0], logits[1])
    torch.manual_seed(0)
    with watched(model) as embeddings:
        model(**{name: batch[name] for name in ("input_ids", "attention_mask")})
    torch.manual_seed(0)
    with replaced(model, embeddings[0] * 2 / 3), torch.no_grad():
        expected = model(**{name: batch[name] for name in ("input_ids", "attention_mask")}).logits
    torch.testing.assert_close(logits[3], expected)
