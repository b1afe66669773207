"""Read captioned pictures from a folder, from WebDataset shards, or from a data set of
``datasets``.

Nothing in these sources is ever executed. Pictures are decoded as JPEG, PNG or WebP; captions are
UTF-8 text, JSON or CSV. All other files, pickles included, are skipped.
"""

import hashlib
import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from torch import Tensor

from mitune.core.errors import UserError, printable
from mitune.core.images import decode_image, image_size
from mitune.core.prompts import check_prompts, visible
from mitune.sets.sources.folder import LISTINGS, beside, listed, scan
from mitune.sets.sources.found import Found, Notes
from mitune.sets.sources.shards import COMPRESSED, find_shards, sharded
from mitune.sets.sources.table import is_saved, tabled

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Captioned:
    """One captioned picture.

    Attributes:
        name: where the picture is stored, for people.
        caption: its text in one line, never empty.
        content: the bytes of the picture's file.
    """

    name: str
    caption: str
    content: bytes

    @property
    def sha256(self) -> bytes:
        """Digest of caption and bytes; does not depend on where they are stored."""
        return hashlib.sha256(json.dumps(self.caption).encode() + self.content).digest()

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the upright picture."""
        return image_size(self.content, self.name)

    def picture(self, size: tuple[int, int]) -> Tensor:
        """``[3, h, w]`` float32 in [0, 1], as ``mitune.core.images.decode_image``."""
        return decode_image(self.content, self.name, size)


def read_captioned(
    source: Path | str, limit: int | None = None, *, tell: bool = True
) -> Iterator[Captioned]:
    """Yield the captioned pictures of a source in a fixed order, with one in memory at a time.

    * A folder: every picture at any depth, sorted by path, with a ``.txt`` of the same name next to
      it. If there is a metadata.jsonl or metadata.csv at any depth, only the pictures that its
      lines name, by ``file_name``, and ``text`` or ``caption``.
    * WebDataset: a ``.tar``, a pattern such as ``shards/*.tar`` or ``shards/{000..012}.tar``, or a
      folder of shards. Each sample has a picture and a ``.txt``, or a ``.json`` with ``text`` or
      ``caption``.
    * With the package ``datasets``: a name on the hub, a folder written by ``save_to_disk``, or a
      folder of Parquet files, with the columns ``image``, and ``text`` or ``caption``. Only the
      split "train" is read.

    A picture has one caption: the first line of a ``.txt`` that is not blank, or the first text of
    a list. One warning at the end names everything that was skipped or taken only in part.

    Args:
        source: one of these.
        limit: take only the first ``limit`` pictures; None takes all.
        tell: whether to warn.

    Raises:
        UserError: if there are no pictures, a picture has no caption, a file cannot be read, or
            the limit is below 1. A damaged picture is detected only when it is decoded.
    """
    if limit is not None and limit < 1:
        raise UserError(f"limit is {limit}: expected at least 1 picture")
    notes, empty = Notes(), True
    for name, text, content in islice(_open(str(source), notes), limit):
        empty = False
        yield Captioned(name=name, caption=_caption(name, text, notes), content=content)
    told = str(notes)
    if empty:
        raise UserError(
            f"{source} holds no picture{told and f' ({told})'}: expected JPEG, PNG or WebP files "
            f"with captions (a .txt beside each, or {' or '.join(LISTINGS)}), or .tar shards"
        )
    if told and tell:
        logger.warning("%s: %s", printable(str(source)), told)


def _open(source: str, notes: Notes) -> Iterator[Found]:
    place = Path(source)
    if place.suffix == ".tar" and not place.is_dir():
        return sharded(find_shards(source), notes)
    if not place.exists():
        return tabled(source)
    if not place.is_dir():
        packed = place.name.lower().endswith(COMPRESSED)
        raise UserError(
            f"{source} is a {'compressed ' if packed else ''}file: expected a folder, .tar shards "
            "without compression, or the name of a data set"
        )
    folder = scan(place, notes)
    if folder.listings:
        return listed(folder, notes)
    if not folder.pictures:
        if folder.shards:
            return sharded(sorted(folder.shards), notes)
        if is_saved(place) or folder.tables:
            return tabled(source)
    return beside(folder, notes)


def _caption(name: str, given: object, notes: Notes) -> str:
    text = given
    if isinstance(given, list):
        texts = [each for each in given if isinstance(each, str) and visible(each)]
        if len(given) > 1 and texts:
            notes.add("lists of captions, of which the first is taken", name)
        text = next(iter(texts), None)
    if not isinstance(text, str) or not visible(text):
        raise UserError(
            f"picture {name} has no caption ({given!r:.40}): expected text in a .txt or .json "
            "beside it (in a shard next to it: tar --sort=name), "
            f"in {' or '.join(LISTINGS)}, or in a column; write one, or take the picture out"
        )
    caption = " ".join(text.split())
    check_prompts([caption], f"the caption of picture {name}")
    return caption
