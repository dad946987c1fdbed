"""CPU optimisations change results only by rounding, and are removed when training ends."""

import copy
import logging
from itertools import product

import pytest
import torch
from datasets import Dataset
from torch import nn
from torch.nn import functional as F
from transformers import AutoModelForSequenceClassification, BertConfig, BertForSequenceClassification, Trainer

from sinkd import DistillationArguments
from sinkd.models import load_encoder, load_tokenizer
from sinkd.tasks import Collator, encode, load_task
from sinkd.training import cpu
from sinkd.training.arguments import FinetuneArguments
from sinkd.training.cpu import (
    ENTRYWISE,
    FastDropout,
    FastLinear,
    TrimmedEmbedding,
    clip_gradients,
    fast_layers,
    trim_embedding,
)
from sinkd.training.run import distill
from sinkd.training.settings import resolve_settings
from sinkd.training.trainer import TaskTrainer

# Layers


class Own(nn.Linear):
    """A user's layer."""


def test_layers_are_fast_within_the_context_and_plain_after_it_even_on_an_error():
    model = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.1), Own(4, 4))
    try:
        with fast_layers(model):
            assert [type(layer) for layer in model] == [FastLinear, FastDropout, Own]
            with fast_layers(model):  # an evaluation in the middle of training
                pass
            assert type(model[0]) is FastLinear
            raise RuntimeError
    except RuntimeError:
        pass
    assert [type(layer) for layer in model] == [nn.Linear, nn.Dropout, Own]


def gradients(model: nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    """Value, gradient, and the gradient of the gradient's length: what attributions train on."""
    x = x.clone().requires_grad_()
    value = model(x).tanh().sum()
    (first,) = torch.autograd.grad(value, x, create_graph=True)
    second = torch.autograd.grad(first.square().sum(), [*model.parameters()], allow_unused=True)
    return [value.detach(), first.detach(), *(found for found in second if found is not None)]


def test_a_linear_layer_agrees_to_the_second_derivative():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(160, 512), nn.Tanh(), nn.Linear(512, 160, bias=False))
    x = torch.randn(6, 16, 160)
    plain = gradients(model, x)
    with fast_layers(model):
        fast = gradients(model, x)
    for ours, theirs in zip(fast, plain, strict=True):
        assert torch.norm(ours - theirs) <= 1e-5 * torch.norm(theirs)


def test_under_autocast_a_linear_layer_is_pytorchs_and_computes_in_bfloat16():
    model, x = nn.Linear(256, 256), torch.randn(64, 256)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        plain = model(x)
        with fast_layers(model):
            assert torch.equal(model(x), plain) and plain.dtype == torch.bfloat16


def test_layers_with_frozen_weights_still_pass_gradients_on():
    model, x = nn.Linear(256, 256).requires_grad_(False), torch.randn(64, 256, requires_grad=True)
    with fast_layers(model):
        model(x).sum().backward()
    assert torch.allclose(x.grad, F.linear(torch.ones(64, 256), model.weight.T), atol=1e-4)
    assert model.weight.grad is None


def test_dropout_drops_entries_as_often_as_asked_and_scales_the_others():
    torch.manual_seed(0)
    x = torch.ones(1000, 1000, requires_grad=True)
    y = FastDropout(0.1)(x)
    dropped = (y == 0).double().mean().item()
    assert abs(dropped - 0.1) < 0.0015  # five standard deviations
    assert set(y.unique().tolist()) == {0.0, float(torch.ones(()) / 0.9)}
    y.sum().backward()
    assert torch.equal(x.grad, y)
    y = FastDropout(0.1)(torch.ones(1000, 1000, dtype=torch.bfloat16))
    assert y.dtype == torch.bfloat16 and abs((y == 0).double().mean().item() - 0.1) < 0.0015


def test_the_global_generator_decides_the_mask_of_dropout():
    layer = FastDropout(0.3)
    state = torch.get_rng_state()
    first, second = layer(torch.ones(50)), layer(torch.ones(50))
    torch.set_rng_state(state)
    assert torch.equal(layer(torch.ones(50)), first) and not torch.equal(first, second)


def test_dropout_in_evaluation_and_at_the_extreme_rates_is_pytorchs():
    layers = [FastDropout(p) for p in (0.0, 0.5, 1.0)]
    x = torch.randn(20)
    assert torch.equal(layers[0](x), x) and torch.equal(layers[2](x), torch.zeros(20))
    assert torch.equal(nn.Sequential(*layers).eval()(x), x)


# Clipping


@pytest.mark.parametrize("max_norm", [1e-3, 0.5, 1e3])
def test_clipped_gradients_and_their_norm_are_those_of_pytorch(max_norm):
    model = nn.Sequential(nn.Linear(5, 7), nn.Linear(7, 3), nn.Linear(3, 2))
    model[2].requires_grad_(False)
    model[1](model[0](torch.randn(4, 5))).square().sum().backward()
    other = copy.deepcopy(model)
    for ours, theirs in zip(model.parameters(), other.parameters(), strict=True):
        theirs.grad = None if ours.grad is None else ours.grad.clone()
    assert torch.equal(clip_gradients(model, max_norm), nn.utils.clip_grad_norm_(other.parameters(), max_norm))
    for ours, theirs in zip(model.parameters(), other.parameters(), strict=True):
        assert (ours.grad is None and theirs.grad is None) or torch.equal(ours.grad, theirs.grad)


def test_a_nan_norm_reaches_every_gradient():
    model = nn.Linear(2, 2)
    model.weight.grad, model.bias.grad = torch.full((2, 2), float("nan")), torch.ones(2)
    assert clip_gradients(model, 1.0).isnan() and bool(model.bias.grad.isnan().all())


# The embedding


class Small(nn.Module):
    """A minimal model for `trim_embedding`."""

    def __init__(self, **options):
        super().__init__()
        torch.manual_seed(0)
        self.words = nn.Embedding(10, 4, **options)
        self.score = nn.Linear(4, 1)

    def get_input_embeddings(self):
        return self.words

    def get_output_embeddings(self):
        return None

    def forward(self, ids):
        return self.score(self.words(ids)).sum()


class Speaking(Small):
    """A language model: it has scores for its words."""

    def get_output_embeddings(self):
        return self.score


BATCH = torch.tensor([[1, 3], [7, 0]])
ROWS = Dataset.from_dict({"input_ids": [[1, 3], [7]]})


def trim(model: nn.Module) -> TrimmedEmbedding | None:
    return trim_embedding(model, ROWS, 0)


def train(model: Small, optim: str = "adamw_torch") -> None:
    args = FinetuneArguments(output_dir="unused", optim=optim, learning_rate=0.1, use_cpu=True)
    kind, options = Trainer.get_optimizer_cls_and_kwargs(args)
    model.train()
    optimizer = kind([p for p in model.parameters() if p.requires_grad], weight_decay=0.0, **options)
    for _ in range(3):
        optimizer.zero_grad()
        model(BATCH).square().backward()
        optimizer.step()


def check_trimmed_training(optim: str = "adamw_torch", **options) -> None:
    whole, trimmed = Small(**options), Small(**options)
    before = whole.words.weight.detach().clone()
    embedding = trim(trimmed)
    assert isinstance(embedding, TrimmedEmbedding) and embedding.rows.shape == (4, 4)
    train(whole, optim)
    train(trimmed, optim)
    embedding.restore()
    assert type(trimmed.words) is nn.Embedding and trimmed.words.weight.requires_grad
    assert trimmed.state_dict().keys() == whole.state_dict().keys()
    assert torch.equal(trimmed.words.weight[[2, 4, 5, 6, 8, 9]], before[[2, 4, 5, 6, 8, 9]])
    assert not torch.equal(trimmed.words.weight[1], before[1])
    states = zip(whole.state_dict().values(), trimmed.state_dict().values(), strict=True)
    for ours, theirs in states:
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("options", [{}, {"padding_idx": 0}])
def test_trained_rows_are_those_of_the_whole_embedding(options):
    check_trimmed_training(**options)


ELSEWHERE = {
    "adamw_torch_xla",
    "adamw_torch_npu_fused",
    "adamw_anyprecision",
    "paged_adamw_32bit",
}  # not installed here


@pytest.mark.parametrize("optim", sorted({name.value for name in ENTRYWISE} - ELSEWHERE))
def test_optimizers_with_a_trimmed_embedding_give_the_same_result(optim):
    check_trimmed_training(optim)


def test_evaluation_and_saving_during_training_see_the_trained_rows():
    model = Small()
    plain = model.state_dict().keys()
    trim(model)
    train(model)
    saved = model.state_dict()
    assert saved.keys() == plain
    torch.testing.assert_close(saved["words.weight"][[0, 1, 3, 7]], model.words.rows.detach())
    trained = model(torch.tensor([[1, 3]]))
    torch.testing.assert_close(model.eval()(torch.tensor([[1, 3]])), trained)
    assert model(torch.tensor([[9]])).isfinite()  # a row that training never read


def test_a_saved_state_is_loaded_into_the_trained_rows():
    source, model = Small(), Small()
    train(source)
    trim(model)
    model.load_state_dict(source.state_dict())
    torch.testing.assert_close(model.words.rows, source.words.weight[[0, 1, 3, 7]])


def test_an_embedding_for_which_trimming_would_not_be_exact_is_left_alone():
    frozen, shared = Small(), Small()
    frozen.words.weight.requires_grad_(False)
    shared.output = nn.Linear(4, 10, bias=False)
    shared.output.weight = shared.words.weight
    special = [Small(max_norm=1.0), Small(sparse=True), Small(scale_grad_by_freq=True)]
    for model in (frozen, shared, Speaking(), *special):
        assert trim(model) is None
        assert type(model.words) is nn.Embedding


# Training


@pytest.fixture
def trainer(world, tmp_path):
    task, tokenizer = load_task("cola", world.data), load_tokenizer(str(world.student), "--model_path")
    rows = encode(task.read("train").select(range(32)), tokenizer, 32)

    def make(**settings) -> TaskTrainer:
        quiet = {"save_strategy": "no", "eval_strategy": "no", "report_to": "none", "num_train_epochs": 1}
        return TaskTrainer(
            model=load_encoder(str(world.student), task, "--model_path"),
            args=FinetuneArguments(output_dir=str(tmp_path), **quiet, **settings),
            train_dataset=rows,
            data_collator=Collator(tokenizer),
            processing_class=tokenizer,
        )

    return make


def test_a_run_ends_with_the_same_model_trimmed_or_not(world, taught, tmp_path):
    flags = ["--teacher_path", taught, "--distill_loss", "kd", "--report_to", "none"]
    # A vocabulary with words that the corpus does not use.
    folder = tmp_path / "student"
    teacher = AutoModelForSequenceClassification.from_pretrained(taught)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    BertForSequenceClassification(
        BertConfig(vocab_size=teacher.config.vocab_size + 500, id2label=teacher.config.id2label, **sizes)
    ).save_pretrained(folder)
    weights = []
    for name, more in (("whole", ["--no_trim_embedding"]), ("trimmed", [])):
        argv = world.flags(tmp_path / name, *flags, "--student_path", folder, *more)
        distill(resolve_settings(DistillationArguments, argv, "test"), load_task("cola", world.data))
        weights.append(AutoModelForSequenceClassification.from_pretrained(tmp_path / name).state_dict())
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value, atol=1e-5, rtol=1e-4)


def test_training_twice_trains_the_embedding_twice_and_leaves_plain_layers(trainer):
    made = trainer()
    kinds = [type(module) for module in made.model.modules()]
    weights = [made.model.get_input_embeddings().weight.detach().clone()]
    for _ in range(2):
        made.train()
        weights.append(made.model.get_input_embeddings().weight.detach().clone())
        assert [type(module) for module in made.model.modules()] == kinds
    assert not torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[1], weights[2])


def test_only_optimizers_that_update_entries_independently_train_a_trimmed_embedding(trainer):
    dependent = ("adafactor", "galore", "apollo", "8bit", "4bit", "lomo", "stable", "bnb", "grok", "schedule")
    assert not [name for name, other in product(ENTRYWISE, dependent) if other in name.value]
    for optim, expected in (("adamw_torch", TrimmedEmbedding), ("adafactor", nn.Embedding)):
        made, seen = trainer(optim=optim, max_steps=1), []
        embedding = made.model.get_input_embeddings()
        embedding.register_forward_hook(lambda layer, *_, seen=seen: seen.append(type(layer)))
        made.train()
        assert seen == [expected]


@pytest.mark.parametrize("trimmed", [True, False])
def test_operations_are_counted_as_the_trainer_counts_them(trainer, trimmed):
    made = trainer(trim_embedding=trimmed)
    tokens = []
    made.data_collator = lambda rows, collate=made.data_collator: tokens.append(collate(rows)) or tokens[-1]
    expected = [Trainer.floating_point_ops(made, {"input_ids": torch.zeros(4, 7)})]
    made.train()
    count = sum(batch["input_ids"].numel() for batch in tokens)
    assert made.state.total_flos == expected[0] // 28 * count
    assert made.floating_point_ops({"input_ids": torch.zeros(4, 7)}) == expected[0]


# bfloat16


def test_bf16_without_use_cpu_trains_on_a_cpu(trainer, monkeypatch):
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    made = trainer(bf16=True)
    assert made.args.device.type == "cpu"
    seen = []
    made.model.classifier.register_forward_hook(lambda layer, inputs, output: seen.append(output.dtype))
    made.train()
    assert seen and set(seen) == {torch.bfloat16}


@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize("used", [True, False])
def test_the_log_says_once_if_bf16_would_help_or_hurts(trainer, native, used, monkeypatch, caplog):
    capabilities = {"architecture": "x86_64", "avx512_bf16": native}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    caplog.set_level(logging.INFO, logger="sinkd")
    cpu.advise_on_bfloat16.cache_clear()
    for _ in range(2):
        trainer(bf16=used, use_cpu=True).train()
    assert caplog.text.count("1.5 times as fast") == (native and not used)
    assert caplog.text.count("more slowly") == (used and not native)
