"""A report of 700 prompts x 50 candidates of synthetic scores, each with a picture: seconds to
write it, seconds to open it in Chromium, and the longest frame while it is scrolled to its end.

python bench/report_scale.py
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "report"))

from browser import opened, page

import mitune
from mitune.engine.candidate import Candidate
from mitune.report.write import write_report
from mitune.sets import SetWriter

_SCROLL = """async () => {
  const longest = {frame: 0, count: 0};
  let last = performance.now();
  const end = document.documentElement.scrollHeight;
  for (let top = 0; top < end; top += 2000) {
    window.scrollTo({top, behavior: "instant"});
    await new Promise(requestAnimationFrame);
    const now = performance.now();
    longest.frame = Math.max(longest.frame, now - last);
    longest.count += 1;
    last = now;
  }
  return longest;
}"""


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--prompts", type=int, default=700)
    options.add_argument("--candidates", type=int, default=50)
    given = options.parse_args()
    model = mitune.load("shapes", device="cpu")
    source = torch.Generator().manual_seed(0)
    some = torch.randn(64, *model.latent_shape, generator=source)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "set"
        prompts = [f"a picture of thing number {number}" for number in range(given.prompts)]
        settings = {"model_parts": dict(model.parts)}
        with SetWriter(
            out, settings, prompts, given.candidates, 1, all_latents=True, notes={"model": "shapes"}
        ) as writer:
            for number, prompt in enumerate(prompts):
                scores = torch.randn(given.candidates, generator=source) * 4 + 5
                for index in range(given.candidates):
                    writer.add(
                        Candidate(
                            prompt=prompt,
                            prompt_index=number,
                            index=index,
                            seed=0,
                            score=float(scores[index]),
                            terms=torch.rand(25, 2, generator=source),
                            latent=some[(number + index) % len(some)],
                        )
                    )
        start = time.perf_counter()
        path = write_report([out], model=model)
        written = time.perf_counter() - start
        with opened() as browser, page(browser, viewport={"width": 1280, "height": 900}) as shown:
            start = time.perf_counter()
            shown.goto(path.as_uri(), wait_until="load")
            loaded = time.perf_counter() - start
            scrolled = shown.evaluate(_SCROLL)
        size = path.stat().st_size / 2**20
    print(
        f"{given.prompts * given.candidates} candidates: written in {written:.1f} s, "
        f"{size:.1f} MiB, opened in {loaded:.2f} s; longest of {scrolled['count']} frames "
        f"{scrolled['frame']:.0f} ms"
    )


if __name__ == "__main__":
    main()
