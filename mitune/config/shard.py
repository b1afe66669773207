"""A share of work that several processes split among themselves, each knowing only its number."""

import re
from dataclasses import dataclass

from mitune.core.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Shard:
    """Share ``number``, from 0, of ``of``."""

    number: int = 0
    of: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.number < self.of:
            raise UserError(
                f"shard is {self.number}/{self.of}: expected NUMBER/OF with NUMBER from 0 to OF - 1"
            )

    @classmethod
    def read(cls, text: str | None) -> "Shard":
        """The share that a text such as "0/4" names; None is all of it.

        Raises:
            UserError: it names none.
        """
        if text is None:
            return cls()
        found = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text)
        if found is None:
            raise UserError(f"shard is {text}: expected NUMBER/OF, such as 0/4, 1/4, 2/4 and 3/4")
        return cls(number=int(found[1]), of=int(found[2]))

    def block(self, count: int) -> range:
        """The places of the share in a whole of ``count`` that is cut into blocks of equal size."""
        return range(count * self.number // self.of, count * (self.number + 1) // self.of)

    def takes(self, place: int) -> bool:
        """Whether the share holds what has this place in the whole."""
        return place % self.of == self.number

    @property
    def name(self) -> str:
        """For files of one share alone; empty for the whole."""
        return "" if self.of == 1 else f"-{self.number}-of-{self.of}"


WHOLE = Shard()
"""All of it."""
