"""Make tiny language models with a tokenizer of words, and SuperGLUE files to train them on."""

import json
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, PreTrainedTokenizerFast, set_seed

WORDS = (
    "the a man woman king nun lamp door rain fell laughed slept broke ran so because choice what happened why".split()
)
KINDS = ["t5", "mt5", "t5_tied", "gpt2", "gpt_neo", "llama", "qwen2", "qwen2_tied"]


def word_tokenizer(padding_side: str = "right") -> PreTrainedTokenizerFast:
    """Byte-level pieces: single bytes and whole words with the space before them; <pad> 0, </s> 1."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = ["<pad>", "</s>", *alphabet]
    merges = []
    for word in WORDS:
        piece = "Ġ"
        for letter in word:
            merges.append((piece, letter))
            piece += letter
            vocabulary.append(piece)
    vocabulary = list(dict.fromkeys(vocabulary))
    core = Tokenizer(models.BPE({token: n for n, token in enumerate(vocabulary)}, list(dict.fromkeys(merges))))
    core.decoder = decoders.ByteLevel()
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    names = ["input_ids", "attention_mask"]
    return PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", eos_token="</s>", padding_side=padding_side, model_input_names=names
    )


def small_model(kind: str, vocabulary: int, width: int = 16, layers: int = 2, seed: int = 0, positions: int = 256):
    """A random t5, mt5, gpt2, gpt_neo, llama or qwen2 without dropout, with weights large enough to tell tokens apart.

    Head and embedding are one for gpt2, gpt_neo, and any kind that ends with "_tied".
    """
    set_seed(seed)
    kind, tied = kind.removesuffix("_tied"), kind.endswith("_tied")
    sizes = {"vocab_size": vocabulary, "pad_token_id": 0, "eos_token_id": 1}
    if kind in ("t5", "mt5"):
        sizes |= {"d_model": width, "d_kv": 8, "d_ff": 2 * width, "num_layers": layers, "num_heads": 2}
        sizes |= {"dropout_rate": 0.0, "decoder_start_token_id": 0, "tie_word_embeddings": tied or kind == "mt5"}
        model = AutoModelForSeq2SeqLM.from_config(AutoConfig.for_model(kind, **sizes))
        if not tied:  # which no config says: a checkpoint of T5 1.1, mT5 or T0 holds a head, and loads with it
            model.lm_head.weight = nn.Parameter(0.3 * torch.randn(vocabulary, width))
            del model.all_tied_weights_keys["lm_head.weight"]
        return model.eval()
    sizes["initializer_range"] = 0.3
    if kind == "gpt2":
        sizes |= {"n_embd": width, "n_layer": layers, "n_head": 2, "n_positions": positions}
        sizes |= {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    elif kind == "gpt_neo":
        sizes |= {"hidden_size": width, "num_layers": layers, "num_heads": 2, "window_size": 8}
        sizes |= {"attention_types": [[["global", "local"], layers // 2]] if layers > 1 else [[["global"], 1]]}
        sizes |= {"max_position_embeddings": positions, "resid_dropout": 0.0, "embed_dropout": 0.0}
        sizes["attention_dropout"] = 0.0
    else:
        sizes |= {"hidden_size": width, "intermediate_size": 2 * width, "num_hidden_layers": layers}
        sizes |= {"num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": positions}
        sizes["tie_word_embeddings"] = tied
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **sizes)).eval()


def write_language_model(folder: Path, kind: str, tokenizer=None, padding: int = 0, **shape: int) -> Path:
    """A model's folder: weights and tokenizer; the head is `padding` wider than the vocabulary."""
    tokenizer = tokenizer or word_tokenizer()
    small_model(kind, len(tokenizer) + padding, **shape).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def write_copa(folder: Path, train: int = 24, dev: int = 12) -> Path:
    """COPA's files, with sentences that mean nothing; the right choice is the one that laughed."""
    nouns = ["man", "woman", "king", "nun"]
    (folder / "COPA").mkdir(parents=True)
    for split, count in {"train": train, "val": dev, "test": dev}.items():
        lines = []
        for i in range(count):
            right, other = f"the {nouns[i % 4]} laughed", f"the {nouns[(i + 1) % 4]} slept so"
            label = i // 2 % 2
            row = {"premise": f"the {nouns[i % 3]} fell", "choice1": other if label else right}
            row |= {"choice2": right if label else other, "question": ["cause", "effect"][i % 2], "idx": i}
            lines.append(json.dumps(row | ({} if split == "test" else {"label": label})))
        (folder / "COPA" / f"{split}.jsonl").write_text("\n".join(lines) + "\n")
    return folder


TEMPLATE = """dataset: super_glue
subset: copa
templates:
  0: !Template
    answer_choices: '{{choice1}} ||| {{choice2}}'
    id: 0
    jinja: '{{premise}} {% if question == "cause" %}because{% else %}so{% endif %} ||| {{answer_choices[label]}}'
    metadata: !TemplateMetadata
      choices_in_prompt: false
      metrics: [Accuracy]
      original_task: true
    name: plain
    reference: ''
"""


def write_templates(folder: Path) -> Path:
    """A folder of templates with one of COPA's, "plain", in promptsource's form."""
    home = folder / "super_glue" / "copa"
    home.mkdir(parents=True)
    (home / "templates.yaml").write_text(TEMPLATE)
    return folder
