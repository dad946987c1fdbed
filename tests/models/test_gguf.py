"""A folder with one GGUF file is a model, with config and tokenizer; once loaded it is saved as any other."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from gguf import GGUFWriter, TokenType

from sinkd import SinkdError
from sinkd.models import LanguageModel, find_checkpoint, load_language_model, load_tokenizer
from sinkd.models.config import load_config
from sinkd.training.teacher import Teacher
from small_language_models import small_model, word_tokenizer

# transformers' names of Qwen 2's weights, and llama.cpp's.
NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "model.layers.": "blk.",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "post_attention_layernorm": "ffn_norm",
    "input_layernorm": "attn_norm",
}


def write_gguf(path: Path, model, tokenizer) -> None:
    """Write a Qwen 2 as llama.cpp's converter does, in float32."""
    config, writer = model.config, GGUFWriter(path, "qwen2")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    core = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    vocabulary = sorted(core["vocab"], key=core["vocab"].__getitem__)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(vocabulary)
    writer.add_token_types([TokenType.CONTROL] * 2 + [TokenType.NORMAL] * (len(vocabulary) - 2))
    writer.add_token_merges([" ".join(pair) for pair in core["merges"]])
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_pad_token_id(tokenizer.pad_token_id)
    for name, tensor in model.state_dict().items():
        for theirs, ours in NAMES.items():
            name = name.replace(theirs, ours)
        writer.add_tensor(name, tensor.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture(scope="module")
def model():
    return small_model("qwen2", len(word_tokenizer()))


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("gguf")
    write_gguf(folder / "small.gguf", model, word_tokenizer())
    return folder


@torch.no_grad()
def test_a_gguf_folder_loads_and_is_saved_as_any_other(folder, model, tmp_path):
    tokenizer = load_tokenizer(str(folder), "--model_path")
    ids = tokenizer("the man ran so", return_tensors="pt")["input_ids"]
    assert ids.tolist() == [word_tokenizer()("the man ran so")["input_ids"]]
    assert tokenizer.eos_token_id == word_tokenizer().eos_token_id
    loaded = load_language_model(str(folder), "--model_path")
    torch.testing.assert_close(loaded(ids).logits, model(ids).logits)
    loaded.save_pretrained(tmp_path)
    torch.testing.assert_close(load_language_model(str(tmp_path), "--model_path")(ids).logits, model(ids).logits)


def test_the_config_beside_a_gguf_file_comes_first(folder, model, tmp_path):
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    assert load_config(str(tmp_path), "--model_path").max_position_embeddings == 256
    (tmp_path / "config.json").write_text(json.dumps(model.config.to_dict() | {"max_position_embeddings": 64}))
    assert load_config(str(tmp_path), "--model_path").max_position_embeddings == 64


def test_another_gguf_file_is_another_teacher(folder, tmp_path):
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    before = Teacher(str(folder), LanguageModel(config=load_config(str(folder), ""))).fingerprint
    other = small_model("qwen2", len(word_tokenizer()), seed=1)
    write_gguf(tmp_path / "small.gguf", other, word_tokenizer())
    assert Teacher(str(tmp_path), LanguageModel(config=load_config(str(folder), ""))).fingerprint != before


def test_several_files_are_refused(folder, tmp_path):
    for name in ("a.gguf", "b.gguf"):
        shutil.copy(folder / "small.gguf", tmp_path / name)
    with pytest.raises(SinkdError, match=r"holds 2 GGUF files \(a.gguf, b.gguf\); leave one"):
        find_checkpoint(str(tmp_path), "--model_path")


def test_the_missing_package_is_named(folder, monkeypatch):
    monkeypatch.setattr("sinkd.models.config.find_spec", lambda name: None)
    with pytest.raises(SinkdError, match=r"small\.gguf needs the package gguf; install it"):
        find_checkpoint(str(folder), "--model_path")
