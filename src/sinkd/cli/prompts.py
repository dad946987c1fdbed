"""`sinkd prompts`: list a task's templates by name, or fetch promptsource's from the package index."""

from collections.abc import Sequence

from sinkd.errors import SinkdError
from sinkd.exchange.promptsource import fetch
from sinkd.report import Table, show
from sinkd.tasks import Template, templates
from sinkd.tasks.template_folders import OWN, promptsource_dir
from sinkd.training.parser import ArgumentParser


def parser() -> ArgumentParser:
    """The flags."""
    parser = ArgumentParser(prog="sinkd prompts", description=__doc__)
    parser.add_argument("--task_name", help="list the templates of this task: superglue/copa, boolq, anli/r1 ...")
    parser.add_argument("--templates_dir", help="a folder of your own templates, in promptsource's format")
    parser.add_argument("--fetch", action="store_true", help="fetch promptsource's templates, if they are missing")
    parser.add_argument("--traceback", action="store_true", help="show the traceback of an error")
    return parser


def main(argv: Sequence[str]) -> None:
    """Run a command line."""
    args = parser().parse_args(argv)
    if not (args.fetch or args.task_name):
        raise SinkdError("--task_name is missing; name a task to list its templates, or give --fetch")
    if args.fetch:
        print(f"promptsource's templates are in {fetch()}")
    if args.task_name:
        show(_table(args.task_name, templates(args.task_name, args.templates_dir)))


def _table(task_name: str, found: Sequence[Template]) -> Table:
    table = Table(f"templates of {task_name}", ["name", "from", "names the choices"])
    table.note = "" if promptsource_dir().is_dir() else "sinkd prompts --fetch adds promptsource's"
    for template in found:
        said = {True: "yes", False: "no", None: ""}[template.choices_in_prompt]
        table.add(template.name, _origin(template), said if template.answer_choices else "any answer")
    return table


def _origin(template: Template) -> str:
    for name, folder in {"sinkd": OWN, "promptsource": promptsource_dir()}.items():
        if template.source is not None and template.source.is_relative_to(folder):
            return name
    return str(template.source)
