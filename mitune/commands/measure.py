"""The verb that measures: bench."""

from dataclasses import dataclass
from typing import Any, Literal

from tyro.conf import Positional

from mitune.bench.step import measure, measure_share
from mitune.errors import UserError
from mitune.load import pick_device


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Measure on this machine: ratios to a baseline of the same run."""

    what: Positional[Literal["step"]]
    """step: every implementation of the fused step against eager torch, torch.compile and a copy
    of the same bytes."""
    rows: int = 128
    """Candidates in the batch."""
    elements: int = 16384
    """Elements of a latent; 16384 are Stable Diffusion's 4 x 64 x 64."""
    compiled: bool = True
    """Also torch.compile of the reference, which first takes a minute to compile."""
    device: str | None = None
    """cpu, cuda or cuda:N. None: a GPU if there is one."""
    json: bool = False
    """Print one JSON object as the last line of stdout."""

    def run(self) -> dict[str, Any]:
        for name, value in (("rows", self.rows), ("elements", self.elements)):
            if value < 1:
                raise UserError(f"{name} is {value}: expected at least 1")
        device = pick_device(self.device)
        result = measure(self.rows, self.elements, device=device, compiled=self.compiled)
        print(
            f"{result['device']}, {self.rows} rows of {self.elements} float32; "
            f"a copy moves {result['copy_gb_per_s']:.1f} GB/s"
        )
        print(f"{'':<12} {'seconds':>10} {'x eager':>8} {'of copy':>8}   with noise: the same")
        for name, without in result.items():
            if isinstance(without, dict):
                figures = "   ".join(
                    f"{case['seconds']:10.2e} {case['ratio_vs_eager']:8.2f} "
                    f"{case['bandwidth_fraction']:8.0%}"
                    for case in (without, without["noise"])
                )
                print(f"{name:<12} {figures}")
        if device.type == "cpu":
            share = measure_share()
            print(
                f"in a tick of {share['slots']} candidates of the embedded model: "
                f"{share['step_seconds']:.2e} of {share['tick_seconds']:.2e} s, "
                f"{share['share']:.2%}"
            )
            result["tick"] = share
        return result
