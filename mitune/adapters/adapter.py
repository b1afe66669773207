"""Adapters on a model: attach, load, restore, save, detach.

An adapter is on the UNet and, where the text encoder is trained too, on that
(``mitune.adapters.network`` has the equations). All of it comes and goes together. The weights of a
full fine-tuning stand wherever an adapter may (``mitune.adapters.full``).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from torch import nn

from mitune.adapters import full, network
from mitune.adapters.adapter_config import misfit
from mitune.adapters.adapter_file import FILE, read_file, resolve, write_file
from mitune.adapters.names import TEXT_ENCODER, UNET
from mitune.config.training import TuneConfig
from mitune.core.errors import UserError
from mitune.diffusion.noise import prompt_id

_TEXT_STREAM = prompt_id("mitune.tuning/text_encoder")


class Adaptable(Protocol):
    """What an adapter needs of a model: a diffusers UNet2DConditionModel and a transformers
    CLIPTextModel, or None in its place."""

    unet: Any
    text_encoder: Any


def attach(model: Adaptable, config: TuneConfig) -> None:
    """Put a fresh, trainable adapter on the model, in place; B = 0, so its prediction is unchanged.

    A is drawn from N(0, 1/rank^2) keyed by ``config.seed``; the global random state is neither used
    nor moved. The adapter is float32 also on a half-precision UNet, whose own weights are frozen.

    Args:
        model: without adapter.
        config: its method, rank, alpha, targets and seed are used; with a text_encoder_lr the text
            encoder gets one too, on ``network.TEXT_TARGETS``. With method full there is no adapter,
            and all the UNet's own weights train.

    Raises:
        UserError: a target that names no linear or convolution layer (the message lists those there
            are), or a model that has an adapter; method full in half precision.
    """
    if attached(model):
        raise _occupied()
    if config.method == "full":
        full.begin(model.unet)
    check_targets(model, config)
    for name, asked in network.asked(config).items():
        # Of a stream of its own: the two must not begin with the same numbers.
        seed = config.seed ^ (_TEXT_STREAM if name == TEXT_ENCODER else 0)
        network.inject(_networks(model)[name], asked, seed)


def check_targets(model: Adaptable, config: TuneConfig) -> None:
    """That every target of ``config`` names layers of the UNet, and TEXT_TARGETS of the text
    encoder if it is trained; for those who are long at work before they attach.

    Raises:
        UserError: a target that names no linear or convolution layer (the message lists those there
            are).
    """
    for name, asked in network.asked(config).items():
        network.check_targets(_networks(model)[name], sorted(asked.target_modules or ()))


def load(
    model: Adaptable, path: Path | str, *, fingerprint: str | None = None, trainable: bool = False
) -> dict[str, Any]:
    """Put the adapter of a file on the model, in place, with the file's values (held in float32).

    Args:
        model: without adapter; unchanged when the load fails.
        path: a folder with ``pytorch_lora_weights.safetensors``, or a safetensors file, in
            diffusers' layout, of ``save`` or of another trainer (which knows no fingerprint: only
            the layers and shapes are then checked). The text encoder's tensors in it go on the text
            encoder. Or the folder of a run with method full, whose weights replace the UNet's,
            in its dtype.
        fingerprint: of the model; None skips the check.
        trainable: whether the adapter's tensors require gradients.

    Returns:
        The metadata given to ``save``; empty for files of other programs.

    Raises:
        UserError: no such file, a file that holds no adapter, an adapter of another model, or a
            model that has an adapter.
    """
    if attached(model):
        raise _occupied()
    if whole := full.found(path):
        notes = full.notes(whole)
        _same_model(whole, notes, fingerprint)
        full.load(model.unet, whole, trainable=trainable)
        return notes
    content = read_file(path)
    _same_model(content.path, content.notes, fingerprint)
    networks = _networks(model)
    try:
        for name, part in content.parts.items():
            if name not in networks:
                raise misfit(content.path, f"the model has no {name}")
            network.put(networks[name], part, content.path)
    except UserError:
        detach(model)
        raise
    for parameter in parameters(model).values():
        parameter.requires_grad_(trainable)
    return content.notes


def restore(model: Adaptable, path: Path | str) -> None:
    """Copy the values of a file (as in ``load``) into the adapter that is on the model.

    Raises UserError when the file is absent, damaged or of an adapter with other layers or ranks.
    """
    if full.carried(model.unet):
        full.restore(model.unet, resolve(path))
        return
    content = read_file(path)
    for name, carrier in carriers(model).items():
        network.assign(carrier, content.part(name), content.path)


def save(model: Adaptable, folder: Path | str, metadata: Mapping[str, Any]) -> Path:
    """Write the model's adapter, for plain diffusers' ``load_lora_weights(folder)`` to read
    exactly.

    The same adapter gives the same bytes; the file appears whole or not at all.

    Args:
        model: carries an adapter from ``attach`` or ``load``.
        folder: created if absent.
        metadata: plain JSON, kept in the file's header; ``fingerprint`` (of the base model) is what
            ``load`` checks, ``model`` the name it then shows.

    Returns:
        The file.

    Raises:
        UserError: the folder cannot be written or the disk is full.
        ValueError: no fingerprint in ``metadata``, or a model without adapter.
    """
    if not metadata.get("fingerprint"):
        raise ValueError(f"got metadata {dict(metadata)}; expected a fingerprint in it")
    if not attached(model):
        raise ValueError("got a model without adapter; expected one from attach or load")
    if full.carried(model.unet):
        return full.save(model.unet, Path(folder), metadata)
    parts = {name: network.taken(carrier) for name, carrier in carriers(model).items()}
    return write_file(Path(folder), parts, metadata)


def detach(model: Adaptable) -> None:
    """Take any adapter off, in place: the model's own layers and weights are back, to the bit."""
    full.strip(model.unet)
    for each in _networks(model).values():
        network.strip(each)


def attached(model: Adaptable) -> bool:
    """Whether an adapter is on the model."""
    return bool(carriers(model))


def carriers(model: Adaptable) -> dict[str, Any]:
    """The networks that an adapter is on, or that carry tuned weights, by UNET and TEXT_ENCODER."""
    return {
        name: each
        for name, each in _networks(model).items()
        if network.adapted(each) or full.carried(each)
    }


def finished(folder: Path) -> bool:
    """Whether the folder of a run holds what ``save`` writes."""
    return (folder / FILE).exists() or full.found(folder) is not None


def parameters(model: Adaptable) -> dict[str, nn.Parameter]:
    """The adapter's tensors by a stable name, in a stable order; shapes as in ``Part``. Those of
    the text encoder are called ``text_encoder.`` and come last."""
    return {
        name if part == UNET else f"{part}.{name}": tensor
        for part, carrier in carriers(model).items()
        for name, tensor in _tensors(carrier).items()
    }


def groups(model: Adaptable, config: TuneConfig) -> list[dict[str, Any]]:
    """The adapter's tensors as an optimizer's groups, in the order of ``parameters``, each with its
    learning rate, which stays under ``initial_lr``."""
    rates = {UNET: config.lr, TEXT_ENCODER: config.text_encoder_lr}
    return [
        {
            "params": list(_tensors(carrier).values()),
            "lr": rates[name],
            "initial_lr": rates[name],
        }
        for name, carrier in carriers(model).items()
    ]


def require(model: Adaptable, config: TuneConfig, path: Path | str) -> None:
    """Raise UserError unless the adapter (loaded from ``path``) is what ``config`` asks for."""
    there, asked = carriers(model), network.asked(config)
    if full.carried(model.unet) or config.method == "full":
        kinds = ["full" if full.carried(model.unet) else "an adapter", config.method]
        if kinds == ["full", "full"]:
            return
        raise UserError(
            f"{path} is not of the kind to be trained (method is {kinds[0]} there and {kinds[1]} "
            "here): expected the same; go on with its method, or start afresh"
        )
    differing = [
        f"the {name} is {'adapted' if name in there else 'plain'} there and "
        f"{'trained' if name in asked else 'not trained'} here"
        for name in sorted(there.keys() ^ asked.keys())
    ]
    for name in (name for name in asked if name in there):
        differing += network.differences(there[name], asked[name])
    if differing:
        raise UserError(
            f"adapter {path} is not of the kind to be trained ({'; '.join(differing)}): expected "
            "equal settings; give those of the adapter"
        )


def _same_model(file: Path, notes: Mapping[str, Any], fingerprint: str | None) -> None:
    there = notes.get("fingerprint")
    if fingerprint is not None and there is not None and there != fingerprint:
        raise UserError(
            f"adapter {file} was trained on another model ({notes.get('model')}, "
            f"fingerprint {str(there)[:12]}): expected one of this model, fingerprint "
            f"{fingerprint[:12]}; load the model it was trained on, or train it anew"
        )


def _tensors(carrier: Any) -> dict[str, nn.Parameter]:
    if full.carried(carrier):
        return dict(carrier.named_parameters())
    return network.parameters(carrier)


def _networks(model: Adaptable) -> dict[str, Any]:
    found = {UNET: model.unet, TEXT_ENCODER: model.text_encoder}
    return {name: each for name, each in found.items() if each is not None}


def _occupied() -> UserError:
    return UserError(
        "the model already carries an adapter: expected the plain model; load it without one"
    )
