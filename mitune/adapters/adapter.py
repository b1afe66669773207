"""Adapters on a model: attach, load, restore, save, detach.

An adapter is on the denoiser and, where text encoders are trained too, on those
(``mitune.adapters.network`` has the equations). All of it comes and goes together. The weights of a
full fine-tuning stand wherever an adapter may (``mitune.adapters.full``).
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
from mitune.models.protocol import LatentModel, denoiser_of, text_encoders


def attach(model: LatentModel, config: TuneConfig) -> None:
    """Put a fresh, trainable adapter on the model, in place; B = 0, so its prediction is unchanged.

    A is drawn from N(0, 1/rank^2) keyed by ``config.seed``; the global random state is neither used
    nor moved. The adapter is float32 also on a half-precision network, whose own weights are
    frozen.

    Args:
        model: without adapter.
        config: its method, rank, alpha, targets and seed are used; with a text_encoder_lr the text
            encoders get one too, on the model's ``text_targets``. With method full there is no
            adapter, and all the denoiser's own weights train.

    Raises:
        UserError: a target that names no linear or convolution layer (the message lists those there
            are), or a model that has an adapter; method full in half precision; a text_encoder_lr
            for a model without text encoders that can be trained.
    """
    if attached(model):
        raise _occupied()
    if config.method == "full":
        full.begin(denoiser_of(model))
    check_targets(model, config)
    for name, asked in network.asked(model, config).items():
        # Each of a stream of its own: no two must begin with the same numbers.
        stream = 0 if name == model.denoiser else prompt_id(f"mitune.tuning/{name}")
        network.inject(model.networks[name], asked, config.seed ^ stream)


def check_targets(model: LatentModel, config: TuneConfig) -> None:
    """That every target of ``config`` names layers of the denoiser, and the model's own of its text
    encoders if they are trained; for those who are long at work before they attach.

    Raises:
        UserError: a target that names no linear or convolution layer (the message lists those there
            are).
    """
    if config.text_encoder_lr is not None and not text_encoders(model):
        raise UserError(
            f"text_encoder_lr is {config.text_encoder_lr}, and {model.name} has no text encoder "
            "that can be trained: expected None"
        )
    for name, asked in network.asked(model, config).items():
        network.check_targets(model.networks[name], sorted(asked.target_modules or ()))


def load(
    model: LatentModel, path: Path | str, *, fingerprint: str | None = None, trainable: bool = False
) -> dict[str, Any]:
    """Put the adapter of a file on the model, in place, with the file's values (held in float32).

    Args:
        model: without adapter; unchanged when the load fails.
        path: a folder with ``pytorch_lora_weights.safetensors``, or a safetensors file, in
            diffusers' layout, of ``save`` or of another trainer (which knows no fingerprint: only
            the layers and shapes are then checked). Each network's tensors in it go on that. Or the
            folder of a run with method full, whose weights replace the denoiser's, in its dtype.
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
        full.load(denoiser_of(model), whole, trainable=trainable)
        return notes
    content = read_file(path)
    _same_model(content.path, content.notes, fingerprint)
    networks = _networks(model)
    try:
        for name, part in content.parts.items():
            if name not in networks:
                raise misfit(content.path, f"the model has no {name}")
            network.load_adapter(networks[name], part, content.path)
    except UserError:
        detach(model)
        raise
    for parameter in parameters(model).values():
        parameter.requires_grad_(trainable)
    return content.notes


def restore(model: LatentModel, path: Path | str) -> None:
    """Copy the values of a file (as in ``load``) into the adapter that is on the model.

    Raises UserError when the file is absent, damaged or of an adapter with other layers or ranks.
    """
    if full.carried(denoiser_of(model)):
        full.restore(denoiser_of(model), resolve(path))
        return
    content = read_file(path)
    for name, carrier in carriers(model).items():
        network.assign(carrier, content.part(name), content.path)


def save(model: LatentModel, folder: Path | str, metadata: Mapping[str, Any]) -> Path:
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
    if full.carried(denoiser_of(model)):
        return full.save(denoiser_of(model), Path(folder), metadata, name=model.denoiser)
    parts = {name: network.collect_adapter(carrier) for name, carrier in carriers(model).items()}
    return write_file(Path(folder), parts, metadata)


def detach(model: LatentModel) -> None:
    """Take any adapter off, in place: the model's own layers and weights are back, to the bit."""
    full.strip(denoiser_of(model))
    for each in _networks(model).values():
        network.remove_adapter(each)


def attached(model: LatentModel) -> bool:
    """Whether an adapter is on the model."""
    return bool(carriers(model))


def carriers(model: LatentModel) -> dict[str, Any]:
    """The networks that an adapter is on, or that carry tuned weights, by name."""
    return {
        name: each
        for name, each in _networks(model).items()
        if network.adapted(each) or full.carried(each)
    }


def finished(folder: Path) -> bool:
    """Whether the folder of a run holds what ``save`` writes."""
    return (folder / FILE).exists() or full.found(folder) is not None


def parameters(model: LatentModel) -> dict[str, nn.Parameter]:
    """The adapter's tensors by a stable name, in a stable order; shapes as in ``Part``. Those of
    a text encoder have its name before theirs and come last."""
    return {
        name if part == model.denoiser else f"{part}.{name}": tensor
        for part, carrier in carriers(model).items()
        for name, tensor in _tensors(carrier).items()
    }


def groups(model: LatentModel, config: TuneConfig) -> list[dict[str, Any]]:
    """The adapter's tensors as an optimizer's groups, in the order of ``parameters``, each with its
    learning rate, which stays under ``initial_lr``."""
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


def _networks(model: LatentModel) -> dict[str, Any]:
    return {model.denoiser: denoiser_of(model), **text_encoders(model)}


def _occupied() -> UserError:
    return UserError(
        "the model already carries an adapter: expected the plain model; load it without one"
    )
