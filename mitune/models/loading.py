"""Load a model from wherever it is: a diffusers folder, the hub, or one file."""

from pathlib import Path
from typing import Any

import torch

from mitune.config.preset import Preset
from mitune.core.errors import UserError
from mitune.models.family import Family
from mitune.models.folder import load_folder
from mitune.models.single_file import load_single_file


def load_model(
    source: str | Path,
    *,
    device: torch.device,
    precision: str,
    variant: str | None = None,
    preset: Preset | None = None,
    size: tuple[int, int] | None = None,
    pipeline: str | Path | None = None,
    offload: bool = False,
) -> Any:
    """Load the model (``mitune.models.protocol.LatentModel``) of the source's family.

    Args:
        source, variant, pipeline: as :func:`load_pipeline`.
        device: where the networks run.
        precision: of the denoiser, a name in ``mitune.models.precision.PRECISIONS``.
        preset: the settings that the model uses unless others are given; None: its family's.
        size, offload: as ``mitune.models.pipeline_model.PipelineModel``.

    Raises:
        UserError: as :func:`load_pipeline`, or from the family's own checks.
    """
    family, made = load_pipeline(source, variant, pipeline)
    return family.model(
        made,
        str(source),
        device=device,
        precision=precision,
        preset=preset,
        size=size,
        offload=offload,
    )


def load_pipeline(
    source: str | Path, variant: str | None = None, pipeline: str | Path | None = None
) -> tuple[Family, Any]:
    """Load a pipeline in float32 on the CPU, from safetensors files only; returns its family and
    the pipeline.

    Args:
        source, variant: as ``mitune.models.folder.load_folder``; or a single file, without variant.
        pipeline: of a single file, as ``mitune.models.single_file.load_single_file``.

    Raises:
        UserError: as these two; or an option that the source does not have.
    """
    if not Path(source).is_file():
        if Path(source).suffix == ".safetensors" and not Path(source).is_dir():
            raise UserError(f"model {source} is not there: expected a checkpoint in one file")
        if pipeline is not None:
            raise UserError(
                f"pipeline is {str(pipeline)!r} and model {source} is no file: expected none, as "
                "only a single file needs another model's configurations"
            )
        return load_folder(source, variant)
    if variant is not None:
        raise UserError(
            f"variant is {variant!r} and model {source} is one file: expected none, as a file has "
            "one set of weights"
        )
    return load_single_file(Path(source), pipeline)
