"""The help of a program and of its verbs, wrapped to the width of the terminal."""

import inspect
import shutil
import textwrap
from collections.abc import Callable, Mapping
from dataclasses import MISSING

from mitune.arguments.option import Option

_INDENT = 26
_WIDEST = 110
"""Longer lines are hard to read."""


def list_verbs(program: str, description: str, verbs: Mapping[str, Callable[..., object]]) -> str:
    """The program's description, and a summary of each verb."""
    width = _width()
    parts = [f"usage: {program} VERB [options]", _paragraphs(description, width), "verbs:"]
    lines = [
        _entry("  " + name, " ".join(_summary(verb).split()), width, 12)
        for name, verb in verbs.items()
    ]
    shared = [
        _entry("  -h, --help", f"This text; {program} VERB --help: the options of a verb.", width),
        _entry("  --version", "The version.", width),
    ]
    return "\n\n".join([*parts[:-1], "\n".join([parts[-1], *lines]), "\n".join(shared)])


def show_options(program: str, verb: type, options: Mapping[str, Option]) -> str:
    """What a verb does, and its options in groups: each with its values, its purpose and its
    default."""
    width = _width()
    required = [option for option in options.values() if option.default is MISSING]
    usage = " ".join(
        [
            "usage:",
            program,
            *(option.metavar for option in required if option.positional),
            *(f"{option.flag} {option.metavar}" for option in required if not option.positional),
            "[options]",
        ]
    )
    groups: dict[str, list[str]] = {}
    for option in sorted(options.values(), key=lambda option: option.default is not MISSING):
        groups.setdefault(option.group, []).append(_explain(option, width))
    last = groups.pop("output", [])
    last.append(_entry("  -h, --help", "This text.", width))
    blocks = [f"{group}:\n" + "\n".join(lines) for group, lines in groups.items()]
    usage = textwrap.fill(usage, width, subsequent_indent="  ", break_on_hyphens=False)
    about = _paragraphs(inspect.getdoc(verb) or "", width)
    return "\n\n".join([usage, about, *blocks, "output:\n" + "\n".join(last)])


def _explain(option: Option, width: int) -> str:
    if option.positional:
        head = f"  {option.metavar}"
    elif option.switch:
        head = f"  {option.flag}" if not option.default else f"  --[no-]{option.flag[2:]}"
    else:
        head = f"  {option.flag} {option.metavar}"
    text = option.words
    if option.repeated:
        text += " May be repeated."
    # A switch that is off by default needs no note.
    default = option.default_text()
    default = "" if option.switch and default in ("", "default: off") else default
    return _entry(head, f"{text} [{default}]" if default else text, width)


def _entry(head: str, text: str, width: int, indent: int = _INDENT) -> str:
    """``head`` with ``text`` to its right, or below it if ``head`` is long."""
    body = textwrap.wrap(text, width - indent, break_on_hyphens=False) or [""]
    if len(head) < indent - 1:
        body[0] = head.ljust(indent) + body[0]
        return ("\n" + " " * indent).join(body)
    return head + "\n" + textwrap.indent("\n".join(body), " " * indent)


def _summary(verb: Callable[..., object]) -> str:
    """The first paragraph of its docstring, up to the first colon."""
    text = " ".join((inspect.getdoc(verb) or "").split("\n\n")[0].split())
    return text.split(": ")[0].rstrip(".") + "."


def _paragraphs(text: str, width: int) -> str:
    paragraphs = inspect.cleandoc(text).split("\n\n")
    return "\n\n".join(
        part if part.startswith("  ") else textwrap.fill(" ".join(part.split()), width)
        for part in paragraphs
    )


def _width() -> int:
    return max(40, min(_WIDEST, shutil.get_terminal_size().columns - 1))
