"""An embedded world: a shipped model, its prompt lists, and an oracle that knows what pictures
show."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from mitune.config.preset import Preset
from mitune.core.errors import UserError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from mitune.models.protocol import LatentModel

Split = Literal["train", "test"]


class Verdict(Protocol):
    """How well a picture shows a prompt."""

    @property
    def graded(self) -> float:
        """Share of what is asked for, less what is too much, in [0, 1]."""

    @property
    def strict(self) -> bool:
        """Whether all is there, and nothing else."""


class FirstPrompts(Protocol):
    """Prompts of each category."""

    def __call__(self, split: Split, count: int, *, unseen: bool = False) -> dict[str, str]: ...


@dataclass(frozen=True, kw_only=True)
class World:
    """One embedded world. Importing it imports neither torch nor the oracle.

    Attributes:
        name: of its model, as ``mitune.load`` takes it.
        folder: of the model's pipeline.
        remedy: the command that makes the model again.
        preset: the settings that the model uses unless others are given.
        prompts: the whole list of a split.
        first_prompts: so many prompts of each category of a split, with the category's name; with
            ``unseen``, those with something that pre-training never showed.
        rests: a prompt without each of its phrases, one text per phrase.
        drawings: so many pictures ([n, 3, h, w] in [0, 1]) that show a prompt, from the world's own
            renderer and a seed: what real captioned pictures are for a large model.
        judge: the verdict on each picture ([N, 3, h, w] in [0, 1]) under its own prompt.
    """

    name: str
    folder: Path
    remedy: str
    preset: Preset
    prompts: Callable[[Split], list[str]]
    first_prompts: FirstPrompts
    rests: Callable[[str], list[str]]
    drawings: Callable[[str, int, int], "Tensor"]
    judge: Callable[[Sequence[str], "Tensor"], Sequence[Verdict]]

    def load(
        self,
        *,
        device: "torch.device",
        precision: str,
        folder: Path | None = None,
        offload: bool = False,
    ) -> "LatentModel":
        """Load the model, or another training of it from ``folder``, with the same loader as any
        other folder.

        Raises:
            UserError: if the weights are not installed.
        """
        from mitune.models.loading import load_model

        folder = folder or self.folder
        if not folder.is_dir():
            raise UserError(
                f"the embedded model is not at {folder}: reinstall mitune, or make it with "
                f"'{self.remedy}'"
            )
        model: Any = load_model(
            folder, device=device, precision=precision, preset=self.preset, offload=offload
        )
        model.name = model.world = self.name
        loaded: LatentModel = model
        return loaded
