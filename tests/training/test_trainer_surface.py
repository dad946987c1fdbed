"""What `transformers.Trainer` accepts works in a `DistillationTrainer`, or is refused by name before training."""

import copy

import numpy as np
import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file
from torch import nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertTokenizer,
    DataCollatorWithPadding,
    TrainingArguments,
    set_seed,
)
from transformers.modeling_outputs import BaseModelOutput, SequenceClassifierOutput

from sinkd import DistillationArguments, DistillationTrainer, SinkdError
from sinkd.tasks import Collator

TOKENIZER = BertTokenizer(vocab={word: i for i, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *"abcdefgh"])})
TEXTS = ["a b c d e f g", "a", "b c d e", "c a", "d e f", "h"]
LABELS = [0, 1, 1, 0, 1, 0]
ENCODED = [{**TOKENIZER(text), "labels": label} for text, label in zip(TEXTS, LABELS, strict=True)]
NAMED = Dataset.from_list(ENCODED)
UNUSED = NAMED.add_column("text", TEXTS)
TENSORS = [{name: torch.tensor(value) for name, value in row.items()} for row in ENCODED]


class Streamed(torch.utils.data.IterableDataset):
    def __iter__(self):
        return iter(ENCODED)


@pytest.fixture
def model():
    set_seed(0)
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    return BertForSequenceClassification(BertConfig(vocab_size=len(TOKENIZER), initializer_range=0.5, **sizes))


@pytest.fixture
def trainer(model, tmp_path):
    def trainer(rows=NAMED, student=model, teacher="copy", objective="kd", flags=(), **keywords) -> DistillationTrainer:
        common = {"max_steps": 1, "per_device_eval_batch_size": 2, "eval_strategy": "no", "save_strategy": "no"}
        common |= {"report_to": [], "disable_tqdm": True, "output_dir": str(tmp_path / "out"), **dict(flags)}
        keywords = {
            "args": DistillationArguments(**common),
            "data_collator": DataCollatorWithPadding(TOKENIZER),
        } | keywords
        teacher = copy.deepcopy(model) if teacher == "copy" else teacher
        return DistillationTrainer(student, teacher=teacher, objective=objective, train_dataset=rows, **keywords)

    return trainer


def share(prediction):
    return {"share": float((prediction.predictions.argmax(-1) == prediction.label_ids).mean())}


KINDS = {
    "labels": (NAMED, {}),
    "label": (NAMED.rename_column("labels", "label"), {}),
    "sorted by length": (NAMED.add_column("length", list(map(len, NAMED["input_ids"]))), {}),
    "other columns": (UNUSED, {"flags": {"remove_unused_columns": True}}),
    "list": (ENCODED, {}),
    "list with other columns": (list(UNUSED), {"flags": {"remove_unused_columns": True}}),
    "torch data set": (torch.utils.data.Subset(TENSORS, range(6)), {}),
    "int32": ([{**row, "labels": np.int32(row["labels"])} for row in ENCODED], {}),
    "uint8": ([{**row, "labels": np.uint8(row["labels"])} for row in ENCODED], {}),
    "sinkd's collator": (NAMED.rename_column("labels", "label"), {"data_collator": Collator(TOKENIZER)}),
    "stream": (Streamed(), {}),
    "stream of rows": (NAMED.to_iterable_dataset(), {}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_rows_of_every_kind_are_trained_on_and_answered_in_their_order(kind, trainer, model):
    rows, keywords = KINDS[kind]
    made = trainer(NAMED if "stream" in kind else rows, compute_metrics=share, **keywords)
    made.train()
    alone = [model.eval()(**TOKENIZER(text, return_tensors="pt")).logits[0] for text in TEXTS]
    expected = torch.stack(alone).detach().numpy()
    correct = float((expected.argmax(-1) == LABELS).mean())
    found = made.predict(rows)
    np.testing.assert_allclose(found.predictions, expected, atol=1e-5)
    assert found.label_ids.tolist() == LABELS
    assert found.metrics["test_share"] == correct
    evaluated = made.evaluate(rows)
    assert evaluated["eval_share"] == correct
    loss = nn.functional.cross_entropy(torch.from_numpy(expected), torch.tensor(LABELS))
    assert evaluated["eval_loss"] == pytest.approx(float(loss), abs=1e-5)


def test_several_dev_sets_and_inputs_are_reported_as_the_trainer_does(trainer):
    seen = []
    rows = KINDS["sorted by length"][0]
    made = trainer(compute_metrics=lambda p: seen.append(p) or {}, flags={"include_for_metrics": ["inputs", "loss"]})
    assert {"eval_a_loss", "eval_b_loss"} <= made.evaluate({"a": rows, "b": NAMED}).keys()
    assert [[i for i in row if i > 0] for row in seen[0].inputs] == NAMED["input_ids"][:]


class Answering(nn.Module):
    def __init__(self, form):
        super().__init__()
        self.embedding, self.form = nn.EmbeddingBag(len(TOKENIZER), 2), form

    def forward(self, input_ids, attention_mask=None):  # and no segments, which the rows have
        return self.form(self.embedding(input_ids))


FORMS = {
    "dict": lambda logits: {"loss": None, "logits": logits},
    "tuple": lambda logits: (logits, "more"),
    "tensor": lambda logits: logits,
    "output": lambda logits: SequenceClassifierOutput(logits=logits),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_teacher_and_a_student_return_logits_in_any_form(form, trainer):
    teacher, student = Answering(FORMS[form]), Answering(FORMS[form])
    made = trainer(teacher=teacher, student=student)
    made.train()
    batch = made._prepare_inputs(DataCollatorWithPadding(TOKENIZER)(ENCODED[:2]))
    assert torch.equal(made.teacher_view(batch).logits, teacher.embedding(batch["input_ids"]))
    assert made.predict(NAMED).predictions.shape == (6, 2)


EACH_EPOCH = {"max_steps": -1, "num_train_epochs": 3, "eval_strategy": "epoch", "save_strategy": "epoch"}


@pytest.mark.parametrize("greater", [True, False])
def test_the_best_model_by_a_programs_own_score_is_loaded_at_the_end(greater, trainer, tmp_path):
    scores = iter((1.0, 3.0, 2.0) if greater else (3.0, 1.0, 2.0))
    flags = {"load_best_model_at_end": True, "metric_for_best_model": "size", "greater_is_better": greater}
    made = trainer(flags=EACH_EPOCH | flags, eval_dataset=NAMED, compute_metrics=lambda p: {"size": next(scores)})
    made.train()
    best = load_file(tmp_path / "out" / "checkpoint-2" / "model.safetensors")
    last = load_file(tmp_path / "out" / "checkpoint-3" / "model.safetensors")
    weight = "classifier.weight"
    assert torch.equal(made.model.state_dict()[weight].cpu(), best[weight])
    assert not torch.equal(last[weight], best[weight])


def test_a_program_resumes_from_the_newest_checkpoint_that_is_whole(trainer, model, tmp_path, caplog):
    flags = EACH_EPOCH | {"eval_strategy": "no"}
    trainer(flags=flags, student=copy.deepcopy(model)).train()
    whole = (tmp_path / "out" / "checkpoint-3" / "model.safetensors").read_bytes()
    (tmp_path / "out" / "checkpoint-3" / "optimizer.pt").write_bytes(b"half")
    trainer(flags=flags, student=copy.deepcopy(model)).train(resume_from_checkpoint=True)
    assert "checkpoint-3/optimizer.pt is not as it was written" in caplog.text
    assert (tmp_path / "out" / "checkpoint-3" / "model.safetensors").read_bytes() == whole


def test_a_score_that_an_evaluation_lacks_is_refused_with_those_it_has(trainer):
    made = trainer(flags=EACH_EPOCH | {"metric_for_best_model": "f1"}, eval_dataset=NAMED, compute_metrics=share)
    with pytest.raises(SinkdError, match=r"metric_for_best_model is f1, and an evaluation gives loss, share; choose"):
        made.train()


@pytest.mark.parametrize(("metric", "mode"), [("share", "max"), ("eval_loss", "min"), (None, "min")])
def test_a_schedule_that_follows_a_score_knows_its_direction(metric, mode, trainer):
    flags = {"lr_scheduler_type": "reduce_lr_on_plateau", "metric_for_best_model": metric}
    made = trainer(flags=EACH_EPOCH | flags, eval_dataset=NAMED, compute_metrics=share)
    made.train()
    assert made.lr_scheduler.mode == mode


class Sharing(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model


FLOATS = NAMED.cast_column("labels", NAMED.features["labels"].__class__("float32"))
REFUSED = {
    "one object": ({"teacher": "itself"}, "teacher and student share parameters, and a teacher is frozen"),
    "a part of it": ({"teacher": "part"}, "teacher and student share parameters, and a teacher is frozen"),
    "plain arguments": ({"args": TrainingArguments(use_cpu=True)}, "of the type TrainingArguments; give Distillation"),
    "no arguments": ({"args": None}, "of the type NoneType; give DistillationArguments"),
    "a loss": (
        {"compute_loss_func": len},
        "compute_loss_func is not used here; leave it out: the objective is the loss",
    ),
    "a maker": ({"model_init": len}, "model_init is not used here; leave it out: give model"),
    "a stream": ({"rows": Streamed()}, "train_dataset is of the type Streamed, whose rows have no numbers"),
    "a stream of rows": ({"rows": NAMED.to_iterable_dataset()}, "train_dataset is of the type IterableDataset"),
    "fractions": ({"rows": FLOATS, "objective": "ce"}, r"labels are torch\.float32 and logits of 2 classes"),
    "one-hot": (
        {"rows": [{**row, "labels": [0, 1]} for row in ENCODED], "objective": "ce"},
        r"labels have the shape \(6, 2\) and logits \(6, 2\); give one label a row",
    ),
    "no logits": (
        {"teacher": Answering(lambda z: BaseModelOutput(z))},
        "returned BaseModelOutput with last_hidden_state",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_served_is_refused_by_name(case, trainer, model):
    keywords, message = REFUSED[case]
    given = {"itself": model, "part": Sharing(model.bert)}
    if isinstance(keywords.get("teacher"), str):
        keywords = {"teacher": given[keywords["teacher"]]}
    with pytest.raises(SinkdError, match=message):
        trainer(**keywords).train()
