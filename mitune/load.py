"""From a name, a folder or a pipeline to a model that everything else takes."""

import os
from pathlib import Path
from typing import Any

import torch

from mitune.adapters import adapter as adapters
from mitune.core.errors import UserError
from mitune.models.family import family_of
from mitune.models.loading import load_model
from mitune.models.precision import PRECISIONS, check_precision
from mitune.models.protocol import LatentModel
from mitune.models.verify import check_live, naming_model
from mitune.worlds.known import WORLDS


def pick_device(name: str | None) -> torch.device:
    """The device of that name, or with None the first CUDA GPU and else the CPU.

    Raises:
        UserError: an unknown name, or a device that this machine does not have.
    """
    if name is None:
        if not torch.cuda.is_available():
            return torch.device("cpu")
        own = os.environ.get("LOCAL_RANK")  # torchrun's: one GPU for each process
        return torch.device("cuda" if own is None else f"cuda:{own}")
    kind, _, number = name.partition(":")
    if (
        kind not in ("cpu", "cuda")
        or (number and not number.isdigit())
        or (kind == "cpu" and number)
    ):
        raise UserError(f"device {name!r} is not known: choose cpu, cuda, or cuda:N")
    if kind == "cuda":
        if not torch.cuda.is_available():
            raise UserError(
                f"device {name!r} is not on this machine: torch sees no CUDA GPU; use --device cpu"
            )
        if int(number or 0) >= torch.cuda.device_count():
            raise UserError(
                f"device {name!r} is not on this machine: it has {torch.cuda.device_count()} GPUs"
            )
    return torch.device(name)


def load(
    model: Any = "shapes",
    *,
    adapter: Path | str | None = None,
    device: str | None = None,
    precision: str = "float32",
    variant: str | None = None,
    size: tuple[int, int] | None = None,
    pipeline: Path | str | None = None,
    offload: bool = False,
) -> LatentModel:
    """Load a model, with or without an adapter on it.

    Args:
        model: "shapes" (the embedded one), a diffusers folder, a hub name, a single-file
            ``.safetensors`` checkpoint, or a loaded pipeline of a family that ``mitune.models``
            has, whose networks the model takes over: they move to ``device``, are frozen, and
            change to float32, the denoiser to ``precision``.
        adapter: folder or safetensors file of a LoRA or DoRA in diffusers' layout.
        device: "cpu", "cuda", "cuda:N"; None picks a GPU where there is one.
        precision: of the denoiser: "float32", "bfloat16", "float16", or "bf16-mixed", which
            generates with bfloat16 products in an otherwise float32 model; latents and scores stay
            float32.
        variant: weight variant of a folder, such as "fp16".
        size: (height, width) of the pictures in pixels, as everywhere in Python (the command
            line's --size is WIDTHxHEIGHT); None: the model's own. The embedded model has no other.
        pipeline: for a single file, the diffusers folder or the hub name of a model of its kind,
            which gives configurations, tokenizers and scheduler, and the parts that the file does
            not hold; None: the one that diffusers knows for such weights, from the hub.
        offload: keep the text encoders in the CPU's memory, for a small GPU: each of their layers
            comes to ``device`` only while it runs. They cannot be trained then.

    Raises:
        UserError: something of these does not exist, does not fit, or is not known.
    """
    check_precision(precision)
    where = pick_device(device)
    loaded: LatentModel
    if pipeline is not None and not isinstance(pipeline, (str, Path)):
        raise UserError(
            f"pipeline is a {type(pipeline).__name__}: expected a diffusers folder or a name on "
            "the hub; a pipeline in memory is the model itself"
        )
    if pipeline is not None and (not isinstance(model, (str, Path)) or str(model) in WORLDS):
        raise UserError(
            f"pipeline is {str(pipeline)!r} and the model is no single file: expected none"
        )
    if not isinstance(model, (str, Path)):
        name = type(model).__name__
        family = family_of(name, model)
        with naming_model(name):
            check_live(model)
        loaded = family.model(
            model, name, device=where, precision=precision, size=size, offload=offload
        )
    elif (world := WORLDS.get(str(model))) is not None:
        loaded = world.load(device=where, precision=precision, offload=offload)
        if size not in (None, loaded.picture_size):
            height, width = loaded.picture_size
            raise UserError(
                f"size is given and the model is {world.name}: expected {width}x{height}, the size "
                "of its world's pictures"
            )
    else:
        loaded = load_model(
            model,
            device=where,
            precision=precision,
            variant=variant,
            size=size,
            pipeline=pipeline,
            offload=offload,
        )
    if adapter is not None:
        adapters.load(loaded, Path(adapter), fingerprint=loaded.fingerprint)
    return loaded


def adopt(pipeline: Any) -> LatentModel:
    """A diffusers pipeline as a model that shares its networks, on their device and in their
    dtypes; nothing in it is changed. A model is returned as it is, and a name or a folder loaded.

    Raises:
        UserError: a pipeline of no known family, or one that cannot be used as it is.
    """
    if isinstance(pipeline, (str, Path)):
        return load(pipeline)
    if not hasattr(pipeline, "components"):
        model: LatentModel = pipeline
        return model
    name = type(pipeline).__name__
    family = family_of(name, pipeline)
    with naming_model(name):
        check_live(pipeline)
    denoiser = getattr(pipeline, family.denoiser)
    precision = next((n for n, dtype in PRECISIONS.items() if dtype == denoiser.dtype), None)
    if precision is None:
        raise UserError(
            f"model {name}: the {family.denoiser} is in {denoiser.dtype}: expected one of "
            f"{', '.join(PRECISIONS)}"
        )
    made: LatentModel = family.model(
        pipeline,
        name,
        device=denoiser.device,
        precision=precision,
        fingerprint="a pipeline in use",
        as_it_is=True,
    )
    return made
