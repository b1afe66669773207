"""Adapters on a model: attach, load, restore, save, detach.

An adapter is on the denoiser and, if text encoders are trained too, on those
(``mitune.adapters.network`` has the equations). All its parts are put on and taken off together.
The functions here also handle the weights of a full fine-tuning (``mitune.adapters.full``).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from mitune.adapters import full, network
from mitune.adapters.adapter_config import misfit
from mitune.adapters.adapter_file import FILE, read_file, resolve, write_file
from mitune.config.training import TuneConfig
from mitune.core.errors import UserError
from mitune.diffusion.noise import prompt_id
from mitune.models.protocol import LatentModel, denoiser_of, text_encoders, with_networks


def attach(model: LatentModel, config: TuneConfig) -> None:
    """Put a fresh, trainable adapter on the model, in place; B = 0, so predictions do not change.

    A is drawn from N(0, 1/rank^2) keyed by ``config.seed``; the global random state is neither used
    nor changed. The adapter is float32 even on a half-precision network, whose own weights are
    frozen.

    Args:
        model: without an adapter.
        config: its method, rank, alpha, targets and seed are used. With a text_encoder_lr the text
            encoders get an adapter too, on the model's ``text_targets``. With method full the
            denoiser gets no adapter, and all its own weights are trained.

    Raises:
        UserError: a target that names no linear or convolution layer (the message lists possible
            ones); a model that already has an adapter; method full in half precision; a
            text_encoder_lr for a model without text encoders that can be trained.
    """
    if attached(model):
        raise _occupied()
    if config.method == "full":
        full.begin(denoiser_of(model))
    check_targets(model, config)
    for name, asked in network.asked(model, config).items():
        # Each network has its own random stream: no two may begin with the same numbers.
        stream = 0 if name == model.denoiser else prompt_id(f"mitune.tuning/{name}")
        network.inject(model.networks[name], asked, config.seed ^ stream)


def check_targets(model: LatentModel, config: TuneConfig) -> None:
    """Check that every target of ``config`` names layers of the denoiser and, if text encoders are
    trained, that the model's own targets name layers of these. For callers that work for long
    before they attach.

    Raises:
        UserError: a target that names no linear or convolution layer (the message lists possible
            ones), or a text_encoder_lr for a model without text encoders that can be trained, or
            with offloaded ones.
    """
    if config.text_encoder_lr is not None and not text_encoders(model):
        raise UserError(
            f"text_encoder_lr is {config.text_encoder_lr}, and {model.name} has no text encoder "
            "that can be trained: expected None"
        )
    if config.text_encoder_lr is not None and model.offload:
        raise UserError(
            f"text_encoder_lr is {config.text_encoder_lr}, and the text encoders are offloaded: "
            "expected None; load the model without offload to train them"
        )
    for name, asked in network.asked(model, config).items():
        network.check_targets(model.networks[name], sorted(asked.target_modules or ()))


def load(
    model: LatentModel, path: Path | str, *, fingerprint: str | None = None, trainable: bool = False
) -> dict[str, Any]:
    """Put the adapter of a file on the model, in place, with the file's values (held in float32).

    Args:
        model: without an adapter; unchanged if the load fails.
        path: a folder with ``pytorch_lora_weights.safetensors``, or a safetensors file, in
            diffusers' layout, from ``save`` or from another trainer (which stores no fingerprint:
            then only layers and shapes are checked). Each network gets its own tensors of the file.
            Or the folder of a run with method full, whose weights replace those of the denoiser, in
            the denoiser's dtype.
        fingerprint: of the model; None skips the check.
        trainable: whether the adapter's tensors require gradients.

    Returns:
        The metadata given to ``save``; empty for files of other programs.

    Raises:
        UserError: no such file, a file without an adapter, an adapter of another model, or a model
            that already has an adapter.
    """
    if attached(model):
        raise _occupied()
    if whole := full.found(path):
        notes = full.notes(whole)
        _same_model(whole, notes, fingerprint)
        full.load(denoiser_of(model), whole, trainable=trainable)
        return notes
    content = read_file(path)
    _same_model(content.path, content.notes, fingerprint)
    networks = _networks(model)
    try:
        for name, part in content.parts.items():
            if name not in networks:
                raise misfit(content.path, f"the model has no {name}")
            if name != model.denoiser and model.offload:
                raise UserError(
                    f"adapter {content.path} has a part for the {name}, which is offloaded: "
                    "expected one for the denoiser alone; leave offload out"
                )
            network.load_adapter(networks[name], part, content.path)
    except UserError:
        detach(model)
        raise
    for parameter in parameters(model).values():
        parameter.requires_grad_(trainable)
    return content.notes


def restore(model: LatentModel, path: Path | str) -> None:
    """Copy the values of a file (as in ``load``) into the adapter that is on the model.

    Raises:
        UserError: the file is absent or damaged, or its adapter has other layers or ranks.
    """
    if full.carried(denoiser_of(model)):
        full.restore(denoiser_of(model), resolve(path))
        return
    content = read_file(path)
    for name, carrier in carriers(model).items():
        network.assign(carrier, content.part(name), content.path)


def save(model: LatentModel, folder: Path | str, metadata: Mapping[str, Any]) -> Path:
    """Write the model's adapter such that plain diffusers' ``load_lora_weights(folder)`` reads it
    exactly. After a full fine-tuning, write the denoiser instead.

    The same adapter gives the same bytes; the file appears whole or not at all.

    Args:
        model: carries an adapter from ``attach`` or ``load``.
        folder: created if absent.
        metadata: plain JSON, stored in the file's header. ``load`` checks its ``fingerprint`` (of
            the base model) and shows its ``model`` as a name.

    Returns:
        The file.

    Raises:
        UserError: the folder cannot be written or the disk is full.
        ValueError: no fingerprint in ``metadata``, or a model without an adapter.
    """
    if not metadata.get("fingerprint"):
        raise ValueError(f"got metadata {dict(metadata)}; expected a fingerprint in it")
    if not attached(model):
        raise ValueError("got a model without adapter; expected one from attach or load")
    if full.carried(denoiser_of(model)):
        return full.save(denoiser_of(model), Path(folder), metadata, name=model.denoiser)
    parts = {name: network.collect_adapter(carrier) for name, carrier in carriers(model).items()}
    return write_file(Path(folder), parts, metadata)


def detach(model: LatentModel) -> None:
    """Take any adapter off, in place: the model has its own layers and weights again, to the
    bit."""
    full.strip(denoiser_of(model))
    for each in _networks(model).values():
        network.remove_adapter(each)


def without_adapter(model: LatentModel) -> LatentModel:
    """The model as it is without the adapter of its denoiser; it shares all weights, and the
    adapter stays on ``model``."""
    return with_networks(model, {model.denoiser: network.copy_without(denoiser_of(model))})


def attached(model: LatentModel) -> bool:
    """Whether an adapter is on the model."""
    return bool(carriers(model))


def carriers(model: LatentModel) -> dict[str, Any]:
    """The networks that have an adapter on them or carry tuned weights, by name."""
    return {
        name: each
        for name, each in _networks(model).items()
        if network.adapted(each) or full.carried(each)
    }


def finished(folder: Path) -> bool:
    """Whether the folder of a run holds what ``save`` writes."""
    return (folder / FILE).exists() or full.found(folder) is not None


def parameters(model: LatentModel) -> dict[str, nn.Parameter]:
    """The adapter's tensors by a stable name, in a stable order; shapes as in ``Part``. Names in a
    text encoder begin with the name of that encoder, and come last."""
    return {
        name if part == model.denoiser else f"{part}.{name}": tensor
        for part, carrier in carriers(model).items()
        for name, tensor in _tensors(carrier).items()
    }


def groups(model: LatentModel, config: TuneConfig) -> list[dict[str, Any]]:
    """The adapter's tensors as parameter groups for an optimizer, in the order of ``parameters``.
    Each has its learning rate, also stored as ``initial_lr``."""
    groups = []
    for name, carrier in carriers(model).items():
        lr = config.lr if name == model.denoiser else config.text_encoder_lr
        groups.append({"params": list(_tensors(carrier).values()), "lr": lr, "initial_lr": lr})
    return groups


def require(model: LatentModel, config: TuneConfig, path: Path | str) -> None:
    """Raise UserError unless the adapter (loaded from ``path``) is what ``config`` asks for."""
    there, asked = carriers(model), network.asked(model, config)
    tuned = full.carried(denoiser_of(model))
    if tuned or config.method == "full":
        kinds = ["full" if tuned else "an adapter", config.method]
        if kinds == ["full", "full"]:
            return
        raise UserError(
            f"{path} is not of the kind to be trained (method is {kinds[0]} there and {kinds[1]} "
            "here): expected the same; go on with its method, or start again"
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
            f"{fingerprint[:12]}; load the model it was trained on, or train it again"
        )


def _tensors(carrier: Any) -> dict[str, nn.Parameter]:
    if full.carried(carrier):
        return dict(carrier.named_parameters())
    return network.parameters(carrier)


def _networks(model: LatentModel) -> dict[str, Any]:
    return {model.denoiser: denoiser_of(model), **text_encoders(model)}


def _occupied() -> UserError:
    return UserError(
        "the model already carries an adapter: expected the plain model; load it without one"
    )
