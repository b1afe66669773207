"""Prompt lists from files."""

import logging
from pathlib import Path

from mitune.errors import UserError

logger = logging.getLogger(__name__)


def read_prompts(path: Path | str, limit: int | None = None) -> list[str]:
    """Prompts of a text file, one a line; of a line with tabs the first column, as in
    T2I-CompBench's lists.

    Empty lines are skipped, repeated prompts are taken once (their candidates would be the same),
    with a warning.

    Args:
        path: UTF-8 text.
        limit: take only so many; None takes all.

    Raises:
        UserError: no such file, not text, no prompt in it, or a limit below 1.
    """
    if limit is not None and limit < 1:
        raise UserError(f"limit is {limit}: expected at least 1 prompt")
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError:
        raise UserError(
            f"prompt file {path} does not exist: expected a text file, one prompt a line"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"prompt file {path} cannot be read ({error}): expected UTF-8 text, one prompt a line"
        ) from error
    prompts = [text for line in lines if (text := line.split("\t")[0].strip())]
    if not prompts:
        raise UserError(f"prompt file {path} is empty: expected one prompt a line")
    distinct = list(dict.fromkeys(prompts))
    if len(distinct) < len(prompts):
        logger.warning("%s: %d repeated prompts are taken once", path, len(prompts) - len(distinct))
    return distinct[:limit]
