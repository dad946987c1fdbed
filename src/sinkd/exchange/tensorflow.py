"""Convert Google's TensorFlow checkpoints of BERT to transformers: config, weights and tokenizer.

Only this module imports TensorFlow, to read the checkpoint. Weights are looked up by Google's names:

    bert.encoder.layer.3.attention.self.query.weight  <-  bert/encoder/layer_3/attention/self/query/kernel, transposed
    bert.embeddings.LayerNorm.weight                  <-  bert/embeddings/LayerNorm/gamma
    cls.predictions.bias                              <-  cls/predictions/output_bias
    (nothing)                                         <-  .../adam_m, .../adam_v, global_step: the optimiser's
"""

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from transformers import (
    BertConfig,
    BertForPreTraining,
    BertForSequenceClassification,
    BertModel,
    BertTokenizer,
    PreTrainedModel,
)

from sinkd.errors import SinkdError, first_sentence, writing
from sinkd.exchange.transfer import scratch
from sinkd.tasks.file_formats import lines
from sinkd.tasks.text_file import decode

# An optimiser's variables: its own, and those of each weight.
OPTIMISER = re.compile(
    r"^(global_step|beta1_power|beta2_power|loss_scale|good_steps)$|/(adam_[mv]|lamb_[mv]|Adam(_1)?)$"
)
# Irregular names; the first and the fourth tell the kind of head, for masked words or for classes.
WORDS, CLASSES = "cls/predictions/output_bias", "output_weights"
HEADS = {
    "cls.predictions.bias": WORDS,
    "cls.seq_relationship.weight": "cls/seq_relationship/output_weights",
    "cls.seq_relationship.bias": "cls/seq_relationship/output_bias",
    "classifier.weight": CLASSES,
    "classifier.bias": "output_bias",
}
# Tied to other weights, or computed: not in Google's checkpoints.
DERIVED = ("cls.predictions.decoder.", "position_ids")


def convert(path: str | Path, output: str | Path) -> PreTrainedModel:
    """Convert the checkpoint at `path` to the folder `output`, completely or not at all, and return the model.

    The tokenizer lower-cases unless the vocabulary has capitals.

    Raises:
        SinkdError: if a file is missing, damaged or does not fit the others, or the output folder is not empty.
    """
    prefix, folder = find_bert(path), Path(output)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise SinkdError(f"{folder} exists already; name a new folder for the converted model")
    vocabulary = prefix.with_name("vocab.txt")
    config, words = _read_config(prefix.with_name("bert_config.json")), read_words(vocabulary)
    model = to_model(read_variables(prefix), config)
    if len(words) != model.config.vocab_size:
        raise SinkdError(
            f"{vocabulary} has {len(words)} entries, but the model's embedding {model.config.vocab_size}; "
            "put the vocabulary there that came with this checkpoint"
        )
    tokenizer = BertTokenizer.from_pretrained(
        str(vocabulary.parent),
        do_lower_case=all(word == word.lower() or word.startswith("[") for word in words),
        model_max_length=model.config.max_position_embeddings,
    )
    try:
        with scratch(folder) as place, writing(folder):
            place.mkdir(parents=True)
            model.save_pretrained(place)
            tokenizer.save_pretrained(place)
            (place / "vocab.txt").write_bytes(vocabulary.read_bytes())
            os.replace(place, folder)  # which may be an empty folder
    except SafetensorError as error:  # raised for a full disk
        raise SinkdError(f"{folder} cannot be written ({first_sentence(error)}); make room for it") from error
    return model


def find_bert(path: str | Path) -> Path:
    """The prefix, `.../bert_model.ckpt`, of the checkpoint that a folder, a prefix or a file names.

    Raises:
        SinkdError: if there is no checkpoint, or several, or its folder lacks bert_config.json or vocab.txt.
    """
    given = Path(path).expanduser()
    if given.is_dir():
        found = sorted(file.with_suffix("") for file in given.glob("*.index"))
        found = [prefix for prefix in found if prefix.name == "bert_model.ckpt"] or found
        if not found:
            raise SinkdError(f"{given} holds no TensorFlow checkpoint: it has no bert_model.ckpt.index")
        if len(found) > 1:
            names = ", ".join(prefix.name for prefix in found)
            raise SinkdError(f"{given} holds several checkpoints ({names}); name one of them")
        prefix = found[0]
    else:
        prefix = Path(re.sub(r"\.(index|meta|data-\d{5}-of-\d{5})$", "", str(given)))
        if not prefix.with_name(f"{prefix.name}.index").is_file():
            raise SinkdError(f"no TensorFlow checkpoint {prefix}: looked for {prefix}.index")
    for name in ("bert_config.json", "vocab.txt"):
        if not prefix.with_name(name).is_file():
            raise SinkdError(f"{prefix.parent} lacks {name}, which belongs to {prefix.name}; put it there")
    return prefix


def read_variables(prefix: Path) -> dict[str, np.ndarray]:
    """The model's variables in a checkpoint by name, without the optimiser's."""
    try:
        from tensorflow.train import load_checkpoint
    except ImportError as error:
        raise SinkdError(
            "TensorFlow, which reads such checkpoints, is not installed; pip install 'sinkd[tf]' brings it"
        ) from error
    try:
        reader = load_checkpoint(str(prefix))
        names = [name for name in reader.get_variable_to_shape_map() if not OPTIMISER.search(name)]
        return {name: reader.get_tensor(name) for name in sorted(names)}
    except Exception as error:  # TensorFlow has its own error classes
        raise SinkdError(f"the TensorFlow checkpoint {prefix} cannot be read: {first_sentence(error)}") from error


def to_model(variables: Mapping[str, np.ndarray], config: Mapping[str, Any]) -> PreTrainedModel:
    """A float32 BERT with these weights, including any heads.

    Args:
        variables: Arrays by Google's names.
        config: The content of bert_config.json.

    Raises:
        SinkdError: if a variable is missing, unknown, or has a different shape from the config's.
    """
    settings = _settings(config)
    kind: type[PreTrainedModel] = BertForPreTraining if WORDS in variables else BertModel
    if CLASSES in variables:
        kind, settings.num_labels = BertForSequenceClassification, len(variables[CLASSES])
    model = kind(settings)
    wanted = {
        _google_name(name): (name, tensor)
        for name, tensor in model.state_dict().items()
        if not any(part in name for part in DERIVED)
    }
    missing = sorted(wanted.keys() - variables.keys())
    if missing:
        raise SinkdError(f"the checkpoint lacks {_some(missing)}, which its bert_config.json asks for")
    # A classifier's checkpoint may still contain its pretraining heads.
    unused = kind is BertForSequenceClassification
    extra = sorted(name for name in variables.keys() - wanted.keys() if not (unused and name.startswith("cls/")))
    if extra:
        raise SinkdError(
            f"the checkpoint holds {_some(extra)}, which a BERT of {settings.num_hidden_layers} layers does not have; "
            "it is another model's, or its bert_config.json is"
        )
    state = {}
    for old, (name, tensor) in wanted.items():
        array = np.asarray(variables[old], dtype=np.float32)
        state[name] = torch.tensor(array.T if old.endswith("/kernel") else array).contiguous()
        if state[name].shape != tensor.shape:
            found, expected = tuple(state[name].shape), tuple(tensor.shape)
            raise SinkdError(f'"{old}" has the shape {found}, but its bert_config.json asks for {expected}')
    model.load_state_dict(state, strict=False)
    model.tie_weights()
    return model


def _google_name(name: str) -> str:
    """Google's name for a weight of transformers."""
    if name in HEADS:
        return HEADS[name]
    path, _, last = name.rpartition(".")
    if not name.startswith("cls."):
        path = f"bert.{path.removeprefix('bert.')}"
    path = re.sub(r"\.layer\.(\d+)", r".layer_\1", path).replace(".", "/")
    if path.endswith("_embeddings"):
        return path
    if path.endswith("LayerNorm"):
        return f"{path}/{'gamma' if last == 'weight' else 'beta'}"
    return f"{path}/{'kernel' if last == 'weight' else last}"


def _some(names: list[str]) -> str:
    return f'"{names[0]}"' + (f" and {len(names) - 1} more" if len(names) > 1 else "")


def _settings(config: Mapping[str, Any]) -> BertConfig:
    return BertConfig(**{key: value for key, value in config.items() if key != "model_type"})


def _read_config(path: Path) -> dict[str, Any]:
    """The content of bert_config.json. Raises SinkdError if it does not describe a BERT."""
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise SinkdError(f"{path} is not JSON: {error}") from error
    if not isinstance(config, dict):
        raise SinkdError(f"{path} holds no JSON object; put Google's bert_config.json there")
    try:
        with torch.device("meta"):
            BertModel(_settings(config))
    except Exception as error:  # transformers and torch raise any error for settings that make no model
        reason = " ".join(str(error).split())
        raise SinkdError(f"{path} describes no BERT ({type(error).__name__}: {reason}); put Google's there") from error
    return config


def read_words(path: Path) -> list[str]:
    """The entries of vocab.txt, one per line. Only \\n ends a line: Unicode's other line ends can be entries."""
    words = []
    for number, line in lines(path):
        try:
            words.append(decode(line))
        except SinkdError as error:
            raise SinkdError(f"{path}, line {number}: {error}") from error
    return words
