"""Find templates by task and name.

Searches three places in this order; the first of two templates with the same name wins:

1. `templates_dir`: templates.yaml in it, or in super_glue/copa, copa, anli ... below it;
2. the package's own;
3. promptsource's, once `sh T0/ins.sh` has fetched them (exchange/promptsource.py).
"""

from __future__ import annotations

from pathlib import Path

from sinkd.errors import SinkdError
from sinkd.tasks.arrow_cache import cache_dir
from sinkd.tasks.superglue import superglue_name, wordings
from sinkd.tasks.template import Template, read_templates

OWN = Path(__file__).resolve().parent / "wordings"
FILE = "templates.yaml"
LABELLED = ("glue/", "table/")  # tasks with labels, which have no templates of their own
PROMPTSOURCE = "promptsource==0.2.3"


def promptsource_dir() -> Path:
    """Return the folder of promptsource's templates, which exists once they are fetched."""
    return cache_dir() / PROMPTSOURCE.replace("==", "-")


def templates(task_name: str, templates_dir: str | Path | None = None) -> list[Template]:
    """Return all templates of a task, each name once; those of a task with labels are in `templates_dir` alone.

    Raises:
        SinkdError: for an unknown task, a folder without the task's templates (names the places searched), or a file
            without templates.
    """
    files = [_file_in(Path(templates_dir), task_name)] if templates_dir is not None else []
    if templates_dir is None or not task_name.startswith(LABELLED):
        shared = wordings(superglue_name(task_name))
        files += [path for path in (OWN / shared / FILE, promptsource_dir() / shared / FILE) if path.is_file()]
    found: dict[str, Template] = {}
    for path in files:
        for template in read_templates(path):
            found.setdefault(template.name, template)
    return list(found.values())


def find_template(task_name: str, template_name: str, templates_dir: str | Path | None = None) -> Template:
    """Return the template of a task with this name, compiled.

    Raises:
        SinkdError: for an unknown name (lists the known ones), malformed Jinja, or as `templates`.
    """
    known = {template.name: template for template in templates(task_name, templates_dir)}
    template = known.get(template_name.strip())
    if template is None:
        names = ", ".join(f'"{name}"' for name in known)
        missing = "" if promptsource_dir().is_dir() else "; sh T0/ins.sh fetches promptsource's"
        raise SinkdError(f'{task_name} has no template "{template_name}"; there are {names}{missing}')
    template.check()
    return template


def _file_in(folder: Path, task_name: str) -> Path:
    """Return the file of a task's templates in a user's folder."""
    if task_name.startswith(LABELLED):
        places = dict.fromkeys((task_name, task_name.rpartition("/")[2], "."))
    else:
        known = superglue_name(task_name)
        shared = wordings(known)
        places = dict.fromkeys((shared, shared.rpartition("/")[2], known, known.partition("/")[0], "."))
    looked = [folder / place / FILE for place in places]
    for path in looked:
        if path.is_file():
            return path
    raise SinkdError(f"no templates of {task_name} in {folder}: looked for {', '.join(map(str, looked))}")
