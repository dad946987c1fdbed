"""Attributions, relations and hidden states in the same trainer: cached or live, for any cut, and resumed."""

import copy
import json
import logging
import shutil

import pytest
import torch
import transformers
from safetensors.torch import load_file

from sinkd import SinkdError
from sinkd.cli.main import main
from sinkd.losses.objective import Objective
from sinkd.tasks import Collator, encode, load_task
from sinkd.training.arguments import DistillationArguments
from sinkd.training.distillation import DistillationTrainer
from sinkd.training.settings import resolve_settings
from small_families import family_model, family_tokenizer, write_family
from training.test_gradient_cache import BOUND, cut, cuts_by_two, distance, job, models  # noqa: F401

STILL = ["--config_overrides", "hidden_dropout_prob=0,attention_probs_dropout_prob=0"]
OBJECTIVES = {
    "integrated_saliency": ["kd_anneal+integrated_saliency", "--ig_steps", "3", "--normalization_type", "1"],
    "only_mgskd": ["kd", "--only_mgskd", "--mgskd_heads", "4"],
    "sinkhorn_hidden": ["kd+sinkhorn_hidden", "--hidden_layers", "final"],
    "all": ["kd+sinkhorn+saliency+mgskd+sinkhorn_hidden", "--mgskd_heads", "4", "--hidden_pooling", "cls"],
}


def distill(world, taught, folder, *more) -> list[dict]:
    """Train for an epoch; the log's lines about training."""
    paths = ["--teacher_path", taught, "--student_path", world.student]
    argv = world.flags(folder, *paths, "--logging_steps", 5, "--max_train_rows", 64, "--distill_loss", *more)
    assert main(["distill", *argv]) == 0
    state = json.loads((folder / "checkpoint-4" / "trainer_state.json").read_text())
    return [log for log in state["log_history"] if "loss" in log]


def resumed(world, taught, folder, *flags) -> tuple:
    """The folders of a run, and of the same run from its checkpoint-2 on."""
    whole, again = folder / "whole", folder / "again"
    distill(world, taught, whole, *flags, "--save_steps", 2)
    shutil.copytree(whole, again)
    shutil.rmtree(again / "checkpoint-4")
    for name in ("metrics.json", "model.safetensors"):
        (again / name).unlink()
    distill(world, taught, again, *flags, "--save_steps", 2)
    return whole, again


@pytest.mark.parametrize("name", OBJECTIVES)
def test_with_the_cache_and_without_it_is_one_run(world, taught, tmp_path, name):
    flags = [*OBJECTIVES[name], *STILL, "--teacher_cache_dir", tmp_path / "kept", "--logging_steps", 1]
    runs = []
    for cache in ("auto", "off"):
        history = distill(world, taught, tmp_path / cache, *flags, "--teacher_cache", cache)
        runs.append([log["loss"] for log in history])
    assert len(runs[0]) == 4 and runs[0] == pytest.approx(runs[1], rel=1e-5)
    weights = [load_file(tmp_path / cache / "model.safetensors") for cache in ("auto", "off")]
    for key, value in weights[0].items():
        torch.testing.assert_close(value, weights[1][key], rtol=1e-3, atol=1e-4)


def test_every_part_of_a_sum_is_logged_and_learned_from(world, taught, tmp_path, caplog):
    caplog.set_level(logging.WARNING, "sinkd")
    history = distill(world, taught, tmp_path / "run", *OBJECTIVES["all"], "--logging_steps", 1)
    log = history[0]
    parts = {"ce", "kd", "sinkhorn", "saliency", "mgskd/pairs", "mgskd/triplets-1", "mgskd/triplets-2"}
    assert {f"parts/{part}" for part in parts | {"sinkhorn_hidden"}} <= log.keys()
    assert all(log[f"parts/{part}"] > 0 for part in parts)
    assert 0 < log["sinkhorn_hidden/matched"] < 1
    assert "parts/mgskd/sentences" not in log, "two pairs of layers leave none for sentences"
    said = [record.message for record in caplog.records if "second derivative" in record.message]
    assert said == ["the student's attention 'sdpa' has no second derivative: saliency trains it with 'eager'"]


def test_the_cache_stores_small_features_and_the_teacher_answers_the_rest(world, taught, tmp_path):
    flags = [*OBJECTIVES["all"], "--teacher_cache_dir", tmp_path, "--teacher_cache_dtype", "float16"]
    distill(world, taught, tmp_path / "run", *flags)
    (store,) = (folder for folder in tmp_path.iterdir() if (folder / "00000.lock").exists())
    names = {folder.name for folder in store.iterdir() if folder.is_dir()}
    assert names == {"attribution-1-2-768.float16"}, "what the live teacher's pass gives anyway is not kept"


def test_projectors_resume_with_the_run_and_stay_out_of_the_model(world, taught, tmp_path):
    whole, again = resumed(world, taught, tmp_path, *OBJECTIVES["sinkhorn_hidden"])
    files = ["model.safetensors", "checkpoint-4/objective.safetensors"]
    assert all((whole / file).read_bytes() == (again / file).read_bytes() for file in files)
    early, late = (load_file(whole / f"checkpoint-{step}" / "objective.safetensors") for step in (2, 4))
    assert {tuple(weight.shape) for weight in late.values()} == {(32, 16)}
    assert all((early[name] - late[name]).norm() > 0 for name in late)
    assert not any("projector" in name for name in load_file(whole / "model.safetensors"))


@pytest.mark.parametrize("name", ["integrated_saliency", "all"])
def test_a_resumed_run_with_dropout_ends_with_the_same_weights(world, taught, tmp_path, name):
    more = ["--gradient_accumulation_steps", "2", "--per_gpu_batch_size", "8"]
    whole, again = resumed(world, taught, tmp_path, *OBJECTIVES[name], *more)
    assert (whole / "model.safetensors").read_bytes() == (again / "model.safetensors").read_bytes()


# Ten steps through gradients of gradients: what rounding grows to, and far below any wrong cut.
LOOSER = 10 * BOUND
FEATURES = "ce:0.3+kd:0.7+saliency:1+mgskd:0.1+sinkhorn_hidden:1+infonce:1"


@pytest.mark.parametrize(
    ("objective", "deep"), [(FEATURES, True), ("kd:1+integrated_saliency:1+sinkhorn_hidden:1", False)]
)
def test_micro_batches_give_the_loss_of_the_whole(cut, models, objective, deep):  # noqa: F811
    more = ["--distill_loss", objective, "--mgskd_heads", 4, "--ig_steps", 2, "--max_train_rows", 129]
    # two layers on both sides: embeddings and first layers by tokens, the last by sentences
    more += ["--student_path", models[1], "--curvature_lr", 0.02] if deep else ["--curvature_lr", 0.02]
    whole = cut(32, 1, *more)
    if deep:
        assert "parts/mgskd/sentences" in whole["losses"][0]
    parts = cut(8, 4, *more)
    assert parts["losses"][0]["loss"] == pytest.approx(whole["losses"][0]["loss"], rel=1e-6)
    assert distance(parts, whole) < LOOSER
    assert distance(cut(8, 4, *more, "--transport_scope", "micro"), whole) > 30 * LOOSER


@pytest.mark.slow
def test_processes_give_the_loss_of_one(cut, cuts_by_two, models):  # noqa: F811
    more = ["--mgskd_heads", 4, "--ig_steps", 2, "--max_train_rows", 129]
    deep = [*more, "--distill_loss", FEATURES, "--student_path", models[1]]
    # a narrower student's hidden states go through projectors, which are learned
    narrow = [*more, "--distill_loss", "kd:1+integrated_saliency:1+sinkhorn_hidden:1", "--curvature_lr", 0.02]
    for found, flags in zip(cuts_by_two([[8, 2, *deep], [8, 2, *narrow]]), (deep, narrow), strict=True):
        assert distance(found, cut(32, 1, *flags)) < LOOSER
        assert bool(len(found["moved_own"])) == (flags is narrow)


FAMILIES = ["bert", "distilbert", "roberta", "modernbert"]
WORDS = [f"w{n}" for n in range(11)]


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    """A table of three classes, and one of scores."""
    folder = tmp_path_factory.mktemp("tables")
    texts = [" ".join(WORDS[(i * k) % 11] for k in range(1, 3 + i % 6)) for i in range(24)]
    for name, label in (("classes", lambda i: "abc"[i % 3]), ("scores", lambda i: f"{i % 7 / 2 + 0.1}")):
        lines = [f"{text},{label(i)}" for i, text in enumerate(texts)]
        (folder / f"{name}.csv").write_text("\n".join(["text,label", *lines]) + "\n")
    return folder


def on_table(folder, kind: str, family: str, tmp_path, *more) -> list[str]:
    tokenizer, labels = family_tokenizer(family, WORDS), 3 if kind == "classes" else 1
    teacher = write_family(tmp_path / "teacher", family_model(family, num_labels=labels), tokenizer)
    small = family_model(family, seed=1, hidden_size=8, num_hidden_layers=2, num_labels=labels)
    student = write_family(tmp_path / "student", small, tokenizer)
    argv = ["distill", "--teacher_path", teacher, "--student_path", student, "--output_dir", tmp_path / "run"]
    argv += ["--train_file", folder / f"{kind}.csv", "--dev_file", folder / f"{kind}.csv", "--text_columns", "text"]
    argv += ["--label_column", "label", "--num_train_epochs", 1, "--batch_size", 8, "--mgskd_heads", 4]
    return [str(part) for part in (*argv, *more)]


@pytest.mark.slow
@pytest.mark.parametrize(("family", "kind"), [*((family, "classes") for family in FAMILIES), ("bert", "scores")])
def test_every_objective_trains_encoders_of_every_family(tables, tmp_path, family, kind):
    terms = "kd+sinkhorn+integrated_saliency+mgskd+sinkhorn_hidden"
    argv = on_table(tables, kind, family, tmp_path, "--distill_loss", terms, "--ig_steps", 2, "--logging_steps", 1)
    assert main(argv) == 0
    state = json.loads((tmp_path / "run" / "checkpoint-3" / "trainer_state.json").read_text())
    logs = [log for log in state["log_history"] if "loss" in log]
    parts = [key for key in logs[0] if key.startswith("parts/")]
    assert len(parts) == 9 and all(log[part] > 0 for log in logs for part in parts)


@pytest.mark.slow
def test_mixed_precision_trains_every_objective(tables, tmp_path):
    """With the numbers of float32, to what bfloat16's 8 digits leave of them."""
    terms = "kd+saliency+integrated_saliency+mgskd+sinkhorn_hidden"
    first = []
    for precision in (["--bf16"], []):
        folder = tmp_path / f"run{len(precision)}"
        more = ["--distill_loss", terms, "--ig_steps", 2, "--logging_steps", 1, "--use_cpu", *STILL, *precision]
        assert main([*on_table(tables, "classes", "bert", tmp_path, *more), "--output_dir", str(folder)]) == 0
        weights = load_file(folder / "model.safetensors")
        assert all(weight.isfinite().all() for weight in weights.values())
        state = json.loads((folder / "checkpoint-3" / "trainer_state.json").read_text())
        first.append({key: value for key, value in state["log_history"][0].items() if key.startswith("parts/")})
    assert {"parts/saliency", "parts/integrated_saliency", "parts/sinkhorn_hidden"} <= first[0].keys()
    assert first[0] == pytest.approx(first[1], rel=0.05)


def test_features_cached_beforehand_are_those_that_training_needs(world, taught, tmp_path, capsys):
    flags = ["--teacher_path", taught, "--student_path", world.student, "--teacher_cache_dir", tmp_path / "kept"]
    flags += ["--distill_loss", "kd+sinkhorn+saliency+sinkhorn_hidden", "--hidden_pooling", "cls"]
    assert main(["cache-teacher", *world.flags(tmp_path / "unused", *flags)]) == 0
    assert "attribution-1-2-768, logits, teacher-cls-2" in capsys.readouterr().out
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "kept").rglob("index.json")}
    assert len(times) == 3
    assert main(["distill", *world.flags(tmp_path / "run", *flags)]) == 0
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "kept").rglob("index.json")} == times


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["kd+mgskd"], "a width of 16 cannot be split into 64 heads"),
        (["mgskd", "--mgskd_heads", "4", "--matching_strategy", "triple"], "the teacher has 2 layers, the student 1"),
    ],
)
def test_impossible_settings_give_one_sentence(world, taught, tmp_path, capsys, flags, message):
    paths = ["--teacher_path", str(taught), "--student_path", str(world.student), "--distill_loss"]
    assert main(["distill", *world.flags(tmp_path / "run", *paths, *flags)]) == 2
    shown = capsys.readouterr().err
    assert message in shown.splitlines()[-1]


@pytest.mark.parametrize(
    ("flag", "value", "why"),
    [
        ("torch_compile", True, "a compiled model has no second derivative"),
        ("gradient_checkpointing", True, r"a checkpointed layer gives it only to backward\(\)"),
        ("fsdp", "full_shard", "a sharded model gathers its weights for one backward pass alone"),
        ("deepspeed", "zero.json", "DeepSpeed's engine takes one backward pass alone"),
    ],
)
@pytest.mark.parametrize("objective", ["kd+saliency", "ce+integrated_saliency"])
def test_engines_of_one_backward_pass_are_refused(taught, tmp_path, objective, flag, value, why):
    args = DistillationArguments(output_dir=str(tmp_path), use_cpu=True)
    setattr(args, flag, value)  # past the Trainer's own checks, which want accelerators and DeepSpeed
    model = transformers.AutoModelForSequenceClassification.from_pretrained(taught)
    with pytest.raises(SinkdError, match=f"^saliency trains on .*, and {why}; leave out --{flag}$"):
        DistillationTrainer(objective=objective, teacher=copy.deepcopy(model), model=model, args=args)


@pytest.mark.parametrize("objective", ["kd+sinkhorn", "kd+sinkhorn_hidden"])
def test_deepspeed_is_refused_for_objectives_with_own_parameters(world, taught, tmp_path, objective):
    args = DistillationArguments(output_dir=str(tmp_path), use_cpu=True, learnable_curvature=objective == "kd+sinkhorn")
    args.deepspeed = "zero.json"
    load = transformers.AutoModelForSequenceClassification.from_pretrained
    name = objective.removeprefix("kd+")
    with pytest.raises(SinkdError, match=f"^DeepSpeed trains .* of the student alone, and {name} has its own"):
        DistillationTrainer(objective=objective, teacher=load(taught), model=load(world.student), args=args)


def test_projectors_depend_on_the_seed_alone(world, taught, tmp_path):
    """Processes do not exchange the objective's weights, and the caller may have drawn random numbers before."""
    load = transformers.AutoModelForSequenceClassification.from_pretrained
    drawn = []
    for before, seed in ((1, 5), (2, 5), (2, 6)):
        args = DistillationArguments(
            output_dir=str(tmp_path), use_cpu=True, seed=seed, eval_strategy="no", report_to=[]
        )
        torch.manual_seed(before)
        objective = args.parse_objective("kd+sinkhorn_hidden")
        DistillationTrainer(objective=objective, teacher=load(taught), model=load(world.student), args=args)
        drawn.append(torch.cat([parameter.detach().flatten() for parameter in objective.parameters()]))
    assert len(drawn[0]) == 32 * 16
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[1], drawn[2])


def test_training_rows_without_labels_are_one_sentence(world, taught, tmp_path):
    load = transformers.AutoModelForSequenceClassification.from_pretrained
    args = DistillationArguments(output_dir=str(tmp_path), use_cpu=True, eval_strategy="no", report_to=[])
    tokenizer = transformers.AutoTokenizer.from_pretrained(taught)
    rows = encode(load_task("cola", world.data).read("train"), tokenizer, 32).remove_columns("labels")
    for terms in ("ce", "ce:1+integrated_saliency:1"):
        trainer = DistillationTrainer(
            objective=Objective.parse(terms, integrated_saliency={"ig_steps": 2}),
            teacher=load(taught),
            model=load(world.student),
            args=args,
            train_dataset=rows,
            data_collator=Collator(tokenizer),
        )
        with pytest.raises(SinkdError, match=r"hard labels.*; give (training )?rows with labels"):
            trainer.train()


@pytest.mark.parametrize(
    ("flags", "meaning"),
    [
        ("kd+saliency", "ce:0.1+kd:0.9+saliency:0.8"),
        ("kd_anneal+saliency", "ce:0.1+kd_anneal:0.9+saliency:0.8"),
        ("kd+integrated_saliency", "ce:0.1+kd:0.9+integrated_saliency:0.8"),
        ("kd+mgskd --mgskd_w 2", "ce:0.1+kd:0.9+mgskd:2"),
        ("mgskd", "ce:1+mgskd:1"),
        ("kd --only_mgskd --mgskd_w 2", "mgskd:1"),
        ("kd+sinkhorn+saliency+mgskd", "ce:0.1+kd:0.9+sinkhorn:0.8+saliency:0.8+mgskd:1"),
        ("kd+sinkhorn_hidden", "ce:0.1+kd:0.9+sinkhorn_hidden:0.8"),
    ],
)
def test_flags_weigh_terms_as_published(flags, meaning):
    argv = ["--alpha", "0.9", "--beta", "0.8", "--distill_loss", *flags.split()]
    assert str(resolve_settings(DistillationArguments, argv, "test").parse_objective()) == meaning


def test_saliency_uses_one_step_for_any_ig_steps():
    args = resolve_settings(DistillationArguments, ["--distill_loss", "saliency", "--ig_steps", "3"], "test")
    assert args.parse_objective().terms["saliency"].student_map.steps == 1


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["mgskd", "--matching_strategy", "emb+last"], "invalid choice: 'emb+last'"),
        (["mgskd", "--mgskd_heads", "0"], "heads is 0; it must be at least 1"),
        (["mgskd", "--mgskd_w", "-1"], "mgskd_w is -1.0; it must be a number from 0 up"),
        (["saliency", "--ig_steps", "0"], "ig_steps is 0"),
        (["integrated_saliency", "--ig_steps", "0"], "ig_steps is 0"),
        (["kd", "--sinkhorn_cost", "l3"], "cost is 'l3'"),
        (["sinkhorn_hidden", "--hidden_cost", "l3"], "cost is 'l3'"),
        (["sinkhorn_hidden", "--hidden_layers", "emb+last"], "invalid choice: 'emb+last'"),
    ],
)
def test_flags_out_of_range_are_refused_when_they_are_read(flags, message):
    with pytest.raises(SinkdError) as caught:
        resolve_settings(DistillationArguments, ["--distill_loss", *flags], "test").parse_objective()
    assert message in str(caught.value)
