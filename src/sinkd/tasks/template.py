"""Prompt templates in promptsource's format: from a row to a prompt, an answer and the answers to choose from.

- YAML is read by a safe loader that knows two more tags, `!Template` and `!TemplateMetadata`, as plain mappings.
- Jinja runs in its sandbox: a template is third-party code, and may only read the row.
- A name that the row does not have is an error, not an empty string.
"""

from __future__ import annotations

import functools
import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from jinja2 import StrictUndefined, pass_context
from jinja2.meta import find_undeclared_variables
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

from sinkd.errors import SinkdError, first_sentence
from sinkd.tasks.arrow_cache import key_of
from sinkd.tasks.file_formats import excerpt

BAR = "|||"
HIDDEN_BAR = "\ue000\ue001\ue000"  # stands for ||| within a row's text; private-use characters


class Rendered(NamedTuple):
    """A rendered row. `target` is its answer, "" for none; `choices` is [] if any text may be the answer."""

    prompt: str
    target: str
    choices: list[str]


@dataclass(frozen=True)
class Template:
    """A way to word a task's rows.

    Attributes:
        name: Unique among the templates of its file.
        jinja: prompt ||| answer.
        answer_choices: answer ||| answer ...; None if any text may be the answer.
        choices_in_prompt: True if the prompt names the choices; None if its author did not say.
        source: The file of the template; None if it was given as text.
    """

    name: str
    jinja: str
    answer_choices: str | None = None
    choices_in_prompt: bool | None = None
    source: Path | None = None

    @property
    def fingerprint(self) -> str:
        """Hash of everything that the output depends on."""
        return key_of("template", self.jinja, self.answer_choices)

    def render(self, row: Mapping[str, Any], seed: int = 0) -> Rendered:
        """Render prompt, answer and choices of a row, stripped.

        The filter `choice` draws by the seed and the row's own idx, so the result is the same in every process. A
        template that does not apply to a row gives "" for prompt or answer.

        Raises:
            SinkdError: if the template fails on this row; names the template, the example and the reason.
        """
        prompt, target, choices = self.spaced(row, seed)
        return Rendered(prompt.strip(), target.strip(), [choice.strip() for choice in choices])

    def spaced(self, row: Mapping[str, Any], seed: int = 0) -> Rendered:
        """Render as `render` does, with all white space, except the spaces around |||."""
        values = {name: _hide(value) for name, value in row.items()}
        example = row.get("idx", row.get("uid", "without idx"))
        if isinstance(example, Mapping):
            example = "-".join(map(str, example.values()))
        try:
            text, choices = self._program.render(values, f"{seed} {example}")
        except Exception as error:  # a template is a program and may fail in any way
            raise self._failure(example, f"{type(error).__name__}: {error}") from error
        parts = [_show(part) for part in text.split(BAR)]
        if len(parts) > 2:
            raise self._failure(example, f"found {len(parts)} parts between {BAR}, expected a prompt and an answer")
        if len(parts) == 2:
            parts = [parts[0].removesuffix(" "), parts[1].removeprefix(" ")]
        prompt, target = (*parts, "")[:2]
        return Rendered(prompt, target, [_show(choice).strip(" ") for choice in choices])

    def check(self) -> None:
        """Raise SinkdError if the Jinja is malformed or uses an unknown filter."""
        try:
            self._program  # noqa: B018 - compiling it is the check
        except Exception as error:  # Jinja's own; or brackets hundreds deep, numbers of thousands of digits
            place = "" if self.source is None else f" of {self.source}"
            raise SinkdError(f"template {self.name!r}{place} is not well formed: {first_sentence(error)}") from error

    @property
    def names(self) -> set[str]:
        """The names of a row that prompt, answer and choices read."""
        return self._program.names

    def _failure(self, example: object, reason: str) -> SinkdError:
        return SinkdError(f"template {self.name!r} fails on example {example}: {' '.join(reason.split())}")

    @functools.cached_property
    def _program(self) -> _Program:
        return _Program(self.jinja, self.answer_choices)


class _Program:
    """A compiled template and the random state that its `choice` filter draws from."""

    def __init__(self, jinja: str, answer_choices: str | None):
        self.random = random.Random()
        environment = ImmutableSandboxedEnvironment(undefined=StrictUndefined, keep_trailing_newline=True)
        environment.globals["zip"] = zip
        environment.filters |= {"choice": self._choice, "most_frequent": most_frequent, "highlight": highlight}
        environment.filters["random"] = self._choice  # Jinja's own knows no seed
        self._text = environment.from_string(jinja)
        self._choices = None if answer_choices is None else environment.from_string(answer_choices)
        used = [find_undeclared_variables(environment.parse(source)) for source in (jinja, answer_choices or "")]
        self.names = (used[0] - {"answer_choices"} | used[1]) - environment.globals.keys()

    def render(self, values: dict[str, Any], seed: str) -> tuple[str, list[str]]:
        """Return the text and the choices; none for a template without."""
        self.random.seed(seed)
        rendered = "" if self._choices is None else self._choices.render(values)
        choices = rendered.split(BAR) if rendered.strip() else []
        shown = None if self._choices is None else [choice.strip() for choice in choices]
        return self._text.render(values | {"answer_choices": shown}), choices

    # Jinja folds filters of constants at compile time, unless they take the context.
    @pass_context
    def _choice(self, context: Context, items: Iterable[Any]) -> Any:
        items = list(items)
        if not items:
            raise ValueError("the filter choice has nothing to choose from")
        return self.random.choice(items)


def most_frequent(items: Sequence[Any]) -> list[Any]:
    """Return the most frequent items, all of them if there is a tie, in order of first appearance."""
    counts = Counter(items)
    return [item for item, count in counts.items() if count == max(counts.values())]


def highlight(text: str) -> str:
    """Return the text as HTML in promptsource's highlight colour."""
    return f"<span style='color: #F08080'>{text}</span>"


def _hide(value: Any) -> Any:
    if isinstance(value, str):
        return value.replace(BAR, HIDDEN_BAR)
    if isinstance(value, Mapping):
        return {name: _hide(inner) for name, inner in value.items()}
    return [_hide(inner) for inner in value] if isinstance(value, list | tuple) else value


def _show(text: str) -> str:
    return text.replace(HIDDEN_BAR, BAR)


class _Loader(yaml.SafeLoader):
    """Loads YAML's plain types, and promptsource's two tags as mappings."""


def _mapping(loader: yaml.SafeLoader, node: yaml.Node) -> dict[Any, Any]:
    if not isinstance(node, yaml.MappingNode):
        raise yaml.constructor.ConstructorError(None, None, f"{node.tag} stands before other than a mapping")
    return loader.construct_mapping(node, deep=True)


for _tag in ("!Template", "!TemplateMetadata"):
    _Loader.add_constructor(_tag, _mapping)


def read_templates(path: Path) -> list[Template]:
    """Read the templates of a YAML file, in file order.

    Raises:
        SinkdError: if the file is not YAML, uses a tag other than promptsource's two, or lacks a field; names the file,
            the template and the expected content.
    """
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)  # a safe loader: see above
    except Exception as error:  # PyYAML fails in any way on a value with a wrong tag
        raise SinkdError(f"{path} is not a file of templates: {' '.join(str(error).split())}") from error
    found = content.get("templates") if isinstance(content, dict) else None
    if not isinstance(found, dict):
        raise SinkdError(f"{path} is not a file of templates: expected the key 'templates' with a mapping")
    return [_template(key, fields, path) for key, fields in found.items()]


def _template(key: object, fields: Any, path: Path) -> Template:
    place = f"{path}, template {excerpt(key)}"
    if not isinstance(fields, dict):
        raise SinkdError(f"{place}: found {excerpt(fields)}, expected the fields of a !Template")
    for field, value in {"name": key, "jinja": None, "answer_choices": ""}.items():
        if not isinstance(found := fields.get(field) or value, str):
            raise SinkdError(f"{place}, field {field!r}: found {excerpt(found)}, expected text")
    about = fields.get("metadata") or {}
    if not isinstance(about, dict):
        raise SinkdError(f"{place}, field 'metadata': found {excerpt(about)}, expected a mapping")
    named = about.get("choices_in_prompt")
    return Template(
        name=str(fields.get("name") or key).strip(),
        jinja=fields["jinja"],
        answer_choices=fields.get("answer_choices") or None,
        choices_in_prompt=named if isinstance(named, bool) else None,
        source=path,
    )
