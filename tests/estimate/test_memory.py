"""The estimate counts what autograd stores, adds up, and shrinks if a model is sharded."""

from dataclasses import replace
from functools import cache

import pytest
import torch
from benchmarks.estimate import CASES, DEFAULTS, estimated, measured
from torch.autograd.graph import saved_tensors_hooks
from transformers import PretrainedConfig

from memory import peak_bytes
from sinkd import Objective, SinkdError
from sinkd.cli.estimate import tabulate
from sinkd.cli.main import main
from sinkd.estimate.activations import trace
from sinkd.estimate.memory import Plan, cache_bytes, compares, estimate, needed
from sinkd.estimate.shape import CLASSES, read_shape, shape_of
from sinkd.losses.term import View
from small_families import family_config

# Activations: against a real model

ROWS, TOKENS, ANSWERS = 4, 64, 8


def family(name: str, dropout: float, **changes: object) -> PretrainedConfig:
    """A small config, with positions for all tokens."""
    if name == "t5-gated":
        return family("t5", dropout, feed_forward_proj="gated-gelu")
    rates = {
        "gpt2": ["resid_pdrop", "embd_pdrop", "attn_pdrop"],
        "gpt_neo": ["resid_dropout", "embed_dropout", "attention_dropout"],
        "t5": ["dropout_rate"],
    }.get(name, ["hidden_dropout_prob", "attention_probs_dropout_prob"])
    return family_config(name, max_position_embeddings=2 * TOKENS, **dict.fromkeys(rates, dropout), **changes)


def kept_bytes(config: PretrainedConfig, bf16: bool) -> int:
    """Bytes that autograd stores in a forward pass, without the model's weights: each storage once."""
    shape = shape_of(config)
    model = CLASSES[shape.kind].from_config(config).train()
    own = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    storages: dict[int, torch.UntypedStorage] = {}  # held, so that no address is used twice

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in own:
            storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    mask = torch.ones(ROWS, TOKENS, dtype=torch.long)
    mask[0, -5:] = 0  # a batch with padding
    batch = {"input_ids": torch.full((ROWS, TOKENS), 7), "attention_mask": mask}
    if shape.kind == "encoder-decoder":
        batch["decoder_input_ids"] = torch.full((ROWS, ANSWERS), 7)
    if shape.kind != "encoder":
        batch["use_cache"] = False
    with saved_tensors_hooks(keep, lambda tensor: tensor), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        output = model(**batch).logits
    assert output.requires_grad
    return sum(storage.nbytes() for storage in storages.values())


@pytest.mark.parametrize("bf16", [False, True], ids=["float32", "bf16"])
@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize("name", ["bert", "roberta", "gpt2", "gpt_neo", "llama", "t5", "t5-gated"])
def test_activations_equal_what_autograd_stores(name, dropout, bf16):
    config = family(name, dropout)
    plan = Plan(batch_size=ROWS, max_seq_length=TOKENS, answer_tokens=ANSWERS, bf16=bf16, device="cpu")
    (said,) = [part.passes for part in estimate(shape_of(config), plan) if part.name == "activations"]
    assert said == pytest.approx(kept_bytes(config, bf16), rel=0.001)


def test_a_gpu_keeps_a_byte_for_each_dropped_number_and_no_attention_matrix():
    units, pairs = ROWS * TOKENS * 64, ROWS * TOKENS**2
    shape = shape_of(family("bert", 0.1, hidden_size=64, intermediate_size=256, num_attention_heads=4))
    kept = trace(shape, ROWS, TOKENS, ANSWERS)
    # Korthikanti et al.: 16 numbers a unit and two masks of dropout; the padding mask; norms and normalisers
    assert kept.layers[1] == pytest.approx(4 * 16 * units + 2 * units + 4 * pairs, rel=0.01)
    assert trace(shape, ROWS, TOKENS, ANSWERS, gpu=False).layers[1] > kept.layers[1] * 1.5


# What is kept of weights

STUDENT = read_shape("77m", "--student")
TEACHER = read_shape("250m", "--teacher")


@cache
def parts(plan: Plan, teacher=None) -> dict[str, tuple[float, float]]:
    return {part.name: (part.passes, part.update) for part in estimate(STUDENT, plan, teacher)}


def part(name: str, plan: Plan, teacher=None) -> tuple[float, float]:
    return parts(plan, teacher).get(name, (0, 0))


def test_a_float32_model_under_adam_takes_sixteen_bytes_a_parameter():
    lines = ("parameters", "gradients", "optimiser states")
    assert sum(part(name, Plan())[1] for name in lines) == 16 * STUDENT.parameters


@pytest.mark.parametrize(("optimizer", "bytes_each"), [("adamw_torch", 8), ("adamw_bnb_8bit", 2), ("sgd", 0)])
def test_an_optimiser_keeps_its_states(optimizer, bytes_each):
    assert part("optimiser states", Plan(optimizer=optimizer)) == (bytes_each * STUDENT.parameters,) * 2


def test_adafactor_keeps_rows_and_columns():
    model = torch.nn.Linear(30, 20)
    shape = replace(STUDENT, matrices=tuple(tuple(p.shape) for p in model.parameters()))
    (states,) = [p.update for p in estimate(shape, Plan(optimizer="adafactor")) if p.name == "optimiser states"]
    assert states == 4 * (30 + 20 + 20)


def test_zero_takes_the_memory_of_its_paper():
    # Section 3.1 and figure 1: with K = 12 and N devices, 4 + 12/N, 2 + 14/N and 16/N bytes a parameter.
    lines = ("parameters", "gradients", "optimiser states")
    for stage, each in ((1, 4 + 12 / 64), (2, 2 + 14 / 64), (3, 16 / 64)):
        plan = Plan(sharding=f"zero{stage}", devices=64, bf16=True)
        assert sum(part(name, plan)[1] for name in lines) / STUDENT.parameters == pytest.approx(each)


def test_fsdp_shares_all_but_the_layers_at_work():
    plan = Plan(sharding="fsdp2", devices=8)
    assert part("parameters", plan)[0] == 4 * STUDENT.parameters / 8
    assert part("layers gathered", plan) == (4 * (STUDENT.outside + 2 * STUDENT.layer), 0)
    # and keeps gradients whole from one micro-batch to the next
    assert part("gradients", plan)[0] == 0
    assert part("gradients", replace(plan, gradient_accumulation_steps=2))[0] == 4 * STUDENT.parameters


def test_the_loss_of_a_vocabulary_stores_the_documented_memory():
    plan = Plan(batch_size=16, answer_tokens=8, terms=3, device="cpu")
    said, _ = part("logits and losses", plan)
    student = torch.randn(plan.batch_size * plan.answer_tokens, STUDENT.outputs, requires_grad=True)
    teacher = torch.randn_like(student)
    objective = Objective.parse("ce:1+kl:0.1+sinkhorn:1")
    labels = torch.zeros(len(student), dtype=torch.int64)
    held = peak_bytes(lambda: objective(View(student), View(teacher), {"labels": labels}).total.backward())
    assert said == pytest.approx(held + student.nbytes + teacher.nbytes, rel=0.15)


def test_ddp_keeps_the_gradients_twice():
    assert part("DDP's buckets", Plan(sharding="ddp", devices=2)) == (4 * STUDENT.parameters,) * 2


def test_checkpointing_keeps_less_and_a_longer_batch_more():
    plain = part("activations", Plan(max_seq_length=512))[0]
    assert part("activations", Plan(max_seq_length=512, checkpointing=True))[0] < plain / 5
    assert part("activations", Plan(max_seq_length=512, batch_size=32))[0] == pytest.approx(2 * plain, rel=1e-3)


def test_a_live_teacher_is_there_and_a_cached_one_is_not():
    live = Plan(live_teacher=True, teacher_dtype="bfloat16")
    assert part("teacher's parameters", live, TEACHER) == (2 * TEACHER.parameters,) * 2
    assert "teacher's parameters" not in parts(Plan(), TEACHER)
    assert (
        needed(estimate(STUDENT, live, TEACHER)) > needed(estimate(STUDENT, Plan(), TEACHER)) + 1.9 * TEACHER.parameters
    )


def test_semantic_keeps_the_embedding_of_a_cached_teacher():
    plan = Plan(**compares(Objective.parse("kl:1+semantic:1"), STUDENT, TEACHER))
    assert part("teacher's parameters", plan, TEACHER) == (4 * TEACHER.outputs * TEACHER.width,) * 2


def test_the_window_holds_the_points_of_all_micro_batches_and_devices():
    plan = Plan(batch_size=4, answer_tokens=8, gradient_accumulation_steps=2, devices=3, sharding="fsdp2")
    points = 4 * 8 * 2 * 3
    assert part("points of an update", plan, TEACHER) == (4 * (3 * points * 32128 + 3 * points**2), 0)
    assert "points of an update" not in parts(replace(plan, batchwise=False), TEACHER)


def test_a_window_of_one_micro_batch_holds_no_points_but_the_plan():
    assert part("points of an update", Plan(batch_size=2, answer_tokens=8), TEACHER) == (4 * 3 * 16**2, 0)


def test_terms_that_compare_layers_are_counted_and_attributions_refused():
    small, large = read_shape("22m", "--student"), read_shape("340m", "--teacher")
    hidden = compares(Objective.parse("kd+sinkhorn_hidden"), small, large)
    assert (hidden["batchwise"], hidden["sentence_layers"], hidden["hidden_states"]) == (False, 6, False)
    plan = Plan(batch_size=4, gradient_accumulation_steps=3, **compares(Objective.parse("kd+mgskd"), small, large))
    (found,) = [part.passes for part in estimate(small, plan, large) if part.name == "hidden states"]
    assert found == 4 * 4 * 128 * (3 * 25 * 1024 + 4 * 384)
    with pytest.raises(SinkdError, match=r"^saliency keeps the graph of a gradient"):
        compares(Objective.parse("kd+sinkhorn+saliency"), small, large)
    with pytest.raises(SinkdError, match="two stacks"):
        compares(Objective.parse("kl+sinkhorn_hidden"), STUDENT, TEACHER)


def test_cached_sentences_need_no_live_teacher(capsys):
    for objective, live in (("kd+sinkhorn_hidden", False), ("kd+mgskd", True)):
        assert main(["estimate", "--student", "22m", "--teacher", "340m", "--distill_loss", objective]) == 0
        assert ("teacher's parameters" in capsys.readouterr().out) == live


def test_the_need_is_the_larger_moment():
    parts = estimate(STUDENT, Plan(batch_size=1, max_seq_length=8))
    assert needed(parts) == sum(p.update for p in parts) > sum(p.passes for p in parts)


def test_a_cache_holds_a_vector_a_row_or_an_answer_token():
    encoder = read_shape("110m", "--student", labels=3)
    assert cache_bytes(encoder, Plan(), 1000) == 1000 * 3 * 4
    assert cache_bytes(STUDENT, Plan(answer_tokens=5), 1000, "bfloat16") == 1000 * 5 * 32128 * 2


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"batch_size": 0}, "--batch_size is 0"),
        ({"sharding": "zero3"}, "--devices above 1"),
        ({"sharding": "zero4", "devices": 2}, "sharding is one of"),
        ({"optimizer": "lion"}, "optimizer one of"),
    ],
)
def test_an_impossible_plan_is_refused(wrong, sentence):
    with pytest.raises(SinkdError, match=sentence):
        Plan(**wrong)


# The command


def test_the_command_prints_a_line_a_part_and_their_totals(capsys):
    flags = ["--devices", "8", "--sharding", "fsdp2", "--bf16", "--gradient_checkpointing"]
    assert main(["estimate", "--teacher", "250m", "--student", "77m", *flags]) == 0
    title, head, *rows, total, note, disk, alone = capsys.readouterr().out.splitlines()
    assert (title, head.split()) == ("Memory on each of 8 devices, MiB", ["passes", "update"])
    names = [part.name for part in estimate(STUDENT, PLAN, TEACHER)]
    assert [row[: len(name)] for row, name in zip(rows, names, strict=True)] == names
    passes, update = map(float, total.split()[1:])
    assert note.startswith(f"needed: {max(passes, update):,.1f} MiB; student 77M parameters")
    assert disk.startswith("teacher's cache on disk: ") and alone.startswith("teacher alone, answering: 944.4 MiB")


PLAN = Plan(devices=8, sharding="fsdp2", bf16=True, checkpointing=True)


def test_the_table_adds_up():
    *rows, total = tabulate(STUDENT, PLAN, TEACHER).rows
    for moment in (1, 2):
        assert sum(float(row[moment] or 0) for row in rows) == pytest.approx(float(total[moment]), abs=0.3)


# Against a process


@pytest.mark.slow
def test_a_live_teacher_and_its_student_take_the_estimated_memory():
    case = DEFAULTS | CASES["4 x 256 from live 22m, kd+sinkhorn"]
    assert estimated(case) == pytest.approx(measured(case), rel=0.15)
