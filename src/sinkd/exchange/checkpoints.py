"""Pretrained models from the hub, and the published teachers and students from Google Drive.

The result is a folder for `--model_path`. Weights are safetensors if the hub has them; a `pytorch_model.bin` is later
read with `weights_only=True`, and no other pickle is opened.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import HfApi, constants, snapshot_download

from sinkd.errors import SinkdError, first_sentence, writing
from sinkd.exchange.archive import is_archive, unpack

SMALL_FILES = ("config.json", "vocab.txt", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
WEIGHTS = ("model.safetensors", "pytorch_model.bin")
UNPACKED_LIMIT = 1 << 36  # bytes
INVENTORY = ".brought.json"  # path -> bytes of the files from Google Drive, written once all are complete


@dataclass(frozen=True)
class HubModel:
    """A model on the hub: the name of its local folder, and its name on the hub."""

    folder: str
    name: str

    def plan(self, root: Path, host: str = "") -> list[str]:
        """One line: the files, their source and their target."""
        return [f"https://huggingface.co/{self.name} -> {root / self.folder}"]

    def fetch(self, root: Path, host: str = "") -> str:
        """Fetch config, vocabulary, tokenizer and weights in one form, and describe the result in one line.

        Raises:
            SinkdError: if the hub cannot be reached (the message says what to fetch by hand), or has no such model.
        """
        folder = root / self.folder
        files = [name for name in (*SMALL_FILES, *WEIGHTS) if (folder / name).is_file()]
        if not ({"config.json", "vocab.txt"} <= set(files) and set(WEIGHTS) & set(files)):
            try:
                offered = HfApi().list_repo_files(self.name)
                weights = [name for name in WEIGHTS if name in offered][:1]
                if not weights:
                    raise OSError(f"it has neither {' nor '.join(WEIGHTS)}")
                files = [name for name in (*SMALL_FILES, *weights) if name in offered]
                snapshot_download(self.name, local_dir=folder, allow_patterns=files)
            except Exception as error:  # of the hub, its HTTP client, or the system
                raise SinkdError(
                    f"{self.name} cannot be fetched ({first_sentence(error)}); fetch config.json, vocab.txt and "
                    f"{' or '.join(WEIGHTS)} by hand from {constants.ENDPOINT}/{self.name}/tree/main into {folder}"
                ) from error
        return f"{folder}: {', '.join(files)}"


@dataclass(frozen=True)
class DriveFiles:
    """Models on Google Drive: the name of their local folder, and the id of a file or folder there."""

    folder: str
    id: str
    is_folder: bool

    @property
    def url(self) -> str:
        """Its address in a browser."""
        kind = f"drive/folders/{self.id}" if self.is_folder else f"file/d/{self.id}/view"
        return f"https://drive.google.com/{kind}"

    def plan(self, root: Path, host: str = "") -> list[str]:
        """One line: the files, their source and their target."""
        return [f"{self.url} -> {root / self.folder}"]

    def fetch(self, root: Path, host: str = "") -> str:
        """Fetch everything, unpack the archives, and list the models in one line.

        Raises:
            SinkdError: if gdown is not installed, or Google Drive refuses (the message says what to fetch by hand).
        """
        folder = root / self.folder
        inventory = folder / INVENTORY
        if not _is_complete(folder):
            self._download(folder)
            for path in filter(is_archive, sorted(folder.rglob("*"))):
                unpack(path, path.parent, None, UNPACKED_LIMIT)
                path.unlink()
            with writing(inventory):
                inventory.write_text(json.dumps(_sizes(folder), indent=1) + "\n", encoding="utf-8")
        models = ", ".join(str(path.parent) for path in sorted(folder.rglob("config.json")))
        return f"{folder}: {models or 'what was fetched is there, but it holds no config.json of a model'}"

    def _download(self, folder: Path) -> None:
        try:
            import gdown
        except ImportError as error:
            raise SinkdError(
                "gdown, which fetches from Google Drive, is not installed; pip install 'sinkd[download]' brings it"
            ) from error
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        try:
            download = gdown.download_folder if self.is_folder else gdown.download
            if not download(id=self.id, output=f"{folder}/", quiet=True, resume=True):
                raise OSError("nothing came")
        except Exception as error:  # of gdown, its HTTP client, or the system
            reason = " ".join(str(error).split()) or type(error).__name__  # gdown lists files line by line
            raise SinkdError(
                f"{self.url} cannot be fetched ({reason}); fetch it in a browser and unpack it into {folder}"
            ) from error


def _sizes(folder: Path) -> dict[str, int]:
    """Bytes of each file below a folder."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != INVENTORY]
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in files}


def _is_complete(folder: Path) -> bool:
    """True if all files of the inventory exist with their recorded sizes."""
    try:
        inventory = json.loads((folder / INVENTORY).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(inventory, dict) and inventory.items() <= _sizes(folder).items()


# The models that the published commands start from, and the published teachers and students.
BERT = {
    "bert-base-uncased": HubModel("bert-base-uncased", "google-bert/bert-base-uncased"),
    "bert_uncased_L-6_H-768_A-12": HubModel("bert_uncased_L-6_H-768_A-12", "google/bert_uncased_L-6_H-768_A-12"),
}
PUBLISHED = {
    "encoders": DriveFiles("encoders", "1BsA0VHKSa_-Bp5I7dQ2Ftk2q7cIyPrdC", is_folder=True),
    "generative": DriveFiles("generative", "1sBi35Dk8VJ7TU0warB6BL9QKx-in9Ww6", is_folder=False),
}
