"""Models on the network: from the hub, and the published checkpoints from their Google Drive.

What is fetched is a folder that `--model_path` takes. Weights are safetensors where the hub has them; a
`pytorch_model.bin` is read with `weights_only=True` later, and no other pickle is ever opened.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import HfApi, constants, snapshot_download

from sinkd.errors import SinkdError, first_sentence
from sinkd.exchange.archive import is_archive, unpack
from sinkd.exchange.transfer import writing

# The pretrained models that the published commands start from: folder -> name on the hub.
BERT = {
    "bert-base-uncased": "google-bert/bert-base-uncased",
    "bert_uncased_L-6_H-768_A-12": "google/bert_uncased_L-6_H-768_A-12",
}
SMALL_FILES = ("config.json", "vocab.txt", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
HOW_TO_INSTALL = "gdown fetches from Google Drive and is not installed; pip install 'sinkd[download]' brings it"
UNPACKED_LIMIT = 1 << 36  # bytes
BROUGHT = ".brought.json"  # path -> bytes of what came from Google Drive, written when all of it was there


@dataclass(frozen=True)
class Drive:
    """Something on Google Drive: its number, and whether it is a folder or a file."""

    id: str
    is_folder: bool

    @property
    def url(self) -> str:
        """Where a browser finds it."""
        kind = f"drive/folders/{self.id}" if self.is_folder else f"file/d/{self.id}/view"
        return f"https://drive.google.com/{kind}"


# The teachers and students that the published system gives away.
PUBLISHED = {
    "encoders": Drive("1BsA0VHKSa_-Bp5I7dQ2Ftk2q7cIyPrdC", True),
    "generative": Drive("1sBi35Dk8VJ7TU0warB6BL9QKx-in9Ww6", False),
}


def fetch_model(name: str, folder: Path) -> list[Path]:
    """A model of the hub into `folder`: config, vocabulary, tokenizer and weights in one form; a cut transfer goes on.

    Raises SinkdError where the hub cannot be reached, with what to fetch by hand, or has no such model.
    """
    have = [folder / file for file in SMALL_FILES if (folder / file).is_file()]
    weights = [folder / file for file in ("model.safetensors", "pytorch_model.bin") if (folder / file).is_file()]
    if weights and folder / "config.json" in have and folder / "vocab.txt" in have:
        return [*have, weights[0]]
    try:
        offered = HfApi().list_repo_files(name)
        weight_file = next((file for file in ("model.safetensors", "pytorch_model.bin") if file in offered), None)
        if weight_file is None:
            raise SinkdError(f"{name} on the hub holds neither model.safetensors nor pytorch_model.bin")
        wanted = [file for file in (*SMALL_FILES, weight_file) if file in offered]
        snapshot_download(name, local_dir=folder, allow_patterns=wanted)
    except SinkdError:
        raise
    except Exception as error:  # the hub's own classes, its client's and the system's
        reason = first_sentence(error)
        url = f"{constants.ENDPOINT}/{name}/tree/main"
        files = "config.json, vocab.txt and model.safetensors (or pytorch_model.bin)"
        raise SinkdError(
            f"{name} cannot be fetched ({reason}); fetch {files} from {url} by hand and put them into {folder}"
        ) from error
    return [folder / file for file in wanted]


def fetch_published(name: str, folder: Path) -> list[Path]:
    """Published checkpoints into `folder`, archives unpacked there; returns the folders that hold a model's config.

    What was brought whole before, and is there in its size, is not asked for again. Raises SinkdError where gdown is
    missing, or Google Drive refuses, with what to fetch by hand.
    """
    if not _is_whole(folder):
        _bring(PUBLISHED[name], folder)
        for path in sorted(folder.rglob("*")):
            if is_archive(path):
                unpack(path, path.parent, None, UNPACKED_LIMIT)
                path.unlink()
        with writing(folder / BROUGHT):
            (folder / BROUGHT).write_text(json.dumps(_sizes(folder), indent=1) + "\n", encoding="utf-8")
    return sorted(path.parent for path in folder.rglob("config.json"))


def _bring(drive: Drive, folder: Path) -> None:
    try:
        import gdown
    except ImportError as error:
        raise SinkdError(HOW_TO_INSTALL) from error
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    try:
        bring = gdown.download_folder if drive.is_folder else gdown.download
        if not bring(id=drive.id, output=f"{folder}/", quiet=True, resume=True):
            raise OSError("nothing came")
    except Exception as error:  # gdown's own classes, requests' and the system's
        reason = " ".join(str(error).split()) or type(error).__name__  # gdown lists files line by line
        raise SinkdError(
            f"{drive.url} cannot be fetched ({reason}); fetch it in a browser and unpack it into {folder}"
        ) from error


def _sizes(folder: Path) -> dict[str, int]:
    """Bytes of each file below a folder."""
    return {
        path.relative_to(folder).as_posix(): path.stat().st_size
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != BROUGHT
    }


def _is_whole(folder: Path) -> bool:
    """Is all there that was there when everything had come?"""
    try:
        brought = json.loads((folder / BROUGHT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(brought, dict) and brought.items() <= _sizes(folder).items()
