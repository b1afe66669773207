"""The conditioning of a run's prompts, encoded when a slot needs it."""

from collections.abc import Callable, Sequence

from torch import Tensor

from mitune.models.protocol import Conditioning


class PromptEncoder:
    """Conditioning of the run's prompts, encoded in fixed blocks when one of a block is first
    needed.

    Blocks follow the run's list of prompts, never the state of the stream: a resumed run encodes
    the same texts together, and so gets the same bits.
    """

    def __init__(
        self,
        encode: Callable[[Sequence[str]], Conditioning],
        prompts: Sequence[str],
        block: int = 32,
    ) -> None:
        self._encode = encode
        self._prompts = prompts
        self._block = block
        self._current = -1
        self._rows: Conditioning = {}

    def row(self, prompt_index: int) -> dict[str, Tensor]:
        """The conditioning of one prompt, without the row dimension. Requests come in the order of
        the prompts, so only one block is kept."""
        block, offset = divmod(prompt_index, self._block)
        if block != self._current:
            start = block * self._block
            self._rows = self._encode(self._prompts[start : start + self._block])
            self._current = block
        return {name: tensor[offset] for name, tensor in self._rows.items()}
