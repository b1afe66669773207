"""Where in a picture is what each phrase of its prompt adds to the rest? Maps of point-wise mutual
information over the base model's pictures of held-out prompts."""

import time
from typing import Any

from mitune.core import progress
from mitune.evaluation.drawing import draw
from mitune.evaluation.pictures import grid, overlay
from mitune.evaluation.studies.plan import Plan
from mitune.evaluation.studies.told import tell
from mitune.scoring.maps import mi_map

DRAWS = 32


def run(plan: Plan) -> dict[str, Any]:
    """Draw one picture of each test prompt and write ``maps.png``: in each row the picture and a
    map for each phrase."""
    start = time.perf_counter()
    progress.quiet_libraries()
    model = plan.load()
    texts = list(plan.texts("test"))
    sampler = plan.sampler(plan.compared_at)
    made = draw(model, texts, images=1, sampler=sampler, seed=1_000_000, runtime=plan.runtime)
    pictures = model.decode(made.latents)
    shown, rows, lines = [], [], ["| prompt | without | nats |", "|---|---|---:|"]
    for number, text in enumerate(texts):
        rests = plan.of.rests(text)
        maps = mi_map(
            model,
            [text] * len(rests),
            made.latents[[number] * len(rests)],
            rests=rests,
            estimator="standard",
            draws=DRAWS,
            t_min=sampler.t_min,
            runtime=plan.runtime,
        )
        picture = pictures[number]
        shown.append((text, [picture, *(overlay(picture, found) for found in maps)]))
        for rest, found in zip(rests, maps, strict=True):
            nats = float(found.sum())
            rows.append({"prompt": text, "without": rest, "nats": nats})
            lines.append(f"| {text} | {rest or '(nothing)'} | {nats:.1f} |")
    grid(shown, plan.out / "maps.png")
    table = "\n".join(lines) + "\n"
    print(table)
    return tell(plan, "maps", table, rows, time.perf_counter() - start)
