"""Load tokenizers, and compare the tokens that two of them produce."""

from __future__ import annotations

import json
import math
from itertools import zip_longest
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, BertTokenizer, PretrainedConfig, PreTrainedTokenizerBase

from sinkd.errors import SinkdError, first_sentence
from sinkd.models.config import find_checkpoint, gguf_file, load_config, untyped_bert
from sinkd.models.family import Reading

SENTENCEPIECE_FILES = ("spiece.model", "sentencepiece.bpe.model", "spm.model", "tokenizer.model")
TOKENIZER_FILES = ("tokenizer.json", "vocab.txt", "vocab.json", *SENTENCEPIECE_FILES)


def load_tokenizer(
    path: str, flag: str, do_lower_case: bool = False, config: PretrainedConfig | None = None
) -> PreTrainedTokenizerBase:
    """Load the tokenizer in a model's folder, or on the hub.

    Args:
        path: A model's folder, or a name on the hub; with `config` also a folder without a model.
        flag: The flag that gave the path, for messages.
        do_lower_case: Force lower case. Otherwise the folder decides, except that an uncased vocabulary never reads
            capitals (each would be an unknown word), and a cased one keeps them if the folder holds a vocabulary alone.
        config: The model's config, which tells the tokenizer's type.

    Raises:
        SinkdError: if there is no tokenizer, or it cannot be loaded.
    """
    bare = config is not None and Path(path).is_dir() and has_tokenizer(path)
    folder = path if bare else find_checkpoint(path, flag)
    if Path(folder).is_dir() and not has_tokenizer(folder):  # transformers would make an empty one
        raise SinkdError(f"{flag} {path} holds no tokenizer: none of {', '.join(TOKENIZER_FILES)} is in {folder}")
    try:
        typed = config if bare and not (Path(folder) / "config.json").is_file() else untyped_bert(Path(folder))
        known: dict[str, Any] = {} if typed is None else {"config": typed}
        if not _tokenizer_files(Path(folder)):
            known |= gguf_file(folder)
        tokenizer = AutoTokenizer.from_pretrained(folder, **known)
        wanted = True if do_lower_case else _wants_lower_case(tokenizer, Path(folder))
        if wanted is not None and wanted != _lowers(tokenizer):
            tokenizer = AutoTokenizer.from_pretrained(folder, do_lower_case=wanted, **known)
    except SinkdError:
        raise
    except Exception as error:  # tokenizers raises Exception itself, and others for a key that is missing
        raise SinkdError(f"the tokenizer of {flag} {path} cannot be loaded: {first_sentence(error)}") from error
    return tokenizer


def read_tokenizer(path: str, flag: str, reading: Reading) -> PreTrainedTokenizerBase:
    """Load the tokenizer that `--tokenizer_name` names, else the one beside the model at `path`."""
    if reading.tokenizer_name is None:
        return load_tokenizer(path, flag, reading.do_lower_case)
    config = load_config(path, flag)
    return load_tokenizer(reading.tokenizer_name, "--tokenizer_name", reading.do_lower_case, config)


def has_tokenizer(path: str) -> bool:
    """Return whether there is a tokenizer in a model's folder, or on the hub under a name that is no folder."""
    folder = Path(path)
    if folder.is_dir():
        return bool(_tokenizer_files(folder) or gguf_file(folder))
    try:
        tokenizer = AutoTokenizer.from_pretrained(path)
    except (OSError, ValueError):
        return False
    return len(tokenizer) > len(tokenizer.all_special_tokens)


def _tokenizer_files(folder: Path) -> list[str]:
    return [name for name in TOKENIZER_FILES if (folder / name).is_file()]


def tokenizers_of(
    teacher: str, student: str, reading: Reading | None = None, *, may_differ: bool = False
) -> tuple[PreTrainedTokenizerBase, PreTrainedTokenizerBase]:
    """Load the tokenizers of a teacher and a student: one object if they are the same.

    Args:
        teacher: A model's folder, or a name on the hub.
        student: Likewise; a student's folder without a tokenizer takes the teacher's.
        reading: Its `tokenizer_name`, if any, must be the tokenizer of both; `config_name` is the student's config.
        may_differ: Let a student keep its own tokenizer.

    Raises:
        SinkdError: if the folders contain different tokenizers and must not; says what differs.
    """
    reading = reading or Reading()
    tokenizer = read_tokenizer(teacher, "--teacher_path", reading)
    named = reading.tokenizer_name
    for side, path in (("teacher", teacher), ("student", student)):
        flag = f"--{side}_path"
        if (side == "teacher" and named is None) or not has_tokenizer(find_checkpoint(path, flag)):
            continue
        own = load_tokenizer(path, flag, reading.do_lower_case)
        difference = tokenizer_difference(tokenizer, own, pairs=may_differ)
        if difference is None:
            continue
        if named is not None:
            raise SinkdError(
                f"--tokenizer_name {named} is not the {side}'s tokenizer: they differ in {difference}; "
                "give the one that both models were made with"
            )
        if may_differ:
            return tokenizer, own
        raise different_tokens(difference)
    other = reading.config_name
    config = load_config(other or student, "--config_name" if other else "--student_path")
    vocabulary = getattr(config.get_text_config(), "vocab_size", None)  # CANINE has characters
    if vocabulary is not None and len(tokenizer) > vocabulary:
        raise SinkdError(
            f"the teacher's tokenizer has {len(tokenizer)} tokens, the student's embedding {vocabulary}; "
            "give a student that was made with the teacher's vocabulary"
        )
    return tokenizer, tokenizer


def different_tokens(difference: str | None, why: str = "") -> SinkdError:
    """Make the error for a teacher and a student that read different tokens; `why` says what needs the same ones."""
    return SinkdError(
        f"teacher and student must read the same tokens{why}, and their tokenizers differ in {difference}; "
        "give a student that was made with the teacher's vocabulary"
    )


# Tokenizers may differ in how they cut or change capitals, accents, digits, spaces and other scripts.
PROBE = "A Café, naïve.  In 2026: 'tis\n\tÜber 12,345 词"


def tokenizer_difference(
    one: PreTrainedTokenizerBase, other: PreTrainedTokenizerBase, pairs: bool = False
) -> str | None:
    """Return a short reason why two tokenizers read a text, or `pairs` of texts, as different tokens; else None."""
    vocabulary, other_vocabulary = one.get_vocab(), other.get_vocab()
    if len(vocabulary) != len(other_vocabulary):
        return f"size ({len(vocabulary)} and {len(other_vocabulary)} tokens)"
    if vocabulary != other_vocabulary:
        token = min(set(vocabulary.items()) ^ set(other_vocabulary.items()))[0]
        return f'their vocabulary (as at "{token}")'
    difference = None
    if one.is_fast and other.is_fast:
        difference = _pieces_difference(
            *(json.loads(side.backend_tokenizer.to_str())["model"] for side in (one, other))
        )
    if difference is None and one.tokenize(PROBE) != other.tokenize(PROBE):
        return "how they cut or lower-case text"
    if difference is None and pairs and dict(one("a", "b")) != dict(other("a", "b")):
        return "how they join two texts"
    return difference


def _pieces_difference(one: dict[str, Any], other: dict[str, Any]) -> str | None:
    """Compare two models with the same vocabulary: kind, merges, scores."""
    if one["type"] != other["type"]:
        return f"kind ({one['type']} and {other['type']})"
    merges, other_merges = ([tuple(pair) for pair in side.get("merges") or []] for side in (one, other))
    for pair, other_pair in zip_longest(merges, other_merges):
        if pair != other_pair:
            return f'their merges (as at "{" ".join(pair or other_pair)}")'
    scores = dict(other["vocab"]) if one["type"] == "Unigram" else {}
    for piece, score in one["vocab"] if scores else ():
        if not math.isclose(score, scores[piece], abs_tol=1e-4):
            return f'the scores of their pieces (as at "{piece}")'
    return None


def _lowers(tokenizer: PreTrainedTokenizerBase) -> bool:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None or backend.normalizer is None:
        return False
    return backend.normalizer.normalize_str("A") == "a"


def _wants_lower_case(tokenizer: PreTrainedTokenizerBase, folder: Path) -> bool | None:
    """Return what the vocabulary requires if the folder does not say; None to keep the tokenizer as loaded."""
    special = set(tokenizer.all_special_tokens)
    cased = any(token != token.lower() for token in tokenizer.get_vocab() if token not in special and "[" not in token)
    if not cased:
        return True if "do_lower_case" in tokenizer.init_kwargs or isinstance(tokenizer, BertTokenizer) else None
    settings = folder / "tokenizer_config.json"
    said = settings.is_file() and "do_lower_case" in json.loads(settings.read_text(encoding="utf-8"))
    only_vocabulary = (folder / "vocab.txt").is_file() and not (folder / "tokenizer.json").is_file()
    return False if only_vocabulary and not said else None
