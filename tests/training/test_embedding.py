"""Training only the rows of an embedding that the text uses gives what training all of them gives."""

import numpy as np
import pytest
import torch
from torch import nn
from transformers import AutoModelForSequenceClassification, BertConfig, BertForSequenceClassification

from sinkd import DistillationArguments
from sinkd.tasks import load_task
from sinkd.training.embedding import UsedRows, restore, trim
from sinkd.training.parser import parse_arguments
from sinkd.training.run import distill


class Small(nn.Module):
    """The least that `trim` takes for a model."""

    def __init__(self, **options):
        super().__init__()
        torch.manual_seed(0)
        self.words = nn.Embedding(10, 4, **options)
        self.head = nn.Linear(4, 1)

    def get_input_embeddings(self):
        return self.words

    def forward(self, ids):
        return self.head(self.words(ids)).sum()


def train(model: Small, steps: int = 3) -> None:
    model.train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.1, weight_decay=0.0)
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.tensor([[1, 3], [7, 0]])).square().backward()
        optimizer.step()


@pytest.mark.parametrize("options", [{}, {"padding_idx": 0}])
def test_trained_rows_are_those_of_the_whole_embedding(options):
    whole, trimmed = Small(**options), Small(**options)
    before = whole.words.weight.detach().clone()
    embedding = trim(trimmed, np.array([1, 3, 7, 0]))
    assert isinstance(embedding, UsedRows) and embedding.rows.shape == (4, 4)
    train(whole)
    train(trimmed)
    restore(embedding)
    assert type(trimmed.words) is nn.Embedding and trimmed.words.weight.requires_grad
    assert trimmed.state_dict().keys() == whole.state_dict().keys()
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(trimmed.state_dict()[name], value)
    unused = [2, 4, 5, 6, 8, 9]
    assert torch.equal(trimmed.words.weight[unused], before[unused])
    assert not torch.equal(trimmed.words.weight[1], before[1])


def test_evaluation_and_saving_in_the_middle_see_what_was_trained():
    model = Small()
    plain = model.state_dict().keys()
    trim(model, np.array([0, 1, 3, 7]))
    train(model)
    saved = model.state_dict()
    assert saved.keys() == plain
    torch.testing.assert_close(saved["words.weight"][[0, 1, 3, 7]], model.words.rows.detach())
    trained = model(torch.tensor([[1, 3]]))
    torch.testing.assert_close(model.eval()(torch.tensor([[1, 3]])), trained)
    assert model(torch.tensor([[9]])).isfinite()  # a row that training never read


def test_a_saved_state_is_loaded_into_the_rows():
    source, model = Small(), Small()
    train(source)
    trim(model, np.array([0, 1, 3, 7]))
    model.load_state_dict(source.state_dict())
    torch.testing.assert_close(model.words.rows, source.words.weight[[0, 1, 3, 7]])


def test_what_would_not_be_exact_is_left_alone():
    frozen = Small()
    frozen.words.weight.requires_grad_(False)
    shared = Small()
    shared.output = nn.Linear(4, 10, bias=False)
    shared.output.weight = shared.words.weight
    for model in (frozen, shared, Small(max_norm=1.0), Small(sparse=True), Small(scale_grad_by_freq=True)):
        assert trim(model, np.array([1, 2])) is None
        assert type(model.words) is nn.Embedding


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
        distill(parse_arguments(DistillationArguments, argv, "test"), load_task("cola", world.data))
        weights.append(AutoModelForSequenceClassification.from_pretrained(tmp_path / name).state_dict())
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value, atol=1e-5, rtol=1e-4)


def test_training_twice_trains_the_embedding_twice(world, tmp_path):
    from sinkd.models import load_encoder, load_tokenizer
    from sinkd.tasks import Collator, encode, load_task
    from sinkd.training.arguments import FinetuneArguments
    from sinkd.training.trainer import TaskTrainer

    task, tokenizer = load_task("cola", world.data), load_tokenizer(str(world.student), "--model_path")
    rows = encode(task.read("train").select(range(32)), tokenizer, 32)
    model = load_encoder(str(world.student), task, "--model_path")
    args = FinetuneArguments(output_dir=str(tmp_path), save_strategy="no", eval_strategy="no", report_to="none")
    args.num_train_epochs = 1
    kinds = {"train_dataset": rows, "data_collator": Collator(tokenizer), "processing_class": tokenizer}
    trainer = TaskTrainer(model=model, args=args, **kinds)
    weights = [model.get_input_embeddings().weight.detach().clone()]
    for _ in range(2):
        trainer.train()
        weights.append(model.get_input_embeddings().weight.detach().clone())
    assert not torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[1], weights[2])
