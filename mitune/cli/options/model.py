"""Which model, where, and how a verb talks."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

from mitune.arguments.fields import stands_for
from mitune.config.choices import Precision
from mitune.core.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable

    from mitune.models.protocol import LatentModel


@dataclass(frozen=True, kw_only=True)
class Output:
    """How a verb talks."""

    GROUP: ClassVar[str] = "output"

    json: bool = False
    """Print one JSON object as the last line of stdout; after a mistake it holds "error" alone."""


@dataclass(frozen=True, kw_only=True)
class Source(Output):
    """Which model, and where."""

    GROUP: ClassVar[str] = "model"

    model: str = "shapes"
    """"shapes" is the embedded model; else the folder of a diffusers pipeline, a name on the hub,
    or a single-file .safetensors checkpoint."""
    pipeline: Annotated[str | None, stands_for("that of the hub which its weights fit")] = None
    """For a single file: the diffusers folder or hub name of a model of its kind, which gives its
    configurations and tokenizers, and parts that the file does not hold."""
    variant: Annotated[str | None, stands_for("the plain weights")] = None
    """Weight variant of a model folder, such as fp16."""
    device: Annotated[str | None, stands_for("a GPU where there is one, else cpu")] = None
    """cpu, cuda or cuda:N."""
    size: Annotated[str | None, stands_for("the model's own")] = None
    """WIDTHxHEIGHT of the pictures in pixels, such as 832x1216; or one number for both."""

    def load(self, adapter: Path | None = None) -> "LatentModel":
        """The model in float32, with ``adapter`` on it if any."""
        return self.loader(adapter)()

    def loader(self, adapter: Path | None = None) -> "Callable[[], LatentModel]":
        """What loads the model, here or in another process."""
        return self._loader(adapter, "float32", offload=False)

    def _loader(
        self, adapter: Path | None, precision: Precision, *, offload: bool
    ) -> "Callable[[], LatentModel]":
        from mitune.core.progress import quiet_libraries
        from mitune.load import load

        quiet_libraries()
        return partial(
            load,
            self.model,
            adapter=adapter,
            device=self.device,
            precision=precision,
            variant=self.variant,
            pipeline=self.pipeline,
            size=None if self.size is None else _size(self.size),
            offload=offload,
        )


def _size(text: str) -> tuple[int, int]:
    """(height, width)."""
    width, cross, height = text.partition("x")
    height = height if cross else width
    if not (width.isdecimal() and height.isdecimal()) or len(width + height) > 10:
        raise UserError(f"--size is {text}: expected WIDTHxHEIGHT, such as 832x1216, or one number")
    return int(height), int(width)


@dataclass(frozen=True, kw_only=True)
class _Talk:
    """How a verb with progress bars talks."""

    GROUP: ClassVar[str] = "output"

    quiet: bool = False
    """No progress bars."""


@dataclass(frozen=True, kw_only=True)
class Common(_Talk, Source):
    """Which model, where, and how to talk."""

    GROUP: ClassVar[str] = "model"

    precision: Precision = "float32"
    """Of the denoiser; float64 is a reference for checks; bf16-mixed generates with bfloat16
    products in an otherwise float32 model. Latents and scores stay float32."""
    offload: bool = False
    """For a small GPU: keep the text encoders in the CPU's memory, and bring each of their layers
    to the GPU only while it runs."""

    def loader(self, adapter: Path | None = None) -> "Callable[[], LatentModel]":
        """What loads the model, here or in another process."""
        return self._loader(adapter, self.precision, offload=self.offload)
