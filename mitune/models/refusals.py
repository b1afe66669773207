"""Why models of some kinds cannot be aligned, by the class of their pipeline."""

import re

_ONE = "there is no prediction without the prompt to compare with"
_REASONS = (
    (r"Inpaint|Fill", "fills masked pictures: its network is given a mask and a picture too"),
    (
        r"Img2Img|Image2Image|Pix2Pix|Edit|Kontext|Upscale|Depth2Img|Redux",
        "starts from a picture: what it draws depends on more than the prompt",
    ),
    (
        r"Video|^(Wan|LTX|Mochi|CogVideo|AnimateDiff|Allegro|Latte|Cosmos|SkyReels|Helios)",
        "draws videos: its latents have a time that no part of mitune knows",
    ),
    (r"ControlNet|T2IAdapter|ReferenceOnly", "is steered by another network beside the prompt"),
    (
        r"Consistency|Turbo|Schnell|Lightning|Sprint",
        f"is distilled to few steps with its guidance in one prediction: {_ONE}",
    ),
    (
        r"^Flux2Pipeline$",
        f"is given its guidance as a number, which is in its one prediction: {_ONE}",
    ),
    (r"Audio", "makes sound"),
)


def why_not(pipeline: str) -> str | None:
    """The reason why pipelines of the class of that name cannot be used, as the end of a sentence
    about them; None if there is only no family for them yet."""
    return next((why for words, why in _REASONS if re.search(words, pipeline)), None)
