"""The dataset card of a set's exported pictures."""

from mitune.config.choices import PictureForm

_ROWS: dict[PictureForm, str] = {
    "pairs": "One row per prompt: `caption`; `jpg_0`, its candidate with the highest score; "
    "`jpg_1`, the one with the lowest; `label_0`, 1, as the first is preferred; `nats_0`, "
    "`nats_1`, their scores.",
    "imagefolder": "Each selected picture as a PNG, with its `text` and `mi_nats` in "
    "`metadata.jsonl`.",
    "webdataset": "Each selected picture as `.png`, with its prompt as `.txt` and its `mi_nats` in "
    "`.json`.",
}
_CARD = """\
---
pretty_name: Pictures chosen by MI-Tune
tags:
- mitune
- text-to-image
---

# Pictures chosen by MI-Tune

{count} {what} of {prompts} prompts, drawn by `{model}` and scored by the point-wise mutual
information of prompt and picture, in nats. {rows}

The model's licence covers its pictures where it says so.
"""


def picture_card(form: PictureForm, count: int, prompts: int, model: str) -> bytes:
    """The bytes of README.md."""
    what = "pairs" if form == "pairs" else "pictures"
    text = _CARD.format(count=count, what=what, prompts=prompts, model=model, rows=_ROWS[form])
    return text.encode()
