"""Make a tiny model of any family from its config."""

from pathlib import Path

import torch
import transformers as hf
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoModelForSequenceClassification

VOCABULARY, POSITIONS, LAYERS = 340, 40, 4

WIDE = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32}
PADDED = {"pad_token_id": 0, "eos_token_id": 1}
BODY = {**WIDE, **PADDED, "num_hidden_layers": LAYERS, "max_position_embeddings": POSITIONS}
FEW_KEYS = BODY | {"num_key_value_heads": 1}
SIDES = {f"{side}_{name}": size for side in ("encoder", "decoder") for name, size in
         {"layers": LAYERS, "attention_heads": 2, "ffn_dim": 32}.items()}  # fmt: skip
BART = {**SIDES, **PADDED, "d_model": 16, "max_position_embeddings": POSITIONS, "decoder_start_token_id": 0}
T5 = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": LAYERS, "num_heads": 2, "decoder_start_token_id": 0}
DEBERTA = {"type_vocab_size": 0, "relative_attention": True, "position_buckets": 16, "norm_rel_ebd": "layer_norm"}
DEBERTA |= {"pos_att_type": ["p2c", "c2p"], "position_biased_input": False, "pooler_hidden_size": 16}
MODERN = {"bos_token_id": 1, "cls_token_id": 1, "sep_token_id": 2, "local_attention": 4}
LINEAR = {f"linear_{name}": 2 for name in ("num_key_heads", "num_value_heads")}
LINEAR |= {"linear_key_head_dim": 8, "linear_value_head_dim": 8, "moe_intermediate_size": 16, "num_experts": 2}
LINEAR |= {"shared_expert_intermediate_size": 16, "num_experts_per_tok": 1, "head_dim": 8}

ENCODERS = {
    "bert": BODY,
    "distilbert": {"dim": 16, "n_heads": 2, "hidden_dim": 32, "n_layers": LAYERS, "max_position_embeddings": POSITIONS},
    "roberta": BODY | {"pad_token_id": 1, "type_vocab_size": 1},
    "xlm-roberta": BODY | {"pad_token_id": 1, "type_vocab_size": 1},
    "camembert": BODY | {"pad_token_id": 1, "type_vocab_size": 1},
    "mpnet": BODY | {"pad_token_id": 1},
    "electra": BODY | {"embedding_size": 8},
    "albert": BODY | {"embedding_size": 8},
    "deberta-v2": BODY | DEBERTA,
    "modernbert": BODY | MODERN,
    "big_bird": BODY,
    "longformer": BODY | {"pad_token_id": 1, "type_vocab_size": 1, "attention_window": [4, 8, 4, 8]},
    "xlnet": {"d_model": 16, "n_layer": LAYERS, "n_head": 2, "d_inner": 32, "pad_token_id": 0},
}
DECODERS = {
    "gpt2": {"n_embd": 16, "n_layer": LAYERS, "n_head": 2, "n_positions": POSITIONS, **PADDED},
    "gpt_neo": {**PADDED, "hidden_size": 16, "num_layers": LAYERS, "num_heads": 2, "window_size": 4}
    | {"attention_types": [[["global", "local"], LAYERS // 2]], "max_position_embeddings": POSITIONS},
    "llama": FEW_KEYS,
    "qwen2": FEW_KEYS | {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 2},
    "qwen3": FEW_KEYS | {"head_dim": 8},
    "gemma": FEW_KEYS | {"head_dim": 8},
    "gemma2": FEW_KEYS | {"head_dim": 8, "sliding_window": 4},
    "phi": BODY,
    "opt": {k: v for k, v in BODY.items() if k != "intermediate_size"} | {"ffn_dim": 32, "word_embed_proj_dim": 16},
    "gpt_neox": BODY,
    "bloom": {"hidden_size": 16, "n_layer": LAYERS, "n_head": 2, **PADDED},
}
STATEFUL = {
    "qwen3_next": FEW_KEYS | LINEAR | {"layer_types": ["linear_attention", "full_attention"] * 2},
    "lfm2": FEW_KEYS | {"layer_types": ["conv", "full_attention"] * 2, "block_multiple_of": 8},
    "mamba": {"hidden_size": 16, "num_hidden_layers": LAYERS, "state_size": 4, **PADDED},
    "recurrent_gemma": WIDE | PADDED | {"num_hidden_layers": LAYERS, "attention_window_size": 8, "lru_width": 16},
}
ENCODER_DECODERS = {"t5": T5, "mt5": T5, "bart": BART, "pegasus": BART}
LANGUAGE_MODELS = DECODERS | STATEFUL | ENCODER_DECODERS
CONFIGS = ENCODERS | LANGUAGE_MODELS


def family_config(kind: str, **changes):
    """The config of a family, tiny."""
    return AutoConfig.for_model(kind, vocab_size=VOCABULARY, **CONFIGS[kind] | changes)


def family_model(kind: str, auto=AutoModelForSequenceClassification, seed: int = 0, **changes):
    """A model of a family in which no two layers are alike, and no weight is zero."""
    torch.manual_seed(seed)
    model = auto.from_config(family_config(kind, **changes)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    return model


def family_language_model(kind: str, seed: int = 0, **changes):
    """A language model of a family."""
    return family_model(
        kind, AutoModelForSeq2SeqLM if kind in ENCODER_DECODERS else AutoModelForCausalLM, seed, **changes
    )


def family_tokenizer(kind: str, words: list[str]):
    """A tokenizer of words: BERT's segments 0 and 1 for pairs; the classification token first, and XLNet's last."""
    special = ["<mask>", "<pad>"] if CONFIGS[kind].get("pad_token_id", 0) else ["<pad>", "<mask>"]
    vocabulary = {word: n for n, word in enumerate([*special, "<unk>", "<cls>", "<sep>", *words])}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    single, pair = "<cls> $A <sep>", "<cls> $A <sep> $B:1 <sep>:1"
    if kind == "xlnet":
        single, pair = "$A <sep> <cls>:2", "$A <sep> $B:1 <sep>:1 <cls>:2"
    marks = [(word, vocabulary[word]) for word in ("<cls>", "<sep>")]
    core.post_processor = processors.TemplateProcessing(single=single, pair=pair, special_tokens=marks)
    named = {f"{name}_token": f"<{name}>" for name in ("pad", "mask", "unk", "cls", "sep")}
    names = ["input_ids", "token_type_ids", "attention_mask"]
    return hf.PreTrainedTokenizerFast(tokenizer_object=core, padding_side="left", model_input_names=names, **named)


def write_family(folder: Path, model, tokenizer) -> Path:
    """A folder for `--model_path`."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
