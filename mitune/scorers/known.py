"""Find a scorer by the name that a user gives: NAME or NAME=WEIGHTS."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

from mitune.core.errors import UserError
from mitune.models.protocol import LatentModel
from mitune.scoring.scorer import Scorer

GROUP = "mitune.scorers"
"""Entry points of plug-ins: each is called with the weights that the user gave, or None, and
returns a Scorer."""


@dataclass(frozen=True)
class Known:
    """A scorer that comes with mitune.

    Attributes:
        says: what it is, in a few words.
        weights: hub name that it loads by default; None: the user names a folder.
        load: takes the weights.
    """

    says: str
    weights: str | None
    load: Callable[[str], Scorer]


def _clip(name: str, weights: str, *, scaled: bool = False) -> Scorer:
    from mitune.scorers.clip import load

    return load(name, weights, scaled=scaled)


def _hps(weights: str) -> Scorer:
    from mitune.scorers.clip import load
    from mitune.scorers.pixels import padded

    return load("hps", weights, frame=padded)


def _blip_vqa(weights: str, *, protocol: str) -> Scorer:
    from mitune.scorers import blip_vqa

    return blip_vqa.load(weights, protocol="hf" if protocol == "hf" else "compbench")


def _image_reward(weights: str) -> Scorer:
    from mitune.scorers.image_reward import load

    return load(weights)


def _vqa_score(weights: str) -> Scorer:
    from mitune.scorers.vision_language import VqaScore, load

    return VqaScore(load("vqa-score", weights))


def _soft_tifa(weights: str) -> Scorer:
    from mitune.scorers.vision_language import SoftTifa, load, read_questions

    model, _, questions = weights.partition(",")
    if not questions:
        raise UserError(
            f"scorer soft-tifa was given {weights!r}: expected soft-tifa=MODEL,QUESTIONS, the "
            "second a file of JSON lines with prompt and vqa_list, as GenEval 2 has it"
        )
    return SoftTifa(load("soft-tifa", model), read_questions(Path(questions)))


def _spatial(weights: str) -> Scorer:
    from mitune.scorers.spatial import load

    return load(weights)


_BLIP = "Salesforce/blip-vqa-capfilt-large"
KNOWN = {
    "clip": Known(
        "cosine of CLIP ViT-B/32", "openai/clip-vit-base-patch32", partial(_clip, "clip")
    ),
    "hps": Known("HPS v2.1, from HPS_v2.1_compressed.pt", None, _hps),
    "pick": Known("PickScore", "yuvalkirstain/PickScore_v1", partial(_clip, "pick", scaled=True)),
    "blip-vqa": Known(
        "BLIP-VQA as T2I-CompBench defines it", _BLIP, partial(_blip_vqa, protocol="compbench")
    ),
    "blip-vqa-hf": Known(
        "BLIP-VQA as transformers' class is", _BLIP, partial(_blip_vqa, protocol="hf")
    ),
    "image-reward": Known("ImageReward, converted", None, _image_reward),
    "vqa-score": Known(
        'P("Yes") of a vision-language model', "Qwen/Qwen2.5-VL-7B-Instruct", _vqa_score
    ),
    "soft-tifa": Known("GenEval 2's questions: MODEL,QUESTIONS", None, _soft_tifa),
    "spatial": Known(
        "T2I-CompBench's rule on another detector's boxes",
        "IDEA-Research/grounding-dino-base",
        _spatial,
    ),
}
MI = "mi"


def plug_ins() -> dict[str, EntryPoint]:
    """The scorers that installed packages bring."""
    return {entry.name: entry for entry in entry_points(group=GROUP)}


def find_scorers(given: Sequence[str], model: LatentModel | None = None) -> list[Scorer]:
    """The scorers that a user named, each once; arguments and errors as of ``find_scorer``."""
    names = [each.partition("=")[0] for each in given]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UserError(f"scorer {twice} is given twice: expected each name once")
    return [find_scorer(each, model) for each in given]


def find_scorer(given: str, model: LatentModel | None = None) -> Scorer:
    """The scorer that a user named.

    Args:
        given: NAME or NAME=WEIGHTS, a folder or hub name.
        model: which ``mi`` scores with.

    Raises:
        UserError: an unknown name, weights that are missing, or ``mi`` without a model.
    """
    name, _, weights = given.partition("=")
    if name == MI:
        from mitune.scorers.information import Information

        if model is None:
            raise UserError("scorer mi needs a model: give --model")
        return Information(model)
    if name in KNOWN:
        known = KNOWN[name]
        source = weights or known.weights
        if source is None:
            raise UserError(f"scorer {name} needs weights ({known.says}): give {name}=PATH")
        return known.load(source)
    others = plug_ins()
    if name in others:
        found: Scorer = others[name].load()(weights or None)
        return found
    names = ", ".join([MI, *KNOWN, *sorted(others)])
    raise UserError(f"scorer {name!r} is not known: choose one of {names}")
