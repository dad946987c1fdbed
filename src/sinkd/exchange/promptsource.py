"""The templates of promptsource (Bach et al. 2022), fetched from the package index: `sinkd prompts --fetch`.

The package refuses Python above 3.9 and depends on a web application, so it is downloaded but not installed. Only its
YAML files are stored, in the cache folder; an existing folder is complete.
"""

import os
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path

from sinkd.errors import SinkdError
from sinkd.exchange.archive import unpack
from sinkd.exchange.packages import pip_download
from sinkd.exchange.transfer import scratch
from sinkd.tasks.template_folders import PROMPTSOURCE, promptsource_dir

LIMIT = 32 << 20  # the archive unpacks to 1.4 MB


def fetch() -> Path:
    """Download the archive with pip and unpack its templates, if they are missing.

    Returns:
        The folder of the templates.

    Raises:
        SinkdError: if pip cannot download the archive (with pip's reason), or as `unpack_templates`.
    """
    folder = promptsource_dir()
    if folder.is_dir():
        return folder
    with tempfile.TemporaryDirectory() as download:
        try:
            archive = pip_download(PROMPTSOURCE, Path(download), "--ignore-requires-python")
        except SinkdError as error:
            raise SinkdError(f"{error}; the package index must be in reach") from error
        unpack_templates(archive, folder)
    return folder


def unpack_templates(archive: Path, folder: Path) -> None:
    """Unpack the templates of promptsource's archive, a source distribution or a wheel, into `folder`, all or none.

    Raises:
        SinkdError: if the archive contains no templates, or as `unpack`.
    """
    with tempfile.TemporaryDirectory() as unpacked, scratch(folder) as staged:
        unpack(archive, Path(unpacked), None, LIMIT)
        # a source distribution has the package in a folder, a wheel has it at the root
        packages = [Path(unpacked), *Path(unpacked).iterdir()]
        found = [place for package in packages if (place := package / "promptsource" / "templates").is_dir()]
        if not found or not any(found[0].rglob("*.yaml")):
            raise SinkdError(f"{archive} holds no templates, expected promptsource/templates/.../templates.yaml")
        shutil.copytree(found[0], staged, ignore=_no_template)
        try:
            os.rename(staged, folder)
        except OSError:  # another process was faster
            if not folder.is_dir():
                raise


def _no_template(folder: str, names: Iterable[str]) -> list[str]:
    return [name for name in names if not name.endswith(".yaml") and not Path(folder, name).is_dir()]
