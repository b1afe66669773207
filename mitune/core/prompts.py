"""Prompts: reading them from files, and checking what they contain."""

import codecs
import logging
import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path

from mitune.core.errors import UserError, printable
from mitune.core.reading import read_file, reason

logger = logging.getLogger(__name__)

HEADERS = ("prompt", "prompts", "caption", "captions", "text")
"""Column names, in any case, by which the first line of a table says where its prompts are."""

_INVISIBLE = ("Zs", "Zl", "Zp", "Cc", "Cf")  # spaces, line ends, controls, zero-width characters
# UTF-32 comes first: its little-endian mark begins with that of UTF-16.
_MARKS = {codecs.BOM_UTF32_LE: "UTF-32", codecs.BOM_UTF32_BE: "UTF-32"}
_MARKS |= {codecs.BOM_UTF16_LE: "UTF-16", codecs.BOM_UTF16_BE: "UTF-16"}


def read_prompts(path: Path | str, limit: int | None = None) -> list[str]:
    """Read the prompts of a text file, one per line.

    Lines end with LF, CRLF or CR, and with no other character that some programs take for a line
    end. Spaces around a prompt, and lines without a visible character, are ignored. In a line with
    tabs the prompt is the first column that is not empty, as in T2I-CompBench's lists. A first line
    that has one of HEADERS as a column (or is just "prompt" or "prompts") is a table's header and
    not a prompt: the prompts are in that column. Repeated prompts are taken once (their candidates
    would be the same). One warning lists what is left out.

    Args:
        path: of UTF-8 text; may be a pipe.
        limit: take at most this many; None takes all.

    Raises:
        UserError: the file is absent, is not text or has no prompt; ``check_prompts`` refuses a
            prompt; or the limit is below 1.
    """
    if limit is not None and limit < 1:
        raise UserError(f"limit is {limit}: expected at least 1 prompt")
    lines = split_lines(_read(path))
    left_out = []
    column = _header(lines[0])
    if column is not None:
        left_out.append(f'the header "{printable(lines[0].strip())[:60]}"')
        lines[0] = ""
    prompts, without, further = [], 0, 0
    for number, line in enumerate(lines, 1):
        if not visible(line):
            continue
        prompt, others = _column(line, column or 0)
        further += others
        if prompt:
            check_prompts([prompt], f"prompt file {path}, line {number}")
            prompts.append(prompt)
        else:
            without += 1
    if not prompts:
        raise UserError(f"prompt file {path} is empty: expected one prompt a line")
    distinct = list(dict.fromkeys(prompts))
    counts = {
        "{} lines without a prompt": without,
        "the other columns of {} lines": further,
        "{} repeated prompts": len(prompts) - len(distinct),
        "{} prompts beyond the limit": len(distinct) - len(distinct[:limit]),
    }
    left_out += [what.format(count) for what, count in counts.items() if count]
    if left_out:
        logger.warning("%s: left out %s", printable(str(path)), ", ".join(left_out))
    return distinct[:limit]


def read_categories(path: Path | str) -> dict[str, str]:
    """The category of each prompt in a table of tab-separated lines, whose first line names the
    columns: one of HEADERS and "category". Lines that lack either are left out.

    Raises:
        UserError: the file cannot be read, or has no such columns.
    """
    lines = split_lines(_read(path))
    names = [name.strip().lower() for name in lines[0].split("\t")]
    if "category" not in names or _header(lines[0]) is None:
        raise UserError(
            f"{path} tells no categories: expected tab-separated lines, the first with the names "
            "prompt and category"
        )
    prompt, category = _header(lines[0]) or 0, names.index("category")
    found = {}
    for line in lines[1:]:
        columns = [_trimmed(text) for text in line.split("\t")]
        if len(columns) > max(prompt, category) and columns[prompt] and columns[category]:
            found[columns[prompt]] = columns[category]
    return found


def check_prompts(prompts: Sequence[str], where: str | None = None) -> None:
    """Refuse prompts that a file, tokenizer or hash cannot take, before the model runs.

    Args:
        prompts: texts; an empty one is allowed, as it is the unconditional prompt.
        where: names their place in messages; None counts them from 1.

    Raises:
        UserError: a single string in place of a list; a prompt is not a string, or has a lone
            surrogate (bytes of the command line that are not UTF-8) or a NUL character.
    """
    if isinstance(prompts, str):
        raise UserError(f"prompts is one text, {prompts!r:.40}: expected a list of texts")
    for number, prompt in enumerate(prompts, 1):
        place = where or f"prompt {number} of {len(prompts)}"
        if not isinstance(prompt, str):
            raise UserError(f"{place} is {type(prompt).__name__} {prompt!r:.40}: expected a text")
        if "\0" in prompt:
            raise UserError(
                f"{place} holds a zero character ({prompt[:60]!r}): expected text; if it is from a "
                "file in UTF-16, save that as UTF-8"
            )
        try:
            prompt.encode()
        except UnicodeEncodeError as error:
            raise UserError(
                f"{place} is no Unicode text at character {error.start + 1} ({prompt[:60]!r}): "
                "expected UTF-8; give it in that encoding"
            ) from None


def split_lines(text: str) -> list[str]:
    """Split at LF, CRLF and CR only, into at least one line: ``str.splitlines`` also splits at
    eight characters that may occur inside a prompt."""
    return re.split(r"\r\n|\n|\r", text)


def visible(text: str) -> bool:
    """Whether a text has a character that is neither space nor invisible."""
    return any(unicodedata.category(character) not in _INVISIBLE for character in text)


def _read(path: Path | str) -> str:
    try:
        content = read_file(path, pipes=True)
    except FileNotFoundError:
        raise UserError(
            f"prompt file {path} does not exist: expected a text file, one prompt a line"
        ) from None
    except (OSError, ValueError) as error:
        raise UserError(
            f"prompt file {path} cannot be read ({reason(error)}): expected a text file, one "
            "prompt a line"
        ) from error
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        what = next((name for mark, name in _MARKS.items() if content.startswith(mark)), error)
        raise UserError(
            f"prompt file {path} is no UTF-8 text ({what}): expected one prompt a line; save it as "
            "UTF-8"
        ) from error


def _header(line: str) -> int | None:
    """The column of the prompts, if the line is a table's header; else None."""
    names = [name.strip().lower() for name in line.split("\t")]
    if len(names) == 1:
        return 0 if names[0] in ("prompt", "prompts") else None
    return next((names.index(name) for name in HEADERS if name in names), None)


def _column(line: str, column: int) -> tuple[str, bool]:
    """The prompt of a line, and whether other columns hold something."""
    columns = [_trimmed(text) for text in line.split("\t")]
    if column == 0:
        columns = [text for text in columns if text]
    prompt = columns[column] if column < len(columns) else ""
    return prompt, sum(map(bool, columns)) > bool(prompt)


def _trimmed(text: str) -> str:
    # Files that were joined have byte order marks inside.
    return text.strip().strip("\ufeff").strip()
