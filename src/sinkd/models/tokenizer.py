"""Tokenizers: loading them, and telling whether two read a text as the same tokens."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, BertTokenizer, PretrainedConfig, PreTrainedTokenizerBase

from sinkd.errors import SinkdError, first_sentence
from sinkd.models.config import find_checkpoint, load_config, untyped_bert

TOKENIZER_FILES = (
    "tokenizer.json",
    "vocab.txt",
    "vocab.json",
    "spiece.model",
    "sentencepiece.bpe.model",
    "spm.model",
    "tokenizer.model",
)


def load_tokenizer(
    path: str, flag: str, do_lower_case: bool = False, config: PretrainedConfig | None = None
) -> PreTrainedTokenizerBase:
    """The tokenizer in a model's folder, or on the hub; with a model's `config` also in a folder without a model.

    do_lower_case forces lower case. Without it the folder decides, but an uncased vocabulary never sees capitals (each
    would be an unknown word), nor does a cased one lose them where the folder holds a vocabulary alone.
    """
    bare = config is not None and Path(path).is_dir() and has_tokenizer(path)
    folder = path if bare else find_checkpoint(path, flag)
    if Path(folder).is_dir() and not has_tokenizer(folder):  # transformers would make an empty one
        raise SinkdError(f"{flag} {path} holds no tokenizer: none of {', '.join(TOKENIZER_FILES)} is in {folder}")
    try:
        typed = config if bare and not (Path(folder) / "config.json").is_file() else untyped_bert(Path(folder))
        known = {} if typed is None else {"config": typed}
        tokenizer = AutoTokenizer.from_pretrained(folder, **known)
        wanted = True if do_lower_case else _lower_case(tokenizer, Path(folder))
        if wanted is not None and wanted != _lowers(tokenizer):
            tokenizer = AutoTokenizer.from_pretrained(folder, do_lower_case=wanted, **known)
    except (OSError, ValueError) as error:
        raise SinkdError(f"the tokenizer of {flag} {path} cannot be loaded: {first_sentence(error)}") from error
    return tokenizer


def has_tokenizer(path: str) -> bool:
    """Does a model's folder hold a tokenizer? What is no folder (a hub name) is asked of the hub."""
    folder = Path(path)
    if folder.is_dir():
        return any((folder / name).is_file() for name in TOKENIZER_FILES)
    try:
        tokenizer = AutoTokenizer.from_pretrained(path)
    except (OSError, ValueError):
        return False
    return len(tokenizer) > len(tokenizer.all_special_tokens)


def tokenizers_of(
    teacher: str,
    student: str,
    do_lower_case: bool = False,
    named: str | None = None,
    config_path: str | None = None,
    *,
    may_differ: bool = False,
) -> tuple[PreTrainedTokenizerBase, PreTrainedTokenizerBase]:
    """The tokenizers of a teacher and a student: one object if they are the same.

    Args:
        teacher: A model's folder, or a name on the hub.
        student: Likewise; a student's folder without a tokenizer takes the teacher's.
        do_lower_case: Force lower case.
        named: Another place of a tokenizer for both, for models whose folders hold none.
        config_path: Another place of the student's config.
        may_differ: Let a student keep a tokenizer of its own.

    Raises:
        SinkdError: The folders hold different tokenizers and must not; what differs is named.
    """
    if named is None:
        tokenizer = load_tokenizer(teacher, "--teacher_path", do_lower_case)
    else:
        config = load_config(teacher, "--teacher_path")
        tokenizer = load_tokenizer(named, "--tokenizer_name", do_lower_case, config)
    for side, path in (("teacher", teacher), ("student", student)):
        flag = f"--{side}_path"
        if (side == "teacher" and named is None) or not has_tokenizer(find_checkpoint(path, flag)):
            continue
        own = load_tokenizer(path, flag, do_lower_case)
        difference = tokenizer_difference(tokenizer, own)
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
    student_config = load_config(config_path or student, "--config_name" if config_path else "--student_path")
    vocabulary = student_config.vocab_size
    if len(tokenizer) > vocabulary:
        raise SinkdError(
            f"the teacher's tokenizer has {len(tokenizer)} tokens, the student's embedding {vocabulary}; "
            "give a student that was made with the teacher's vocabulary"
        )
    return tokenizer, tokenizer


def different_tokens(difference: str | None, why: str = "") -> SinkdError:
    """The error for a teacher and a student that read different tokens. why: what needs them to be the same."""
    return SinkdError(
        f"teacher and student must read the same tokens{why}, and their tokenizers differ in {difference}; "
        "give a student that was made with the teacher's vocabulary"
    )


# What tokenizers may cut apart or change in different ways: capitals, accents, digits, spaces, other scripts.
PROBE = "A Café, naïve.  In 2026: 'tis\n\tÜber 12,345 词"


def tokenizer_difference(one: PreTrainedTokenizerBase, other: PreTrainedTokenizerBase) -> str | None:
    """In a few words what makes two tokenizers read a text as different tokens; None where nothing was found."""
    vocabulary, other_vocabulary = one.get_vocab(), other.get_vocab()
    if vocabulary != other_vocabulary:
        if len(vocabulary) != len(other_vocabulary):
            return f"size ({len(vocabulary)} and {len(other_vocabulary)} tokens)"
        token = min(set(vocabulary.items()) ^ set(other_vocabulary.items()))[0]
        return f'their vocabulary (as at "{token}")'
    if one.is_fast and other.is_fast:
        difference = _pieces_difference(*(json.loads(side.backend_tokenizer.to_str())["model"] for side in (one, other)))
        if difference is not None:
            return difference
    if one.tokenize(PROBE) != other.tokenize(PROBE):
        return "how they cut or lower-case text"
    return None


def _pieces_difference(one: dict[str, Any], other: dict[str, Any]) -> str | None:
    """What differs in how two models over one vocabulary put its pieces together: kind, merges, scores."""
    if one["type"] != other["type"]:
        return f"kind ({one['type']} and {other['type']})"
    merges, other_merges = ([tuple(pair) for pair in side.get("merges") or []] for side in (one, other))
    if merges != other_merges:
        places = [i for i, pair in enumerate(zip(merges, other_merges, strict=False)) if pair[0] != pair[1]]
        place = places[0] if places else min(len(merges), len(other_merges))
        pair = (merges if place < len(merges) else other_merges)[place]
        return f'their merges (as at "{" ".join(pair)}")'
    if one["type"] == "Unigram":
        scores = dict(other["vocab"])
        moved = [piece for piece, score in one["vocab"] if not math.isclose(score, scores[piece], abs_tol=1e-4)]
        if moved:
            return f'the scores of their pieces (as at "{moved[0]}")'
    return None


def _lowers(tokenizer: PreTrainedTokenizerBase) -> bool:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None or backend.normalizer is None:
        return False
    return backend.normalizer.normalize_str("A") == "a"


def _lower_case(tokenizer: PreTrainedTokenizerBase, folder: Path) -> bool | None:
    """What the vocabulary asks for, where the folder leaves it open; None: as loaded."""
    special = set(tokenizer.all_special_tokens)
    cased = any(token != token.lower() for token in tokenizer.get_vocab() if token not in special and "[" not in token)
    if not cased:
        return True if "do_lower_case" in tokenizer.init_kwargs or isinstance(tokenizer, BertTokenizer) else None
    settings = folder / "tokenizer_config.json"
    said = settings.is_file() and "do_lower_case" in json.loads(settings.read_text(encoding="utf-8"))
    only_vocabulary = (folder / "vocab.txt").is_file() and not (folder / "tokenizer.json").is_file()
    return False if only_vocabulary and not said else None
