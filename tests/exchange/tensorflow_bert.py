"""Write a BERT checkpoint as Google's own code does: TensorFlow's Saver, Google's variable names. Run as a program.

    python tensorflow_bert.py FOLDER VOCABULARY.txt [classes]

The weights are random; NumPy copies of them land beside the checkpoint, for tests that do not load TensorFlow.
"""

import json
import sys
from pathlib import Path

import numpy as np

WIDTH, HEADS, LAYERS, POSITIONS, BETWEEN = 16, 2, 2, 64, 24


def shapes(vocabulary: int, classes: int = 0) -> dict[str, tuple[int, ...]]:
    """Every variable of Google's BERT with its shape, and what its optimiser keeps."""
    dense = {"kernel": (WIDTH, WIDTH), "bias": (WIDTH,)}
    norm = {"gamma": (WIDTH,), "beta": (WIDTH,)}
    parts = {
        "bert/embeddings": {
            "word_embeddings": (vocabulary, WIDTH),
            "token_type_embeddings": (2, WIDTH),
            "position_embeddings": (POSITIONS, WIDTH),
        },
        "bert/embeddings/LayerNorm": norm,
        "bert/pooler/dense": dense,
        "cls/predictions/transform/dense": dense,
        "cls/predictions/transform/LayerNorm": norm,
        "cls/predictions": {"output_bias": (vocabulary,)},
        "cls/seq_relationship": {"output_weights": (2, WIDTH), "output_bias": (2,)},
    }
    for number in range(LAYERS):
        layer = f"bert/encoder/layer_{number}"
        parts |= {f"{layer}/attention/self/{name}": dense for name in ("query", "key", "value")}
        parts |= {f"{layer}/attention/output/dense": dense, f"{layer}/attention/output/LayerNorm": norm}
        parts[f"{layer}/intermediate/dense"] = {"kernel": (WIDTH, BETWEEN), "bias": (BETWEEN,)}
        parts[f"{layer}/output/dense"] = {"kernel": (BETWEEN, WIDTH), "bias": (WIDTH,)}
        parts[f"{layer}/output/LayerNorm"] = norm
    found = {f"{part}/{name}": shape for part, named in parts.items() for name, shape in named.items()}
    if classes:
        found = {name: shape for name, shape in found.items() if not name.startswith("cls/")}
        found |= {"output_weights": (classes, WIDTH), "output_bias": (classes,)}
    return found


def values(vocabulary: int, classes: int = 0) -> dict[str, np.ndarray]:
    """Random weights under Google's names, (in, out) for kernels, the optimiser's slots and step among them."""
    random = np.random.default_rng(7)
    found = {}
    for name, shape in shapes(vocabulary, classes).items():
        value = random.normal(0, 0.2, shape).astype(np.float32)
        found[name] = value + 1 if name.endswith("gamma") else value
        found |= {f"{name}/adam_{slot}": np.full(shape, 9, np.float32) for slot in "mv"}
    return found | {"global_step": np.array(100, np.int64)}


def config(vocabulary: int) -> dict[str, object]:
    """bert_config.json as Google writes it."""
    return {
        "attention_probs_dropout_prob": 0.1,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.1,
        "hidden_size": WIDTH,
        "initializer_range": 0.02,
        "intermediate_size": BETWEEN,
        "max_position_embeddings": POSITIONS,
        "num_attention_heads": HEADS,
        "num_hidden_layers": LAYERS,
        "type_vocab_size": 2,
        "vocab_size": vocabulary,
    }


def main(folder: Path, vocabulary: Path, classes: int = 0) -> None:
    import tensorflow.compat.v1 as tf

    tf.disable_eager_execution()
    words = vocabulary.read_text(encoding="utf-8")
    size = len(words.splitlines())
    written = values(size, classes)
    with tf.Graph().as_default(), tf.Session() as session:
        variables = [tf.get_variable(name, initializer=value) for name, value in written.items()]
        session.run(tf.global_variables_initializer())
        tf.train.Saver(variables).save(session, str(folder / "bert_model.ckpt"))
    (folder / "bert_config.json").write_text(json.dumps(config(size)))
    (folder / "vocab.txt").write_text(words, encoding="utf-8")
    np.savez(folder / "weights.npz", **written)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int((sys.argv[3:] or ["0"])[0]))
