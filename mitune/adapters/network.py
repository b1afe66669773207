"""An adapter on one network, a denoiser or a text encoder.

The layers are peft's own. DoRA (Liu et al., arXiv 2402.09353, Eq. 5) uses the weight
    W' = m V / norm(V),  V = W + s B A,  s = alpha / rank
with one norm and one magnitude m per output; the gradient treats the norm as a constant. LoRA uses
the weight V.
"""

import copy
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers.utils import recurse_remove_peft_layers
from peft import (
    LoraConfig,
    get_peft_model_state_dict,
    inject_adapter_in_model,
    set_peft_model_state_dict,
)
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from mitune.adapters.adapter_config import misfit
from mitune.adapters.adapter_file import Part
from mitune.adapters.names import TEXT_MODEL
from mitune.config.training import TuneConfig
from mitune.core.errors import UserError
from mitune.models.protocol import LatentModel, text_encoders

_NAME = "default"


def asked(model: LatentModel, config: TuneConfig) -> dict[str, LoraConfig]:
    """The peft configuration that ``config`` asks for, for each of the model's networks."""
    targets = {model.denoiser: config.targets} if config.method != "full" else {}
    if config.text_encoder_lr is not None:
        targets |= {name: model.text_targets[name] for name in text_encoders(model)}
    alpha: Any = config.alpha  # peft declares an int and accepts any number
    return {
        name: LoraConfig(
            r=config.rank,
            lora_alpha=alpha,
            target_modules=sorted(set(ends)),
            use_dora=config.method == "dora",
            init_lora_weights="gaussian",
        )
        for name, ends in targets.items()
    }


def inject(network: Any, config: LoraConfig, seed: int) -> None:
    """Put a fresh adapter on a network, in place; its A is drawn from ``seed``. The global random
    state does not change."""
    with torch.random.fork_rng(devices=[]):
        # Not torch.manual_seed, which would also seed every GPU; peft draws on the CPU.
        torch.default_generator.manual_seed(seed)
        if hasattr(network, "add_adapter"):
            network.add_adapter(config, _NAME)
        else:  # some of diffusers' transformers, PixArt's for one, lack the mixin
            inject_adapter_in_model(config, network, _NAME)
    for layer in network.modules():
        if isinstance(layer, LoraLayer):
            _to_float32(layer)


def load_adapter(network: Any, part: Part, path: Path) -> None:
    """Put a file's adapter on a network without one, in place.

    Raises:
        UserError: it does not fit; the network may then have a part of it.
    """
    modules = dict(network.named_modules())
    known = {name.removeprefix(TEXT_MODEL) for name, m in modules.items() if _adaptable(m)}
    absent = min(part.layers - known, default=None)
    if absent is not None:
        raise misfit(path, f"the {type(network).__name__} has no layer {absent}")
    try:
        inject(network, part.config, 0)
    except (ValueError, TypeError, re.error) as error:  # its patterns are regular expressions
        raise misfit(path, f"peft refuses its settings: {error}") from error
    assign(network, part, path)


def assign(network: Any, part: Part, path: Path) -> None:
    """Copy a file's values into the adapter that is on a network. Raises UserError if the file's
    adapter has other layers or ranks."""
    own = {key.removeprefix(TEXT_MODEL): (key, value) for key, value in _state(network).items()}
    given = part.tensors
    for key in sorted(own.keys() | given.keys()):
        if key not in given or key not in own:
            raise misfit(path, f"{key} is {'absent' if key in own else 'not expected'}")
        if own[key][1].shape != given[key].shape:
            raise misfit(
                path, f"{key} is {list(given[key].shape)}, expected {list(own[key][1].shape)}"
            )
    values = {own[key][0]: value for key, value in given.items()}
    set_peft_model_state_dict(network, values, adapter_name=_NAME)


def collect_adapter(network: Any) -> Part:
    """The adapter that is on a network, in the form in which a file holds it."""
    tensors = {key.removeprefix(TEXT_MODEL): value for key, value in _state(network).items()}
    return Part(tensors=tensors, config=network.peft_config[_NAME])


def remove_adapter(network: Any) -> None:
    """Take any adapter off, in place: the network has its own layers again, with unchanged
    weights."""
    # The same as diffusers' unload_lora, which the text encoders of transformers do not have.
    recurse_remove_peft_layers(network)
    if hasattr(network, "peft_config"):
        del network.peft_config
    network._hf_peft_config_loaded = False


def copy_without(network: Any) -> Any:
    """A copy of a network without any adapter; it shares all weights."""
    shared = {id(tensor): tensor for tensor in (*network.parameters(), *network.buffers())}
    plain = copy.deepcopy(network, shared)
    remove_adapter(plain)
    return plain


def adapted(network: Any) -> bool:
    """Whether an adapter is on the network."""
    return any(isinstance(module, LoraLayer) for module in network.modules())


def parameters(network: Any) -> dict[str, nn.Parameter]:
    """The adapter's tensors by a stable name, in a stable order; shapes as in ``Part``."""
    return {
        name.replace(f".{_NAME}", ""): parameter
        for name, parameter in network.named_parameters()
        if ".lora_" in name
    }


def check_targets(network: Any, targets: Sequence[str]) -> None:
    """Raise UserError for a target that names no linear or convolution layer of the network; the
    message lists possible ones."""
    modules = dict(network.named_modules())
    for target in targets:
        found = [module for name, module in modules.items() if _ends(name, target)]
        if not found or not all(map(_adaptable, found)):
            raise UserError(
                f"target {target!r} names no layer that can be adapted: expected ends of names "
                f"such as {', '.join(_candidates(modules))}"
            )


def differences(network: Any, asked: LoraConfig) -> list[str]:
    """Describe how the adapter on a network differs in kind from the one ``asked`` for."""
    have = network.peft_config[_NAME]
    settings = (
        ("method", *("dora" if c.use_dora else "lora" for c in (have, asked))),
        ("rank", have.r, asked.r),
        ("alpha", have.lora_alpha, asked.lora_alpha),
    )
    differing = [f"{name} is {a} there and {b} here" for name, a, b in settings if a != b]
    names = dict(network.named_modules())
    layers = {name for name, module in names.items() if isinstance(module, LoraLayer)}
    # peft's wrapper contains the layer itself and peft's own parts, which are not targets.
    own = {name for name in names if ".base_layer" not in name and ".lora_" not in name}
    targets = sorted(asked.target_modules or ())
    wanted = {name for name in own if any(_ends(name, target) for target in targets)}
    if layers != wanted:
        differing.append(
            f"{len(layers)} layers are adapted there, targets {', '.join(targets)} name "
            f"{len(wanted)} here"
        )
    return differing


def _state(network: Any) -> dict[str, Tensor]:
    state: dict[str, Tensor] = get_peft_model_state_dict(network, adapter_name=_NAME)
    return state


def _to_float32(layer: Any) -> None:
    # peft uses the precision of the layer it adapts. In bfloat16 an update of 1e-4 is lost in
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


def _adaptable(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear | nn.Conv2d)


def _ends(name: str, target: str) -> bool:
    return name == target or name.endswith(f".{target}")


def _candidates(modules: Mapping[str, nn.Module]) -> list[str]:
    found = set()
    for name, module in modules.items():
        if _adaptable(module):
            words = name.split(".")
            # An index alone means nothing: it is listed with what it indexes, as in to_out.0.
            found.add(".".join(words[-2 if words[-1].isdigit() else -1 :]))
    return sorted(found)
