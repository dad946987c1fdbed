"""Google's BERT checkpoints for TensorFlow, as transformers loads a model: config, weights, vocabulary, tokenizer.

TensorFlow reads the checkpoint; nothing else in sinkd imports it. A variable's name decides what becomes of it:

    bert/encoder/layer_3/attention/self/query/kernel  ->  bert.encoder.layer.3.attention.self.query.weight, transposed
    bert/embeddings/LayerNorm/gamma                   ->  bert.embeddings.LayerNorm.weight
    cls/predictions/output_bias                       ->  cls.predictions.bias
    .../adam_m, .../adam_v, global_step               ->  the optimiser's own, left out
"""

import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
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

from sinkd.errors import SinkdError, first_sentence
from sinkd.exchange.transfer import writing
from sinkd.tasks.records import decode, lines

HOW_TO_INSTALL = "TensorFlow reads such checkpoints and is not installed; pip install 'sinkd[tf]' brings it"

# What an optimiser keeps: of its own, and beside each variable.
_OPTIMISER = re.compile(
    r"^(global_step|beta1_power|beta2_power|loss_scale|good_steps)$|/(adam_[mv]|lamb_[mv]|Adam(_1)?)$"
)

# The variables that tell of a head: of masked words, and of the classes of Google's run_classifier.
_WORDS, _CLASSES = "cls/predictions/output_bias", "output_weights"
_HEADS = {
    _WORDS: "cls.predictions.bias",
    "cls/seq_relationship/output_weights": "cls.seq_relationship.weight",
    "cls/seq_relationship/output_bias": "cls.seq_relationship.bias",
    _CLASSES: "classifier.weight",
    "output_bias": "classifier.bias",
}
# Tied to others or counted on the spot: no checkpoint of Google's has them.
_DERIVED = ("cls.predictions.decoder.", "position_ids")


@dataclass(frozen=True)
class Checkpoint:
    """Where the parts of a checkpoint lie: the prefix that TensorFlow knows it by, its config and its vocabulary."""

    prefix: Path
    config: Path
    vocabulary: Path


def find_bert(path: str | Path) -> Checkpoint:
    """The checkpoint that a path means: the folder as Google packs it, `bert_model.ckpt`, or one of its files.

    bert_config.json and vocab.txt are looked for beside it. Raises SinkdError naming what is not there.
    """
    given = Path(path).expanduser()
    if given.is_dir():
        found = sorted({file.with_suffix("") for file in given.glob("*.index")})
        if len(found) > 1:
            newest = [prefix for prefix in found if prefix.name == "bert_model.ckpt"]
            if not newest:
                names = ", ".join(prefix.name for prefix in found)
                raise SinkdError(f"{given} holds several checkpoints ({names}); name one of them")
            found = newest
        if not found:
            raise SinkdError(f"{given} holds no TensorFlow checkpoint: no bert_model.ckpt.index is in it")
        prefix = found[0]
    else:
        prefix = Path(re.sub(r"\.(index|meta|data-\d{5}-of-\d{5})$", "", str(given)))
        if not prefix.with_name(f"{prefix.name}.index").is_file():
            raise SinkdError(f"no TensorFlow checkpoint {prefix}: looked for {prefix}.index")
    folder = prefix.parent
    for name in ("bert_config.json", "vocab.txt"):
        if not (folder / name).is_file():
            raise SinkdError(f"{folder} lacks {name}, which belongs to the checkpoint {prefix.name}; put it there")
    return Checkpoint(prefix, folder / "bert_config.json", folder / "vocab.txt")


def read_variables(prefix: Path) -> dict[str, np.ndarray]:
    """The model's variables in a checkpoint by name, without the optimiser's, as float32 where they are numbers."""
    try:
        from tensorflow.train import load_checkpoint
    except ImportError as error:
        raise SinkdError(HOW_TO_INSTALL) from error
    try:
        reader = load_checkpoint(str(prefix))
        names = [name for name in reader.get_variable_to_shape_map() if not _OPTIMISER.search(name)]
        return {name: reader.get_tensor(name) for name in sorted(names)}
    except Exception as error:  # TensorFlow has error classes of its own
        raise SinkdError(f"the TensorFlow checkpoint {prefix} cannot be read: {first_sentence(error)}") from error


def to_state_dict(variables: Mapping[str, np.ndarray]) -> dict[str, torch.Tensor]:
    """Google's variables under the names of transformers; kernels are transposed, (in, out) to (out, in).

    Raises SinkdError for names that BERT has not.
    """
    unknown = [name for name in variables if _new_name(name) is None]
    if unknown:
        others = f" and {len(unknown) - 1} more" if len(unknown) > 1 else ""
        raise SinkdError(f'the checkpoint holds "{min(unknown)}"{others}, which is no variable of Google\'s BERT')
    state = {}
    for name, value in variables.items():
        array = np.asarray(value, dtype=np.float32)
        state[str(_new_name(name))] = torch.tensor(array.T if name.endswith("/kernel") else array).contiguous()
    return state


def to_model(variables: Mapping[str, np.ndarray], config: Mapping[str, Any]) -> PreTrainedModel:
    """BERT with these weights and the heads that they come with, float32.

    config: what bert_config.json holds. Raises SinkdError for unknown, missing or misshapen variables, by name.
    """
    state = to_state_dict(variables)
    settings = BertConfig(**{key: value for key, value in config.items() if key != "model_type"})
    kind: type[PreTrainedModel] = BertModel
    if _CLASSES in variables:
        kind = BertForSequenceClassification
        settings.num_labels = len(variables[_CLASSES])
        # A classifier's checkpoint may still hold the heads that it was pretrained with; they lead nowhere.
        state = {name: tensor for name, tensor in state.items() if not name.startswith("cls.")}
    elif _WORDS in variables:
        kind = BertForPreTraining
    else:
        state = {name.removeprefix("bert."): tensor for name, tensor in state.items()}
    model = kind(settings)
    wanted = {name: tensor for name, tensor in model.state_dict().items() if not any(part in name for part in _DERIVED)}
    missing = sorted(wanted.keys() - state.keys())
    if missing:
        others = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise SinkdError(f'the checkpoint lacks "{_old_name(missing[0])}"{others}, which its config asks for')
    extra = sorted(state.keys() - wanted.keys())
    if extra:
        raise SinkdError(
            f'the checkpoint holds "{_old_name(extra[0])}", which a BERT of '
            f"{settings.num_hidden_layers} layers has not; its bert_config.json is another model's"
        )
    for name, tensor in wanted.items():
        if state[name].shape != tensor.shape:
            found, expected = tuple(state[name].shape), tuple(tensor.shape)
            raise SinkdError(f'"{_old_name(name)}" has the shape {found}, and its bert_config.json asks for {expected}')
    model.load_state_dict(state, strict=False)
    model.tie_weights()
    return model


def convert(path: str | Path, output: str | Path) -> PreTrainedModel:
    """Write the checkpoint at `path` to the folder `output`, and return the model.

    The tokenizer lower-cases unless the vocabulary has capitals. Raises SinkdError as the functions above do, and for
    an output folder that is not empty.
    """
    checkpoint, folder = find_bert(path), Path(output)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise SinkdError(f"{folder} is there already; name a new folder for the converted model")
    config, words = _read_config(checkpoint.config), read_words(checkpoint.vocabulary)
    model = to_model(read_variables(checkpoint.prefix), config)
    if len(words) != model.config.vocab_size:
        raise SinkdError(
            f"{checkpoint.vocabulary} has {len(words)} entries, and the model's embedding {model.config.vocab_size}; "
            "put the vocabulary there that came with this checkpoint"
        )
    cased = any(word != word.lower() and not word.startswith("[") for word in words)
    tokenizer = BertTokenizer.from_pretrained(
        str(checkpoint.vocabulary.parent),
        do_lower_case=not cased,
        model_max_length=model.config.max_position_embeddings,
    )
    aside = folder.with_name(f".{folder.name}.converting")
    shutil.rmtree(aside, ignore_errors=True)
    try:
        with writing(folder):
            aside.mkdir(parents=True)
            model.save_pretrained(aside)
            tokenizer.save_pretrained(aside)
            (aside / "vocab.txt").write_bytes(checkpoint.vocabulary.read_bytes())
            os.replace(aside, folder)  # an empty folder may be there
    except SafetensorError as error:  # which is what a full disk is called there
        raise SinkdError(f"{folder} cannot be written ({first_sentence(error)}); make room for it") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return model


def _read_config(path: Path) -> dict[str, Any]:
    """What bert_config.json says, where it describes a BERT."""
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise SinkdError(f"{path} is no JSON: {error}") from error
    if not isinstance(config, dict):
        raise SinkdError(f"{path} holds no JSON object, which bert_config.json is")
    try:
        with torch.device("meta"):
            BertModel(BertConfig(**{key: value for key, value in config.items() if key != "model_type"}))
    except Exception as error:  # whatever transformers and torch raise for settings that make no model
        reason = " ".join(str(error).split())
        raise SinkdError(f"{path} describes no BERT ({type(error).__name__}: {reason}); put Google's there") from error
    return config


def read_words(path: Path) -> list[str]:
    """The entries of vocab.txt, one a line; what else Unicode calls the end of a line is a character like any other."""
    words = []
    for number, line in lines(path):
        try:
            words.append(decode(line))
        except SinkdError as error:
            raise SinkdError(f"{path}, line {number}: {error}") from error
    return words


def _new_name(name: str) -> str | None:
    """A variable's name in transformers; None for one that BERT has not."""
    if name in _HEADS:
        return _HEADS[name]
    if not name.startswith(("bert/", "cls/predictions/transform/")):
        return None
    path, _, last = name.rpartition("/")
    path = re.sub(r"/layer_(\d+)", r"/layer/\1", path)
    ends = {"kernel": "weight", "gamma": "weight", "beta": "bias", "bias": "bias"}
    if last in ends:
        return f"{path}/{ends[last]}".replace("/", ".")
    if path == "bert/embeddings" and last.endswith("_embeddings"):
        return f"{path}/{last}/weight".replace("/", ".")
    return None


def _old_name(name: str) -> str:
    """What Google calls the weight that has this name in transformers."""
    for old, new in _HEADS.items():
        if new == name:
            return old
    if not name.startswith(("bert.", "cls.")):
        name = f"bert.{name}"
    path, _, last = name.rpartition(".")
    path = re.sub(r"\.layer\.(\d+)", r".layer_\1", path).replace(".", "/")
    if path.endswith("_embeddings"):
        return path
    if path.endswith("LayerNorm"):
        return f"{path}/{'gamma' if last == 'weight' else 'beta'}"
    return f"{path}/{'kernel' if last == 'weight' else last}"
