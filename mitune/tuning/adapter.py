"""Adapters on a UNet: attach, load, restore, save, detach.

The layers are peft's own. DoRA (Liu et al., arXiv 2402.09353, Eq. 5) uses the weight
    W' = m V / norm(V),  V = W + s B A,  s = alpha / rank
with one norm and one magnitude m per output; the gradient takes the norm as a constant. LoRA uses
V.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model_state_dict, set_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from torch import nn

from mitune.errors import UserError
from mitune.tuning.adapter_file import AdapterFile, misfit, read_file, write_file
from mitune.tuning.config import TuneConfig

_NAME = "default"


def attach(unet: Any, config: TuneConfig) -> None:
    """Put a fresh, trainable adapter on the UNet, in place; B = 0, so its prediction is unchanged.

    A is drawn from N(0, 1/rank^2) keyed by ``config.seed``; the global random state is neither used
    nor moved. The adapter is float32 also on a half-precision UNet, whose own weights are frozen.

    Args:
        unet: a diffusers UNet2DConditionModel without adapter.
        config: its method, rank, alpha, targets and seed are used.

    Raises:
        UserError: a target that names no linear or convolution layer (the message lists those there
            are), or a UNet that has an adapter.
    """
    if attached(unet):
        raise _occupied()
    check_targets(unet, config)
    alpha: Any = config.alpha  # peft declares an int and takes any number
    _inject(
        unet,
        LoraConfig(
            r=config.rank,
            lora_alpha=alpha,
            target_modules=sorted(set(config.targets)),
            use_dora=config.method == "dora",
            init_lora_weights="gaussian",
        ),
        config.seed,
    )


def check_targets(unet: Any, config: TuneConfig) -> None:
    """That every target of ``config`` names layers of the UNet; for those who are long at work
    before they attach.

    Raises:
        UserError: a target that names no linear or convolution layer (the message lists those there
            are).
    """
    modules = dict(unet.named_modules())
    for target in config.targets:
        found = [module for name, module in modules.items() if _ends(name, target)]
        if not found or not all(isinstance(module, nn.Linear | nn.Conv2d) for module in found):
            raise UserError(
                f"target {target!r} names no layer that can be adapted: expected ends of names "
                f"such as {', '.join(_candidates(modules))}"
            )


def load(
    unet: Any, path: Path | str, *, fingerprint: str | None = None, trainable: bool = False
) -> dict[str, Any]:
    """Put the adapter of a file on the UNet, in place, with the file's values (held in float32).

    Args:
        unet: a diffusers UNet2DConditionModel without adapter; unchanged when the load fails.
        path: a folder with ``pytorch_lora_weights.safetensors``, or a safetensors file, in
            diffusers' layout, of ``save`` or of another trainer (which knows no fingerprint: only
            the layers and shapes are then checked).
        fingerprint: of the model that the UNet belongs to; None skips the check.
        trainable: whether the adapter's tensors require gradients.

    Returns:
        The metadata given to ``save``; empty for files of other programs.

    Raises:
        UserError: no such file, a file that holds no adapter of a UNet, an adapter of another
            model, or a UNet that has an adapter.
    """
    if attached(unet):
        raise _occupied()
    content = read_file(path)
    there = content.notes.get("fingerprint")
    if fingerprint is not None and there is not None and there != fingerprint:
        raise UserError(
            f"adapter {content.path} was trained on another model ({content.notes.get('model')}, "
            f"fingerprint {str(there)[:12]}): expected one of this model, fingerprint "
            f"{fingerprint[:12]}; load the model it was trained on, or train it anew"
        )
    modules = dict(unet.named_modules())
    for name in sorted(content.layers):
        if not isinstance(modules.get(name), nn.Linear | nn.Conv2d):
            raise misfit(content.path, f"the UNet has no layer {name}")
    try:
        _inject(unet, content.config, 0)
        _assign(unet, content)
    except UserError:
        detach(unet)
        raise
    except ValueError as error:
        detach(unet)
        raise misfit(content.path, f"peft refuses its settings: {error}") from error
    for parameter in parameters(unet).values():
        parameter.requires_grad_(trainable)
    return content.notes


def restore(unet: Any, path: Path | str) -> None:
    """Copy the values of a file (as in ``load``) into the adapter that is on the UNet.

    Raises UserError when the file is absent, damaged or of an adapter with other layers or ranks.
    """
    _assign(unet, read_file(path))


def save(unet: Any, folder: Path | str, metadata: Mapping[str, Any]) -> Path:
    """Write the UNet's adapter, for plain diffusers' ``load_lora_weights(folder)`` to read exactly.

    The same adapter gives the same bytes; the file appears whole or not at all.

    Args:
        unet: carries an adapter from ``attach`` or ``load``.
        folder: created if absent.
        metadata: plain JSON, kept in the file's header; ``fingerprint`` (of the base model) is what
            ``load`` checks, ``model`` the name it then shows.

    Returns:
        The file.

    Raises:
        UserError: the folder cannot be written or the disk is full.
        ValueError: no fingerprint in ``metadata``, or a UNet without adapter.
    """
    if not metadata.get("fingerprint"):
        raise ValueError(f"got metadata {dict(metadata)}; expected a fingerprint in it")
    if not attached(unet):
        raise ValueError("got a UNet without adapter; expected one from attach or load")
    tensors = get_peft_model_state_dict(unet, adapter_name=_NAME)
    return write_file(Path(folder), tensors, unet.peft_config[_NAME], metadata)


def detach(unet: Any) -> None:
    """Take any adapter off, in place: the UNet's own layers are back, their weights untouched."""
    unet.unload_lora()


def attached(unet: Any) -> bool:
    """Whether an adapter is on the UNet."""
    return any(isinstance(module, LoraLayer) for module in unet.modules())


def parameters(unet: Any) -> dict[str, nn.Parameter]:
    """The adapter's tensors by a stable name, in a stable order; shapes as in ``AdapterFile``."""
    return {
        name.replace(f".{_NAME}", ""): parameter
        for name, parameter in unet.named_parameters()
        if ".lora_" in name
    }


def require(unet: Any, config: TuneConfig, path: Path | str) -> None:
    """Raise UserError unless the adapter (loaded from ``path``) is what ``config`` asks for."""
    have = unet.peft_config[_NAME]
    settings = (
        ("method", "dora" if have.use_dora else "lora", config.method),
        ("rank", have.r, config.rank),
        ("alpha", have.lora_alpha, config.alpha),
    )
    differing = [f"{name} is {a} there and {b} here" for name, a, b in settings if a != b]
    names = dict(unet.named_modules())
    adapted = {name for name, module in names.items() if isinstance(module, LoraLayer)}
    # peft's wrapper holds the layer itself and its own parts inside; those are no targets.
    own = {name for name in names if ".base_layer" not in name and ".lora_" not in name}
    asked = {name for name in own if any(_ends(name, target) for target in config.targets)}
    if adapted != asked:
        differing.append(
            f"{len(adapted)} layers are adapted there, targets {', '.join(config.targets)} name "
            f"{len(asked)} here"
        )
    if differing:
        raise UserError(
            f"adapter {path} is not of the kind to be trained ({'; '.join(differing)}): expected "
            "equal settings; give those of the adapter"
        )


def _occupied() -> UserError:
    return UserError(
        "the model already carries an adapter: expected the plain model; load it without one"
    )


def _inject(unet: Any, config: LoraConfig, seed: int) -> None:
    with torch.random.fork_rng(devices=[]):
        # Not torch.manual_seed, which would also seed every GPU; peft draws on the host.
        torch.default_generator.manual_seed(seed)
        unet.add_adapter(config, _NAME)
    for layer in unet.modules():
        if isinstance(layer, LoraLayer):
            _to_float32(layer)


def _to_float32(layer: Any) -> None:
    # peft follows the precision of the layer it adapts. In bfloat16 an update of 1e-4 is lost in
    # rounding, and a magnitude rounded to 8 bits changes the model by 0.4 % before the first step.
    halves = [p for n, p in layer.named_parameters() if "lora_" in n and p.dtype.itemsize < 4]
    for parameter in halves:
        parameter.data = parameter.data.float()
    if halves and _NAME in layer.lora_magnitude_vector:
        layer.lora_magnitude_vector[_NAME].update_layer(
            base_layer=layer.get_base_layer(),
            lora_A=layer.lora_A[_NAME].weight,
            lora_B=layer.lora_B[_NAME].weight,
            scaling=layer.scaling[_NAME],
        )


def _assign(unet: Any, content: AdapterFile) -> None:
    own, given = get_peft_model_state_dict(unet, adapter_name=_NAME), content.tensors
    for key in sorted(own.keys() | given.keys()):
        if key not in given or key not in own:
            raise misfit(content.path, f"{key} is {'absent' if key in own else 'not expected'}")
        if own[key].shape != given[key].shape:
            raise misfit(
                content.path, f"{key} is {list(given[key].shape)}, expected {list(own[key].shape)}"
            )
    set_peft_model_state_dict(unet, given, adapter_name=_NAME)


def _ends(name: str, target: str) -> bool:
    return name == target or name.endswith(f".{target}")


def _candidates(modules: Mapping[str, nn.Module]) -> list[str]:
    found = set()
    for name, module in modules.items():
        if isinstance(module, nn.Linear | nn.Conv2d):
            words = name.split(".")
            # An index alone says nothing: it is named with what it indexes, as in to_out.0.
            found.add(".".join(words[-2 if words[-1].isdigit() else -1 :]))
    return sorted(found)
