"""GLUE and SuperGLUE: addresses, sizes and row counts of the official archives.

Sizes and checksums come from the `datasets` library, row counts from the papers' tables.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sinkd.errors import SinkdError, writing
from sinkd.exchange.archive import unpack
from sinkd.exchange.transfer import fetch
from sinkd.tasks.file_formats import lines

HOST = "https://dl.fbaipublicfiles.com"


@dataclass(frozen=True)
class Archive:
    """A file on the network: its path on the host, size in bytes and SHA-256."""

    path: str
    size: int
    sha256: str

    @property
    def name(self) -> str:
        """Its name on disk, where it is kept until its rows have been counted."""
        return self.path.rpartition("/")[2]


# Path on the host, bytes, SHA-256.
_ARCHIVES = """
glue/data/CoLA.zip 376971 f212fcd832b8f7b435fb991f101abf89f96b933ab400603bf198960dfc32cbff
glue/data/SST-2.zip 7439277 d67e16fb55739c1b32cdce9877596db1c127dc322d93c082281f64057c16deaa
senteval/senteval_data/msr_paraphrase_train.txt 1047044 60a9b09084528f0673eedee2b69cb941920f0b8cd0eeccefc464a98768457f89
senteval/senteval_data/msr_paraphrase_test.txt 441275 a04e271090879aaba6423d65b94950c089298587d9c084bf9cd7439bd785f784
glue/data/mrpc_dev_ids.tsv 6222 971d7767d81b997fd9060ade0ec23c4fc31cbb226a55d1bd4a1bac474eb81dc7
glue/data/STS-B.zip 802872 e60a6393de5a8b5b9bac5020a1554b54e3691f9d600b775bd131e613ac179c85
glue/data/QQP-clean.zip 41696084 40e7c862c04eb26ee04b67fd900e76c45c6ba8e6d8fab4f8f1f8072a1a3fbae0
glue/data/MNLI.zip 312783507 e7c1d896d26ed6caf700110645df426cc2d8ebf02a5ab743d5a5c68ac1c83633
glue/data/QNLIv2.zip 10627589 e634e78627a29adaecd4f955359b22bf5e70f2cbd93b493f2d624138a0c0e5f5
glue/data/RTE.zip 697150 6bf86de103ecd335f3441bd43574d23fef87ecc695977a63b82d5efb206556ee
glue/data/WNLI.zip 28999 ae0e8e4d16f4d46d4a0a566ec7ecceccfd3fbfaa4a7a4b4e02848c0f2561ac46
glue/data/AX.tsv 222257 0e13510b1bb14436ff7e2ee82338f0efb0133ecf2e73507a697dc210db3f05fd
glue/superglue/data/v2/BoolQ.zip 4118001 853fbe7922f70c59629f06a39e8d9ca440c3d740e760fd3b87a5ddf3dcba2436
glue/superglue/data/v2/CB.zip 75482 8d641383298d54554066ba1c93f56ae7410af75df621b90c63028806bbbbb535
glue/superglue/data/v2/COPA.zip 43986 405906cddac74bc1e1ce8220f1107d1025b66a25ef10149d91b10bb30651125f
glue/superglue/data/v2/MultiRC.zip 1116225 b3cd440856e72eb166b2edcd37b798455f1ebd51f2c3de64c0c2a4e1971d2737
glue/superglue/data/v2/ReCoRD.zip 51757880 30c7b651ab21b8bf8fab986495cd1084333010e040548f861b839eec0044ac18
glue/superglue/data/v2/RTE.zip 750920 6310aab3f000424c9d0318a1ff20692e07c7f4aa15e8f17a5972ea0a35c398b9
glue/superglue/data/v2/WiC.zip 396213 ee7e67f4ae9eafbf533780faa198e62167f3cda54256cdf261877be3c0e90900
glue/superglue/data/v2/WSC.zip 32751 2ed6dfa94556b4a128ff0441efe365b2e883124e7e6aa00fb8d3a6cb1fd520a9
glue/superglue/data/v2/AX-b.zip 33950 43b45c55a273575c58a33cd68f10a971f83daa3aa223bfbc4077b92fbdf960b3
glue/superglue/data/v2/AX-g.zip 10413 2d4e00d3a7d23d2c3787ee4c1382cc81a72cb05a76fc9d78d142949247ed61b9
"""
ARCHIVES = {
    path: Archive(path, int(size), digest) for path, size, digest in map(str.split, _ARCHIVES.split("\n")[1:-1])
}


@dataclass(frozen=True)
class Corpus:
    """One task's data.

    Attributes:
        folder: Its folder, in the published layout.
        rows: File -> number of rows; None if unknown.
        inside: The folder in a ZIP archive.
        headerless: Files without a header line.
        spare: Extra rows that a file may have, since the counts leave out malformed ones.
        make: Builds the files from the fetched ones, in the order of `archives`, if they are not in a ZIP archive.
    """

    folder: str
    archives: tuple[Archive, ...]
    rows: Mapping[str, int | None]
    inside: str = ""
    headerless: tuple[str, ...] = ()
    spare: int = 0
    make: Callable[[list[Path], Path], None] | None = None

    def plan(self, root: Path, host: str = HOST) -> list[str]:
        """One line per file that `fetch` transfers: its address and target."""
        return [f"{host}/{a.path} ({a.size:,} bytes) -> {root / self.folder}" for a in self.archives]

    def fetch(self, root: Path, host: str = HOST) -> str:
        """Fetch, unpack and count what is missing, and describe the result in one line.

        Raises:
            SinkdError: as `transfer.fetch` and `unpack`, and for a wrong number of rows.
        """
        folder, counts = root / self.folder, self.count(root)
        if counts is None:
            fetched = [fetch(f"{host}/{a.path}", root / a.name, a.size, a.sha256) for a in self.archives]
            if self.make is not None:
                with writing(folder):
                    folder.mkdir(parents=True, exist_ok=True)
                    self.make(fetched, folder)
            else:
                files = {f"{self.inside}/{file}": file for file in self.rows}
                unpack(fetched[0], folder, files, limit=max(1 << 26, 40 * self.archives[0].size))
            counts = self.count(root)
            assert counts is not None
            for path in fetched:
                path.unlink()
        return f"{folder}: {', '.join(f'{file} {count:,} rows' for file, count in counts.items())}"

    def count(self, root: Path) -> dict[str, int] | None:
        """Rows of each file; None if a file is missing. Raises SinkdError for a wrong number."""
        folder = root / self.folder
        if not all((folder / file).is_file() for file in self.rows):
            return None
        counts = {}
        for file, expected in self.rows.items():
            header = file.endswith(".tsv") and file not in self.headerless
            counts[file] = sum(1 for _ in lines(folder / file)) - header
            if expected is not None and not expected <= counts[file] <= expected + self.spare:
                raise SinkdError(
                    f"{folder / file} has {counts[file]:,} rows, not {expected:,}; delete {folder} and fetch it again"
                )
        return counts


def _mrpc(fetched: list[Path], folder: Path) -> None:
    """Build GLUE's MRPC from the published corpus and GLUE's list of dev rows."""
    train, test, numbers = fetched
    chosen = {line for _, line in lines(numbers)}
    header, *rows = (line for _, line in lines(train))
    split: dict[bool, list[str]] = {True: [], False: []}
    for row in rows:
        split["\t".join(row.split("\t")[1:3]) in chosen].append(row)
    asked = [row.split("\t", 1)[1] for _, row in lines(test)]
    numbered = [f"index\t{asked[0]}", *(f"{i}\t{row}" for i, row in enumerate(asked[1:]))]
    files = {"train.tsv": [header, *split[False]], "dev.tsv": [header, *split[True]], "test.tsv": numbered}
    for name, content in files.items():
        (folder / name).write_bytes(("\n".join(content) + "\n").encode("utf-8", "surrogateescape"))


def _ax(fetched: list[Path], folder: Path) -> None:
    (folder / "diagnostic.tsv").write_bytes(fetched[0].read_bytes())


def _glue(folder: str, archive: str, *rows: int, inside: str = "", **more: Any) -> Corpus:
    """A GLUE task in one ZIP archive; `rows` are the counts of train, dev and test."""
    counts = dict(zip(("train.tsv", "dev.tsv", "test.tsv"), rows, strict=True))
    return Corpus(folder, (ARCHIVES[f"glue/data/{archive}.zip"],), counts, inside or folder, **more)


def _superglue(folder: str, **rows: int | None) -> Corpus:
    counts = {f"{name}.jsonl": count for name, count in rows.items()}
    return Corpus(folder, (ARCHIVES[f"glue/superglue/data/v2/{folder}.zip"],), counts, folder)


_MRPC = ("senteval/senteval_data/msr_paraphrase_train.txt", "senteval/senteval_data/msr_paraphrase_test.txt")
_MNLI = {
    "train.tsv": 392702,
    "dev_matched.tsv": 9815,
    "dev_mismatched.tsv": 9832,
    "test_matched.tsv": 9796,
    "test_mismatched.tsv": 9847,
}

GLUE = {
    "cola": _glue("COLA", "CoLA", 8551, 1043, 1063, inside="CoLA", headerless=("train.tsv", "dev.tsv")),
    "sst-2": _glue("SST-2", "SST-2", 67349, 872, 1821),
    "mrpc": Corpus(
        "MRPC",
        tuple(ARCHIVES[path] for path in (*_MRPC, "glue/data/mrpc_dev_ids.tsv")),
        {"train.tsv": 3668, "dev.tsv": 408, "test.tsv": 1725},
        make=_mrpc,
    ),
    "sts-b": _glue("STS-B", "STS-B", 5749, 1500, 1379),
    "qqp": _glue("QQP", "QQP-clean", 363846, 40430, 390965, spare=16),
    "mnli": Corpus("MNLI", (ARCHIVES["glue/data/MNLI.zip"],), _MNLI, "MNLI"),
    "qnli": _glue("QNLI", "QNLIv2", 104743, 5463, 5463),
    "rte": _glue("RTE", "RTE", 2490, 277, 3000),
    "wnli": _glue("WNLI", "WNLI", 635, 71, 146),
    "ax": Corpus("AX", (ARCHIVES["glue/data/AX.tsv"],), {"diagnostic.tsv": 1104}, make=_ax),
}

SUPERGLUE = {
    "boolq": _superglue("BoolQ", train=9427, val=3270, test=3245),
    "cb": _superglue("CB", train=250, val=56, test=250),
    "copa": _superglue("COPA", train=400, val=100, test=500),
    "multirc": _superglue("MultiRC", train=None, val=None, test=None),
    "record": _superglue("ReCoRD", train=None, val=None, test=None),
    "rte": _superglue("RTE", train=2490, val=277, test=3000),
    "wic": _superglue("WiC", train=5428, val=638, test=1400),
    "wsc": _superglue("WSC", train=554, val=104, test=146),
    "ax-b": _superglue("AX-b", **{"AX-b": 1104}),
    "ax-g": _superglue("AX-g", **{"AX-g": 356}),
}
