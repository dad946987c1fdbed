"""BERT's forward pass written out in NumPy, over variables under Google's names: the oracle of a conversion."""

import numpy as np
from scipy.special import erf


def hidden_states(
    variables: dict, config: dict, ids: np.ndarray, mask: np.ndarray, kinds: np.ndarray
) -> list[np.ndarray]:
    """The embeddings' and each layer's output, float64 (B, L, D), for ids, mask and token types (B, L)."""
    at = {name: np.asarray(value, np.float64) for name, value in variables.items()}
    rows, length = ids.shape
    tables = [at[f"bert/embeddings/{name}_embeddings"] for name in ("word", "position", "token_type")]
    words, positions, types = tables
    x = norm(at, "bert/embeddings", words[ids] + positions[np.arange(length)] + types[kinds])
    found, heads = [x], config["num_attention_heads"]
    bias = np.where(mask, 0.0, -np.inf)[:, None, None, :]
    for number in range(config["num_hidden_layers"]):
        layer = f"bert/encoder/layer_{number}"
        query, key, value = (
            dense(at, f"{layer}/attention/self/{name}", x).reshape(rows, length, heads, -1).transpose(0, 2, 1, 3)
            for name in ("query", "key", "value")
        )
        scores = query @ key.transpose(0, 1, 3, 2) / np.sqrt(query.shape[-1]) + bias
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        mixed = (weights / weights.sum(-1, keepdims=True)) @ value
        mixed = mixed.transpose(0, 2, 1, 3).reshape(rows, length, -1)
        x = norm(at, f"{layer}/attention/output", x + dense(at, f"{layer}/attention/output/dense", mixed))
        between = gelu(dense(at, f"{layer}/intermediate/dense", x))
        x = norm(at, f"{layer}/output", x + dense(at, f"{layer}/output/dense", between))
        found.append(x)
    return found


def pooled(variables: dict, last: np.ndarray) -> np.ndarray:
    """What the pooler makes of the first token, (B, D)."""
    return np.tanh(dense(variables, "bert/pooler/dense", last[:, 0]))


def word_logits(variables: dict, last: np.ndarray) -> np.ndarray:
    """The masked-word head, (B, L, V)."""
    x = norm(variables, "cls/predictions/transform", gelu(dense(variables, "cls/predictions/transform/dense", last)))
    return x @ variables["bert/embeddings/word_embeddings"].T + variables["cls/predictions/output_bias"]


def dense(at: dict, name: str, x: np.ndarray) -> np.ndarray:
    return x @ at[f"{name}/kernel"] + at[f"{name}/bias"]


def norm(at: dict, name: str, x: np.ndarray) -> np.ndarray:
    centred = x - x.mean(-1, keepdims=True)
    spread = np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-12)
    return centred / spread * at[f"{name}/LayerNorm/gamma"] + at[f"{name}/LayerNorm/beta"]


def gelu(x: np.ndarray) -> np.ndarray:
    return x * (1 + erf(x / np.sqrt(2))) / 2
