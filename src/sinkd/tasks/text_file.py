"""Files of text, plain or compressed by gzip, in UTF-8 or another encoding. Others are named for what they are."""

from __future__ import annotations

import codecs
import gzip
import io
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast

from sinkd.errors import SinkdError, first_sentence

HEAD = 512  # bytes that tell what a file is
GZIP = b"\x1f\x8b"
# A file's byte order mark, which outranks `encoding`. UTF-32's begins with UTF-16's, so it comes first.
MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32"), (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"), (codecs.BOM_UTF8, "utf-8"),
)  # fmt: skip

REWRITE = "write its rows as csv, tsv, jsonl or parquet"
UNPACK = "unpack it first"
# First bytes, what the file is, what to do.
OTHERS = (
    (b"PAR1", "a Parquet file", "name it .parquet"),
    (b"ARROW1", "an Arrow file", REWRITE),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an Excel workbook (xls)", "save its sheet as CSV"),
    (b"\x93NUMPY", "a NumPy array", REWRITE),
    *((bytes([0x80, protocol]), "a pickle", REWRITE) for protocol in range(2, 6)),
    (b"SQLite format 3\0", "an SQLite database", REWRITE),
    (b"\x89HDF\r\n", "an HDF5 file", REWRITE),
    (b"Obj\x01", "an Avro file", REWRITE),
    (b"%PDF-", "a PDF document", REWRITE),
    (b"\xfd7zXZ\0", "an xz archive", UNPACK),
    *((b"BZh%d1AY&SY" % level, "a bzip2 archive", UNPACK) for level in range(1, 10)),
    (b"\x28\xb5\x2f\xfd", "a zstd archive", UNPACK),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", UNPACK),
    (b"Rar!\x1a\x07", "a RAR archive", UNPACK),
    (b"version https://git-lfs.github.com/spec", "a pointer to a file in Git LFS", "fetch the file by git lfs pull"),
    (b"<!doctype html", "a web page", "download the file itself"),
    (b"<html", "a web page", "download the file itself"),
)
# A ZIP archive is told by its members.
ZIPPED = (
    ("xl/", "an Excel workbook", "save its sheet as CSV"),
    ("content.xml", "an OpenDocument file", "save its sheet as CSV"),
    ("word/", "a Word document", REWRITE),
    (".npy", "a NumPy archive", REWRITE),
    ("/data.pkl", "a file of torch.save", REWRITE),
)


def text_lines(path: Path, encoding: str = "utf-8", newline: str = "\n") -> Iterator[str]:
    """Yield a file's lines with their ends, without its byte order mark.

    Bytes that the encoding does not have become lone surrogates, as by Python's "surrogateescape", and `decode` names
    them; in UTF-16 and UTF-32 they are an error.

    Args:
        path: The file; one that gzip compressed is unpacked on the way.
        encoding: Its encoding as `known` names it, unless it has a byte order mark.
        newline: "\\n" ends lines there alone; "" also at carriage returns.

    Raises:
        SinkdError: if the file cannot be opened or is damaged, is not text, or has another encoding.
    """
    try:
        with path.open("rb") as file:
            packed = file.peek(HEAD).startswith(GZIP)
            source = cast(BinaryIO, gzip.GzipFile(fileobj=file) if packed else file)
            head = source.read(HEAD)
            source.seek(0)
            encoding = next((found for mark, found in MARKS if head.startswith(mark)), encoding)
            _refuse_others(path, head, encoding)
            wide = encoding.startswith(("utf-16", "utf-32"))
            errors = "strict" if wide else "surrogateescape"
            with io.TextIOWrapper(source, encoding, errors, newline) as text:
                for number, line in enumerate(text):
                    yield line if number else line.removeprefix("\ufeff")
    except UnicodeError as error:
        raise SinkdError(f"{path} is not text in {encoding} ({first_sentence(error)}); name its encoding") from error
    except (OSError, EOFError, zlib.error) as error:
        raise SinkdError(f"{path} cannot be read ({first_sentence(error)})") from error


def known(encoding: str) -> str:
    """Return an encoding's usual name. Raises SinkdError for one that Python does not know, or that is not of text."""
    try:
        io.TextIOWrapper(io.BytesIO(), encoding)
        return codecs.lookup(encoding).name
    except (LookupError, ValueError):
        raise SinkdError(f"found encoding {encoding!r}, expected a name such as latin-1, cp1252 or gb18030") from None


def decode(line: str, encoding: str = "utf-8") -> str:
    """Return a line of `text_lines`; a SinkdError names the byte that the encoding does not have, and its position."""
    if not line.isascii():
        try:
            line.encode("utf-8")
        except UnicodeEncodeError as error:
            found = f"found byte 0x{ord(line[error.start]) & 0xFF:02x} at character {error.start + 1} of the line"
            raise SinkdError(f"{found}, expected {encoding.upper()} text, or its encoding by --encoding") from None
    return line


def _refuse_others(path: Path, head: bytes, encoding: str) -> None:
    """Raise SinkdError for a file whose first bytes are not those of text."""
    found = next((other[1:] for other in OTHERS if head.lower().startswith(other[0].lower())), None)
    if head.startswith(b"PK\x03\x04"):
        found = _zipped(path)
    elif not found and encoding == "utf-8" and len(head) >= 8 and not any(head[1::2]):
        found = "text in UTF-16 without byte order mark", "read it with --encoding utf-16-le"
    if found:
        raise SinkdError(f"{path} is {found[0]}, expected a table; {found[1]}")


def _zipped(path: Path) -> tuple[str, str]:
    try:
        with zipfile.ZipFile(path) as archive:
            names = " ".join(archive.namelist())
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        names = ""
    return next((kind[1:] for kind in ZIPPED if kind[0] in names), ("a ZIP archive", UNPACK))
