"""Training steps on a GPU wait for nothing; on a CPU the meta device, which has no values, stands in for it."""

import warnings
from types import SimpleNamespace

import pytest
import torch
import transformers
from datasets import Dataset
from transformers import BertConfig, BertForSequenceClassification, TrainerCallback

from sinkd.losses.feature import Stack
from sinkd.losses.mean_view import MeanView
from sinkd.losses.objective import Objective
from sinkd.models.forward import observe
from sinkd.training.arguments import DistillationArguments
from sinkd.training.distillation import DistillationTrainer
from sinkd.training.gpu import choose_for_gpu, static_masks, without_full_mask
from sinkd.training.gradient_cache import GradientCache

OBJECTIVES = ["kd+sinkhorn", "kl+sinkhorn_hidden", "kd+mgskd", "integrated_saliency", "js+infonce"]
ROWS, TOKENS = 8, 16


def encoder(layers, attention="sdpa"):
    sizes = {"vocab_size": 100, "hidden_size": 32, "intermediate_size": 32, "num_attention_heads": 2, "num_labels": 3}
    return BertForSequenceClassification(
        BertConfig(**sizes, num_hidden_layers=layers, attn_implementation=attention)
    ).train()


def batch_of(rows):
    mask = torch.ones(rows, TOKENS, dtype=torch.int64)
    mask[::2, -3:] = 0
    ids = torch.randint(100, (rows, TOKENS))
    return {"input_ids": ids, "attention_mask": mask, "labels": torch.randint(3, (rows,))}


def parsed(text):
    return Objective.parse(
        text, mgskd={"heads": 2}, integrated_saliency={"ig_steps": 2}, sinkhorn={"learnable_curvature": True}
    )


@pytest.mark.parametrize("micro_batches", [1, 2])
@pytest.mark.parametrize("text", OBJECTIVES)
def test_a_step_reads_no_value(text, micro_batches, monkeypatch):
    """Reading a value of a meta tensor is an error."""
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda device=None: False)  # it does not know the meta device
    attention = "eager" if "saliency" in text else "sdpa"
    with torch.device("meta"):
        student, teacher = encoder(2, attention), encoder(4, attention).eval().requires_grad_(False)
        batches = [batch_of(ROWS) for _ in range(micro_batches)]
    objective = parsed(text)
    if objective.compares_layers:
        objective.bind(Stack(2, 32), Stack(4, 32))
    objective.to("meta")

    def answers(batch):
        with torch.no_grad():
            view = observe(teacher, batch, objective.teacher_needs)
        return view if "saliency" in text else MeanView([view, view], [0.25, 0.75])

    cache = GradientCache(objective, batches, lambda batch, features: observe(student, batch, features), answers)
    with static_masks():
        for _ in batches:
            cache.step()[0].total.backward()
    assert all(parameter.grad is not None for parameter in student.bert.encoder.parameters())
    with pytest.raises(RuntimeError, match="meta tensors"):
        student(batches[0]["input_ids"], batches[0]["attention_mask"])  # looks whether there is padding


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_masks_that_are_made_without_looking_mask_the_same(attention):
    model, batch = encoder(1, attention).eval(), batch_of(ROWS)
    del batch["labels"]
    full = {**batch, "attention_mask": torch.ones_like(batch["attention_mask"])}
    assert without_full_mask(full).keys() == {"input_ids"} and without_full_mask(batch).keys() == batch.keys()
    for inputs, same in ((batch, batch), (full, without_full_mask(full))):
        expected = model(**inputs).logits
        with static_masks():
            torch.testing.assert_close(model(**same).logits, expected)


@pytest.mark.parametrize(
    ("given", "chosen"),
    [({}, (True, 2)), ({"bf16": False, "dataloader_num_workers": 0}, (False, 0)), ({"use_cpu": True}, (False, 0))],
)
def test_a_gpu_gives_the_defaults(given, chosen, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: True)
    args = SimpleNamespace(**{"bf16": None, "dataloader_num_workers": None, "fp16": False, "use_cpu": False, **given})
    choose_for_gpu(args)
    assert (args.bf16, args.dataloader_num_workers) == chosen


class CountWaits(TrainerCallback):
    """Warns of each wait for the GPU between two steps, of which the last ends with a wait of its own."""

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == 3:
            torch.cuda.set_sync_debug_mode("warn")
        if state.global_step == 13:
            torch.ones((), device="cuda").item()
            torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
@pytest.mark.parametrize("micro_batches", [1, 2])
@pytest.mark.parametrize("text", OBJECTIVES)
def test_a_trainer_waits_for_the_gpu_only_to_log(text, micro_batches, tmp_path):
    torch.manual_seed(0)
    rows = Dataset.from_dict({name: value.numpy() for name, value in batch_of(16 * ROWS * micro_batches).items()})
    args = DistillationArguments(
        output_dir=str(tmp_path),
        teacher_cache_dir=str(tmp_path),
        per_device_train_batch_size=ROWS,
        gradient_accumulation_steps=micro_batches,
        num_train_epochs=1,
        eval_strategy="no",
        save_strategy="no",
        report_to="none",
        logging_steps=100,
        quiet=True,
    )
    trainer = DistillationTrainer(
        model=encoder(2),
        teacher=encoder(4),
        objective=parsed(text),
        args=args,
        train_dataset=rows.add_column("length", [TOKENS] * len(rows)),
        data_collator=transformers.default_data_collator,
    )
    trainer.add_callback(CountWaits())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer.train()
    waits = [f"{each.filename}:{each.lineno}" for each in caught if "synchronizing CUDA" in str(each.message)]
    assert len(waits) == 1, waits  # the callback's own
