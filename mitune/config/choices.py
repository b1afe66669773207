"""The words that options choose from, as types: known without importing what they name, so that the
command line can explain and check them before torch is there."""

from typing import Any, Literal, get_args

from mitune.core.errors import UserError

Precision = Literal["float32", "bfloat16", "float16", "bf16-mixed", "float64"]
Scheduler = Literal["ddpm", "ddim", "euler"]
Convention = Literal["paper", "reference", "integral", "mean"]
Backend = Literal["eager", "inductor", "tensorrt"]
Implementation = Literal["auto", "reference", "cpp", "triton", "cuda"]
Attention = Literal["auto", "sdpa", "math", "xformers"]
Rule = Literal["mi", "random", "worst"]
Estimator = Literal["trajectory", "rfmi", "orthogonal", "standard"]
"""What ranks a pool; the first two come from generation's own path."""
ReNoising = Literal["orthogonal", "standard"]
Pruning = Literal["halving", "threshold", "draft"]
Method = Literal["dora", "lora", "full"]
LearningRate = Literal["constant", "linear"]
Gradient = Literal["peft", "merged"]
TrainingBackend = Literal["eager", "inductor"]
Acting = Literal["guidance", "attend-and-excite", "structured", "information"]
"""What acts while a picture is sampled."""
Tracker = Literal["tensorboard", "wandb"]
Form = Literal["diffusers", "comfyui", "kohya", "merged"]
PictureForm = Literal["pairs", "imagefolder", "webdataset"]


def check_choice(name: str, value: object, choices: Any) -> None:
    """Raise UserError unless ``value``, what ``name`` was set to, is one of the Literal
    ``choices``."""
    known = get_args(choices)
    if value not in known:
        raise UserError(f"{name} {value!r} is not known: choose one of {', '.join(known)}")
