"""The model card of an adapter: what was trained and how, and how to use it."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCardData

from mitune.adapters.run_folder import FORMAT, METRICS, RUN, VERSION, base_name

CARD = "README.md"

_CARD = """\
---
{front}
---

# {title}

{about}

## Use
{use}

## Training
{training}

## Limits
{limits}
"""

_ABOUT = """\
`{base}` aligned with itself by MI-Tune: trained on pictures of its own that were kept for their
prompts. (MI-Tune keeps those with the highest point-wise mutual information.)"""
_REWARDED = "`{base}` trained on rewards of its own pictures, by policy gradient (DPOK)."
_FOREIGN = "Of the base model `{base}`; not known to be trained by mitune."

WORLDS = ("shapes", "shapes-v1")
"""The names of the embedded worlds' models, which are above adapters in the layers."""
_OF_A_WORLD = "    from mitune.worlds.known import WORLDS\n"

_ONE_FILE = """\
The base model is a checkpoint in one file: `from_single_file` of its pipeline's class loads it."""

_LIMITS = (
    "What it does to pictures was not measured for this card; `mitune eval` compares base and "
    "adapter. Selection adds no knowledge that the base lacks, and keeps its biases.",
    "The base model's licence and its restrictions of use apply.",
)
_ADAPTER_LIMIT = (
    "It fits this base model alone; another one of the same shape loads it silently and "
    "draws something else."
)


@dataclass(frozen=True, kw_only=True)
class Form:
    """The parts of a card that depend on the files next to it.

    Attributes:
        title: of the card.
        use: how to load it; ``{base}`` stands for the base model's name for people, ``{source}``
            for the base model as an argument of ``from_pretrained``.
        relation: to the base model, in the hub's words: "adapter" or "finetune".
        limits: of this form, each of one or more sentences.
    """

    title: str
    use: str
    relation: str = "adapter"
    limits: tuple[str, ...] = ()


ADAPTER = Form(
    title="Adapter",
    use="""\
    from diffusers import DiffusionPipeline
    pipeline = DiffusionPipeline.from_pretrained({source})
    pipeline.load_lora_weights("path/of/this/folder")""",
)


_WITHOUT_LOADER = Form(
    title="Adapter",
    use="""\
diffusers has no `load_lora_weights` for this pipeline. A whole pipeline of base and adapter:

    mitune export --model {source} --adapter path/of/this/folder --format merged --out DIR""",
)


def of_adapter(pipeline: Any) -> Form:
    """The form for an adapter of a diffusers pipeline."""
    return ADAPTER if hasattr(pipeline, "load_lora_weights") else _WITHOUT_LOADER


def whole(denoiser: str) -> Form:
    """The form for a full fine-tuning of the pipeline's part ``denoiser``."""
    return Form(
        title="Tuned denoiser",
        relation="finetune",
        use=f"""\
    from diffusers import AutoModel, DiffusionPipeline
    tuned = AutoModel.from_pretrained("path/of/this/folder", subfolder="{denoiser}")
    pipeline = DiffusionPipeline.from_pretrained({{source}}, {denoiser}=tuned)""",
        limits=(f"All weights of the {denoiser} were trained; everything else is the base's.",),
    )


def card(run: Path, form: Form = ADAPTER, *, base: str | None = None) -> bytes:
    """The bytes of README.md, with the front matter that the Hugging Face hub reads.

    They depend only on the arguments and on the run's run.json and metrics.jsonl: the same run
    gives the same card.

    Args:
        run: folder of a training run. Without a run.json (in a checkpoint, or with another
            trainer's adapter) the card says that the training is not known.
        form: of the files next to the card.
        base: name of the base model if the run does not record it.
    """
    content = _read(run / RUN)
    name = content.get("model") or (base and base_name(base)) or "unnamed"
    hub = is_on_hub(name)
    shown = shown_name(name)
    adapter = form.relation == "adapter"
    front = ModelCardData(
        base_model=name if hub else None,
        base_model_relation=form.relation if hub else None,
        library_name="diffusers",
        pipeline_tag="text-to-image",
        tags=["mitune", *(["lora"] if adapter else [])],
    )
    use = form.use.format(base=f"`{shown}`", source=_source(name, hub))
    if name in WORLDS and "{source}" in form.use:
        use = _OF_A_WORLD + use
    if name.endswith(".safetensors"):
        use += f"\n\n{_ONE_FILE}"
    text = _CARD.format(
        front=front.to_yaml(),
        title=form.title,
        about=_about(content).format(base=shown),
        use=use,
        training="\n".join(_training(content, list(_metrics(run)))),
        limits="\n".join(
            f"* {limit}"
            for limit in (*form.limits, *([_ADAPTER_LIMIT] if adapter else []), *_LIMITS)
        ),
    )
    return text.encode()


def is_on_hub(name: str) -> bool:
    """Whether a model's name is one of the hub, and not a path."""
    return re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", name) is not None


def shown_name(name: str) -> str:
    """A model's name of a record, for readers of a card: a local path means nothing to them."""
    return name if is_on_hub(name) else Path(name).name


def _source(name: str, hub: bool) -> str:
    if name in WORLDS:
        return f'WORLDS["{name}"].folder'
    return f'"{name}"' if hub else '"path/of/the/base/model"'


def _read(path: Path) -> dict[str, Any]:
    """The run.json of a training run; empty if there is none."""
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    ours = isinstance(content, dict) and content.get("format") == FORMAT
    return content if ours and content.get("version") == VERSION else {}


def _metrics(run: Path) -> Iterator[dict[str, Any]]:
    try:
        lines = (run / METRICS).read_text().splitlines()
    except OSError:
        return
    yield from map(json.loads, lines)


def _about(content: Mapping[str, Any]) -> str:
    if not content:
        return _FOREIGN
    return _REWARDED if "reward" in content["settings"] else _ABOUT


def _training(content: Mapping[str, Any], metrics: list[dict[str, Any]]) -> Iterator[str]:
    """Lines of the section: every setting, the first and last losses and, with held-out MI, which
    step's adapter this is."""
    if not content:
        yield "Not known: no run.json of `mitune tune` lies beside the adapter."
        return
    yield "| | |"
    yield "|---|---|"
    settings, versions = content["settings"], content["environment"]["versions"]
    for key, value in _flat(settings["config"]):
        yield f"| {key} | {value} |"
    yield f"| trained on from | {settings.get('adapter') or 'a fresh adapter'} |"
    yield f"| base model's fingerprint | {settings['model']['fingerprint']} |"
    if reward := settings.get("reward"):
        yield f"| reward | {reward}, on {len(settings['prompts'])} prompts |"
    if own := settings.get("set"):
        yield f"| set | {own['pairs']} pairs, SHA-256 {own['sha256']} |"
        for key, value in _flat(own["settings"]):
            if not key.startswith("model"):  # that is the base, shown above
                yield f"| set: {key} | {value} |"
    for name in ("real", "prior", "worse"):
        if name in settings:
            yield (
                f"| {name} set | {settings[name]['pairs']} pairs, SHA-256 "
                f"{settings[name]['sha256']} |"
            )
    held_out = settings.get("held_out", {})
    for key, value in _flat(held_out):
        yield f"| held-out MI: {key} | {value} |"
    what = "reward" if "reward" in settings else "loss"
    values = [line[what] for line in metrics]
    if values:
        tenth = max(1, len(values) // 10)
        first, last = (sum(part) / tenth for part in (values[:tenth], values[-tenth:]))
        yield f"| {what}, first and last step | {values[0]:.4g}, {values[-1]:.4g} |"
        yield f"| {what}, means of {tenth} steps at either end | {first:.4g}, {last:.4g} |"
    measured = [line for line in metrics if line.get("held_out_mi") is not None]
    if measured and held_out:
        best = max(measured, key=lambda line: line["held_out_mi"])  # the first of equal ones
        result = best["step"] if held_out["best"] else metrics[-1]["step"]
        yield f"| best held-out MI | {best['held_out_mi']:.4g} nats, after step {best['step']} |"
        yield f"| this adapter | after step {result} of {settings['config']['iterations']} |"
    packages = ("mitune", "torch", "diffusers", "peft")
    yield f"| made with | {', '.join(f'{p} {versions.get(p)}' for p in packages)} |"


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in settings.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key} ")
        elif isinstance(value, list):
            yield f"{prefix}{key}", ", ".join(map(str, value))
        elif value is not None:
            # A name may hold characters that would end the table's cell.
            yield f"{prefix}{key}", str(value).replace("|", "\\|").replace("\n", " ")
