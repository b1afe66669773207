"""The identity of a model: everything in it that changes a number, as digests and plain JSON.

The identity has two parts. The **fingerprint** hashes the weights of the denoiser and the text
encoders, which are the networks that an adapter changes: an adapter belongs to these weights,
whatever scheduler or VAE is used with them. The **parts** are the rest: configs, the VAE, the
tokenizer and the scheduler. Code that resumes, mixes or compares requires both to be equal. Where a
model was loaded from, and how its path was written, is recorded but never compared.
"""

import hashlib
import inspect
import json
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from mitune.core.errors import UserError

_SCHEDULER = (
    "num_train_timesteps",
    "beta_start",
    "beta_end",
    "beta_schedule",
    "trained_betas",
    "rescale_betas_zero_snr",
    "prediction_type",
    "timestep_spacing",
    "steps_offset",
    "variance_type",
    "set_alpha_to_one",
    "final_sigmas_type",
)
_FLOW = (
    "num_train_timesteps",
    "shift",
    "shift_terminal",
    "use_dynamic_shifting",
    "base_shift",
    "max_shift",
    "base_image_seq_len",
    "max_image_seq_len",
    "time_shift_type",
    "use_karras_sigmas",
    "use_exponential_sigmas",
    "use_beta_sigmas",
    "invert_sigmas",
    "stochastic_sampling",
)
"""Options of the rectified-flow scheduler."""
# Only options that do not follow from the shapes of the weights.
_TEXT_ENCODER = ("hidden_act", "layer_norm_eps", "num_attention_heads", "use_attention_mask")
_PREFIX = "text_model."
_LONGEST = 4096
_PROBES = [
    "A photo of TWO cats, sitting on a sofa;  don't (ever) move!",
    "Zürich 2026: naïve café ½ 東京 🙂",
    "",
    "red " * 100,
]
"""Texts that show how a tokenizer normalises, splits, pads and truncates."""


def weights_digest(*modules: torch.nn.Module) -> str:
    """SHA-256 over names and values of all tensors, in their own dtypes, in one pass. The same in
    every version of transformers, of which those before 5 put ``text_model.`` before all names of
    a CLIP text encoder."""
    digest = hashlib.sha256()
    for module in modules:
        tensors = module.state_dict()
        if all(name.startswith(_PREFIX) for name in tensors):
            tensors = {name.removeprefix(_PREFIX): tensor for name, tensor in tensors.items()}
        for name, tensor in sorted(tensors.items()):
            digest.update(name.encode())
            # Hash a view of the memory, not a copy as bytes: weights are gigabytes.
            flat = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
            digest.update(memoryview(flat.numpy()))
    return digest.hexdigest()


def parts_of(
    pipeline: Any,
    denoiser: str,
    encoders: Sequence[str],
    tokenizers: Sequence[str],
    scheduler: Any,
) -> dict[str, Any]:
    """Everything in a pipeline that changes a number, except the weights of the denoiser and the
    text encoders: by part, as plain JSON.

    Args:
        pipeline: also has a ``vae``; its weights are as they were loaded. Text
            encoders and tokenizers that are None are left out.
        denoiser, encoders, tokenizers: names of its parts.
        scheduler: whose noise levels and steps are used.
    """
    parts: dict[str, Any] = {denoiser: _chosen(getattr(pipeline, denoiser))}
    for name in encoders:
        if (encoder := getattr(pipeline, name)) is not None:
            parts[name] = _encoder(encoder)
    parts["vae"] = {"weights": weights_digest(pipeline.vae), **_chosen(pipeline.vae)}
    for name in tokenizers:
        if (tokenizer := getattr(pipeline, name)) is not None:
            parts[name] = _tokenizer(tokenizer)
    parts["scheduler"] = _scheduler(scheduler)
    plain: dict[str, Any] = json.loads(json.dumps(parts))
    return plain


def merges_of(tokenizer: Any) -> list[str] | None:
    """The merges of a byte-pair tokenizer as "left right", in order; None for another kind."""
    if (backend := getattr(tokenizer, "backend_tokenizer", None)) is not None:
        found = json.loads(backend.to_str())["model"].get("merges")
    else:
        found = getattr(tokenizer, "bpe_ranks", None)
    if found is None:
        return None
    return [merge if isinstance(merge, str) else " ".join(merge) for merge in found]


def check_same_model(what: str, settings: Mapping[str, Any], model: Any) -> None:
    """Refuse a set that was built with another model.

    Args:
        what: the set, as the message names it.
        settings: the set's; what they do not record of their model is not compared.
        model: has ``name``, ``fingerprint`` and ``parts``.

    Raises:
        UserError: the models differ; the message names each part that differs.
    """
    found = []
    if settings.get("model_fingerprint", model.fingerprint) != model.fingerprint:
        found.append("the weights of denoiser or text encoder differ")
    there, here = settings.get("model_parts", {}), model.parts
    found += [
        f"the {name} differs ({_changes(there[name], here[name])})"
        for name in there.keys() & here.keys()
        if there[name] != here[name]
    ]
    if found:
        raise UserError(
            f"{what} was built with another model than {model.name}: {', '.join(sorted(found))}; "
            "give the model it was built with, or build a set with this one"
        )


def _changes(there: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{key} {_short(there.get(key))} -> {_short(here.get(key))}"
        for key in sorted(there.keys() | here.keys())
        if there.get(key) != here.get(key)
    )


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 20 else f"{text[:12]}..."


def _encoder(encoder: Any) -> dict[str, Any]:
    found = {name: getattr(encoder.config, name, None) for name in _TEXT_ENCODER}
    return {name: value for name, value in found.items() if value is not None}


def _chosen(module: Any) -> dict[str, Any]:
    """The options of a diffusers network that differ from its class's defaults.

    A config that spells a default out is then equal to one that omits it, and an option that a
    later diffusers adds changes nothing.
    """
    defaults = inspect.signature(type(module).__init__).parameters
    plain = json.loads(json.dumps({k: v for k, v in module.config.items() if k in defaults}))
    return {
        name: value
        for name, value in plain.items()
        if value != json.loads(json.dumps(defaults[name].default))
    }


def _tokenizer(tokenizer: Any) -> dict[str, Any]:
    # Some tokenizers say no length, which transformers makes a huge number.
    length = min(tokenizer.model_max_length, _LONGEST)
    ids = tokenizer(_PROBES, padding="max_length", max_length=length, truncation=True).input_ids
    vocabulary = [sorted(tokenizer.get_vocab().items()), merges_of(tokenizer)]
    return {"vocabulary": _sha(vocabulary), "encoding": _sha(ids), "model_max_length": length}


def _scheduler(scheduler: Any) -> dict[str, Any]:
    config, kind = scheduler.config, type(scheduler).__name__
    if kind.startswith("FlowMatch"):  # it has one solver: no other class's defaults apply
        return {"class": kind} | {name: config[name] for name in _FLOW if name in config}
    found = {name: config[name] for name in _SCHEDULER if name in config}
    if found.get("trained_betas") is not None:
        found["trained_betas"] = _sha([float(beta) for beta in found["trained_betas"]])
    found["class"] = kind
    # ``Schedule`` replaces an option that was not given by the default of the solver's class.
    found["by_default"] = sorted({*config.get("_use_default_values", ())} & found.keys())
    return found


def _sha(value: object) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()
