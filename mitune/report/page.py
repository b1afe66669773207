"""Sections, and the page that they make."""

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup


@dataclass(frozen=True, kw_only=True)
class Section:
    """A part of a page under its own heading.

    Attributes:
        title: of the heading, plain text.
        body: HTML.
        aside: whether it stands below all others, as where a result comes from does.
    """

    title: str
    body: Markup
    aside: bool = False


def render(template: str, **values: Any) -> Markup:
    """HTML from a template of this package; every value is escaped unless it is Markup."""
    return Markup(_environment().get_template(template).render(**values))


def page(title: str, sections: Sequence[Section]) -> bytes:
    """The whole page, UTF-8. Its policy allows its own style and script, and pictures within it."""
    script = _own("page.js")
    allowed = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    made = render(
        "page.html",
        title=title,
        sections=sorted(sections, key=lambda section: section.aside),
        style=Markup(_own("style.css")),
        script=Markup(script),
        allowed=allowed,
    )
    return made.encode(errors="replace")  # names of files need not be Unicode


def _own(name: str) -> str:
    return files("mitune.report").joinpath("templates", name).read_text(encoding="utf-8")


@cache
def _environment() -> Environment:
    made = Environment(
        loader=PackageLoader("mitune.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["number"] = number
    return made


def number(value: Any) -> str:
    """A number for people, at most four digits; other things as they are, nothing for None."""
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"
