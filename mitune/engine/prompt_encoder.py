"""The conditioning of a run's prompts, as slots ask for it."""

from collections.abc import Callable, Sequence

from torch import Tensor

from mitune.models.protocol import Conditioning


class PromptEncoder:
    """Conditioning of the run's prompts, encoded in fixed blocks the first time one of them is
    needed.

    Blocks follow the run's list, never the state of the stream: a resumed run encodes the same
    texts together, and so gets the same bits.
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
        """The conditioning of one prompt, without the row dimension. New work goes forward, so one
        block is kept."""
        block, offset = divmod(prompt_index, self._block)
        if block != self._current:
            start = block * self._block
            self._rows = self._encode(self._prompts[start : start + self._block])
            self._current = block
        return {name: tensor[offset] for name, tensor in self._rows.items()}
