"""Language models load with all their weights, and teacher and student share vocabulary entries."""

import json
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from sinkd import SinkdError
from sinkd.models import cut_head, decoder_start, load_language_model, shared_vocabulary, tokenizers_of
from sinkd.models.head import head_width
from sinkd.models.language_model import device_map
from small_language_models import KINDS, small_model, word_tokenizer, write_language_model


@pytest.mark.parametrize("kind", KINDS)
def test_every_family_loads_as_its_own_class(kind, tmp_path):
    folder = write_language_model(tmp_path / kind, kind)
    model = load_language_model(str(folder), "--model_path")
    assert model.config.is_encoder_decoder == ("t5" in kind)
    assert decoder_start(model.config) == (0 if "t5" in kind else None)
    embedding, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    assert (embedding is head) == (kind.endswith("_tied") or "gpt" in kind)
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())


def test_a_checkpoint_without_a_weight_is_refused(tmp_path):
    from safetensors.torch import load_file, save_file

    folder = write_language_model(tmp_path / "m", "gpt2")
    weights = load_file(folder / "model.safetensors")
    del weights["transformer.h.0.ln_1.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(
        SinkdError, match=r"lacks 1 of a language model's weights, transformer.h.0.ln_1.weight among them"
    ):
        load_language_model(str(folder), "--model_path")


@pytest.mark.parametrize("kind", KINDS)
def test_heads_of_different_width_are_cut_to_the_tokenizers(kind, tmp_path):
    tokenizer = word_tokenizer()
    real = len(tokenizer)
    teacher, student = small_model(kind, real + 5), small_model(kind, real + 40, seed=1)
    batch = {"input_ids": torch.tensor([[3, 4, 5]])}
    batch |= {"decoder_input_ids": torch.tensor([[0]])} if "t5" in kind else {}
    width, said = shared_vocabulary(tokenizer, teacher.config, student.config)
    with torch.no_grad():
        before = teacher(**batch).logits[..., :real]
        torch.testing.assert_close(cut_head(teacher, width)(**batch).logits, before)
    assert (width, head_width(cut_head(student, width)), student.config.vocab_size) == (real, real, real)
    assert len(student.get_input_embeddings().weight) == real
    teacher.save_pretrained(tmp_path)
    loaded = load_language_model(str(tmp_path), "--teacher_path")
    assert head_width(loaded) == real
    with torch.no_grad():
        torch.testing.assert_close(loaded(**batch).logits, before)
    heads = f"the teacher's head has {real + 5} entries and the student's {real + 40}"
    assert said == f"{heads}: both are cut to the tokenizer's {real}"
    assert shared_vocabulary(tokenizer, teacher.config, student.config) == (real, None)


def test_heads_of_one_width_are_left_alone():
    config = small_model("gpt2", len(word_tokenizer()) + 9).config
    assert shared_vocabulary(word_tokenizer(), config, config) == (len(word_tokenizer()) + 9, None)


def test_a_head_that_lacks_tokens_is_refused():
    tokenizer = word_tokenizer()
    wide, narrow = small_model("gpt2", len(tokenizer)).config, small_model("gpt2", 50).config
    with pytest.raises(SinkdError, match=rf"tokenizer has {len(tokenizer)} entries and the student's head 50"):
        shared_vocabulary(tokenizer, wide, narrow)


def test_kinds_do_not_mix():
    tokenizer = word_tokenizer()
    kinds = (small_model(kind, len(tokenizer)).config for kind in ("t5", "gpt2"))
    with pytest.raises(SinkdError, match="the teacher is an encoder-decoder and the student a decoder"):
        shared_vocabulary(tokenizer, *kinds)


def edited(folder: Path, change) -> str:
    """A model's folder whose tokenizer's model is changed, its vocabulary left as it was."""
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text())
    change(content["model"])
    path.write_text(json.dumps(content))
    return str(folder)


def test_one_vocabulary_with_other_merges_is_another_tokenizer(tmp_path):
    teacher = write_language_model(tmp_path / "t", "gpt2")
    student = edited(write_language_model(tmp_path / "s", "gpt2"), lambda model: model["merges"].reverse())
    with pytest.raises(SinkdError, match='their tokenizers differ in their merges \\(as at "Ġ t"\\)'):
        tokenizers_of(str(teacher), student)


def test_one_vocabulary_with_other_scores_is_another_tokenizer(tmp_path):
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *((letter, -float(n)) for n, letter in enumerate("▁abcd"))]
    core = Tokenizer(models.Unigram(pieces, unk_id=2))
    core.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")
    teacher, student = (write_language_model(tmp_path / name, "t5", tokenizer) for name in "ts")
    tokenizers_of(str(teacher), str(student))

    def swap(model):
        model["vocab"][4][1], model["vocab"][5][1] = model["vocab"][5][1], model["vocab"][4][1]

    with pytest.raises(SinkdError, match='the scores of their pieces \\(as at "a"\\)'):
        tokenizers_of(str(teacher), edited(student, swap))


@pytest.mark.parametrize(("count", "expected"), [(0, None), (1, None), (2, "auto")])
def test_parallelize_spreads_over_two_accelerators_or_says_why_not(count, expected, monkeypatch, caplog):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    device_map.cache_clear()
    with caplog.at_level("INFO", logger="sinkd"):
        assert device_map() == device_map() == expected
    assert len(caplog.messages) == (expected is None)
