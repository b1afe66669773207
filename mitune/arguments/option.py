"""One option: its name, and the values that it takes from words and from a file."""

import math
from collections.abc import Sequence
from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import Any

from mitune.arguments.fields import Shown
from mitune.core.errors import UserError

_LARGEST = 2**63
"""Limit of whole numbers: they reach torch, numpy and Parquet, which hold no larger ones."""
_EXPECTED = {int: "a whole number", float: "a number", str: "text", Path: "a path"}
_TRUTHS = dict.fromkeys(("true", "yes", "on"), True) | dict.fromkeys(("false", "no", "off"), False)
_METAVARS = {int: "N", float: "X", str: "TEXT", Path: "PATH"}
_LONG = 60
"""Letters of a list of words, above which the help shows a name in its place."""


@dataclass(frozen=True, kw_only=True)
class Option:
    """A field of a verb's dataclass.

    Attributes:
        name: of the field.
        words: its help text.
        group: the heading under which the help shows it.
        kinds: what a value may be: bool, int, float, str or Path, or a word that is taken
            literally. Words are matched first, then the first type that fits is taken.
        count: how many values there are; None: one or more.
        many: whether the field holds a tuple or list of values rather than one.
        optional: whether None is a value.
        default: of the field; MISSING for a required option.
        positional, repeated: how it is given.
        shown: what the help shows for a default of None.
        former: its former name, which is still accepted.
        holder: the verb's field that holds the value under ``name``, if that is not the field of
            that name itself (``FieldsOf``).
    """

    name: str
    words: str
    group: str
    kinds: tuple[Any, ...]
    count: int | None = 1
    many: bool = False
    optional: bool = False
    default: Any = MISSING
    positional: bool = False
    repeated: bool = False
    shown: Shown | None = None
    former: str | None = None
    holder: str | None = None

    @property
    def flag(self) -> str:
        """Its name on the command line."""
        return self.name if self.positional else "--" + self.name.replace("_", "-")

    @property
    def switch(self) -> bool:
        """Whether it takes no value: --quiet or --no-quiet."""
        return self.kinds == (bool,)

    @property
    def metavar(self) -> str:
        """The placeholder of its values in the help; lists the words to choose from, if they are
        few, and else stands for them."""
        words = [kind for kind in self.kinds if isinstance(kind, str)]
        others = [_METAVARS[kind] for kind in self.kinds if not isinstance(kind, str)]
        one = "{" + ",".join(others + words) + "}" if words else others[0]
        if len(one) > _LONG:
            one = self.name.upper()
        if self.count is None and not self.repeated:
            return f"{one}..."
        return " ".join([one] * (self.count or 1))

    def default_text(self) -> str:
        """What the help says in brackets about the default."""
        if self.default is MISSING:
            return "required"
        if self.default is None or self.default == []:
            return "" if self.shown is None else f"default: {self.shown.text()}"
        if self.switch:
            return f"default: {'on' if self.default else 'off'}"
        return f"default: {self.default}"

    def parse(self, texts: Sequence[str]) -> Any:
        """Convert words of the command line to the field's value.

        Raises:
            UserError: a word does not fit; the message names the option and what was expected.
        """
        if self.optional and list(texts) == ["None"]:
            return None
        return self._whole([self._from_text(text) for text in texts])

    def from_file(self, value: str | list[str | None] | None) -> Any:
        """Convert a value from a file (text, a list of them, or None) to the field's value.

        Raises:
            UserError: as ``parse``.
        """
        if value is None and self.optional:
            return None
        if self.switch:
            if str(value).lower() not in _TRUTHS:
                raise UserError(f"{self.flag} is {quoted(value)}: expected true or false")
            return _TRUTHS[str(value).lower()]
        if self.many and not isinstance(value, list):
            raise UserError(
                f"{self.flag} is {quoted(value)}: expected a list of {self._expected()}"
            )
        texts = value if self.many and isinstance(value, list) else [value]
        for text in texts:
            if not isinstance(text, str):
                raise UserError(f"{self.flag} is {quoted(text)}: expected {self._expected()}")
        return self._whole([self._from_text(str(text)) for text in texts])

    def _whole(self, values: list[Any]) -> Any:
        if self.count is not None and len(values) != self.count:
            raise UserError(f"{self.flag} has {len(values)} values: expected {self.count}")
        if not self.many:
            return values[0]
        return values if self.repeated or self.positional else tuple(values)

    def _from_text(self, text: str) -> Any:
        if text in self.kinds:
            return text
        for kind in self.kinds:
            if isinstance(kind, str):
                continue
            try:
                value = kind(text)
            except ValueError:
                continue
            self._check(value, text)
            return value
        words = [kind for kind in self.kinds if isinstance(kind, str)]
        if words == list(self.kinds):
            raise UserError(f"{self.flag} is {quoted(text)}: choose one of {', '.join(words)}")
        raise UserError(f"{self.flag} is {quoted(text)}: expected {self._expected()}")

    def _check(self, value: Any, text: str) -> None:
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"{self.flag} is {text}: expected a finite number")
        if isinstance(value, int) and not -_LARGEST <= value < _LARGEST:
            raise UserError(f"{self.flag} is {quoted(text)}: expected a number below 2**63")
        if isinstance(value, (str, Path)) and "\0" in text:
            raise UserError(f"{self.flag} holds a NUL character: expected {self._expected()}")
        if isinstance(value, Path) and not text:
            raise UserError(f"{self.flag} is empty: expected a path, such as . for this folder")
        if isinstance(value, str) and not text and not self.many:  # a prompt may be empty
            raise UserError(f"{self.flag} is empty: expected {self._expected()}")
        # Positional paths are only opened; Parquet, safetensors and tokenizers need UTF-8.
        if isinstance(value, (str, Path)) and not self.positional and _undecoded(text):
            raise UserError(f"{self.flag} is {quoted(text)}: expected {self._expected()} in UTF-8")

    def _expected(self) -> str:
        return " or ".join(
            kind if isinstance(kind, str) else _EXPECTED[kind] for kind in self.kinds
        )


def _undecoded(text: str) -> bool:
    """Whether the text holds bytes of the command line that could not be decoded."""
    return any("\ud800" <= character <= "\udfff" for character in text)


def quoted(value: object) -> str:
    """A value for a one-line message: shortened, and in quotes where it could be misread."""
    if isinstance(value, list):
        return "a list"
    text = "null" if value is None else str(value)
    short = text if len(text) <= 60 else text[:57] + "..."
    return short if short.isprintable() and short and " " not in short else ascii(short)
