"""Jinja templates of task files, compiled once.

lm-eval compiles a template anew for every example, which for short examples takes longer than the model. So templates
are handed to it as functions. They give what lm-eval makes of the template's text: a number where an answer is chosen
by number, a list where the text spells one. A template sees the fields of the example by name, and all of it as
``row``: some fields have names with spaces.
"""

import ast
from collections.abc import Callable, Mapping
from typing import Any

import jinja2

from components.core.errors import InputError

_ENVIRONMENT = jinja2.Environment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
Template = Callable[[Mapping[str, Any]], Any]


def compiled(fields: Mapping[str, Any], source: object) -> dict[str, Any]:
    """``fields`` of a task file with functions in place of its templates; ``source`` is named in errors."""
    by_number = fields.get("doc_to_choice") is not None
    made = dict(fields)
    for name, convert in (("doc_to_text", _number), ("doc_to_target", _target), ("doc_to_choice", _list)):
        template = fields.get(name)
        if isinstance(template, str) and "{" in template:
            made[name] = _function(template, convert if by_number or convert is _list else _plain(convert), source)
    return made


def _function(template: str, convert: Callable[[str], Any], source: object) -> Template:
    try:
        parsed = _ENVIRONMENT.from_string(template)
    except jinja2.TemplateSyntaxError as error:
        raise InputError(f"{source} is not a task file: the template {template!r} is malformed: {error}") from error

    def render(row: Mapping[str, Any]) -> Any:
        try:
            return convert(parsed.render(**row, row=row))
        except jinja2.UndefinedError as error:
            raise InputError(f"{source} does not fit its data: {error}; the example has {', '.join(row)}") from error

    return render


def _number(text: str) -> Any:
    return int(text) if text.isdigit() else text


def _target(text: str) -> Any:
    if text.isdigit():
        return int(text)
    return _spelled(text)


def _plain(convert: Callable[[str], Any]) -> Callable[[str], Any]:
    """Without choices a number is text; a target may still be a list."""
    return _spelled if convert is _target else str


def _spelled(text: str) -> Any:
    if text.startswith("[") and text.endswith("]"):
        try:
            return ast.literal_eval(text)
        except (SyntaxError, ValueError):
            return text
    return text


def _list(text: str) -> Any:
    return ast.literal_eval(text)
