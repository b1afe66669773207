"""What auto takes on a GPU: nothing that no run there has found right."""

from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from kernel_oracles import IMPLS, device_of
from mitune_kernels import checked, dispatch

from mitune.bench import step as bench_step
from mitune.bench.verify import fault
from mitune.cli import doctor

GPU = torch.device("cuda", 0)
FACTS = {"gpu": "NVIDIA H100", "driver": "13000", "torch": "2.13", "triton": "3.7", "kernels": "a"}


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[dict[str, str]]:
    """A machine with a GPU on which both kernels run, as far as dispatch can tell."""
    facts = dict(FACTS)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(checked, "machine", lambda device: dict(facts))
    monkeypatch.setattr(dispatch, "_missing", lambda impl: None)
    checked.found.cache_clear()
    yield facts
    checked.found.cache_clear()


def test_auto_is_the_reference_until_a_run_there_has_found_another_right(
    gpu: dict[str, str],
) -> None:
    assert dispatch.choose("auto", GPU) == "reference"
    checked.record(GPU, {"reference": 3.0, "triton": 2.0, "cuda": 1.0}, {})
    assert dispatch.choose("auto", GPU) == "cuda"
    checked.record(GPU, {"reference": 3.0, "triton": 2.0}, {"cuda": "other sums"})
    assert dispatch.choose("auto", GPU) == "triton"


@pytest.mark.parametrize("fact", FACTS)
def test_what_was_found_elsewhere_says_nothing_here(gpu: dict[str, str], fact: str) -> None:
    checked.record(GPU, {"reference": 3.0, "cuda": 1.0}, {})
    gpu[fact] = "another"
    checked.found.cache_clear()
    assert dispatch.choose("auto", GPU) == "reference"
    checked.record(GPU, {"reference": 3.0, "triton": 1.0}, {})  # beside the other's
    gpu[fact] = FACTS[fact]
    checked.found.cache_clear()
    assert dispatch.choose("auto", GPU) == "cuda"


def test_a_record_that_is_none_of_ours_and_kernels_that_are_gone_are_passed_over(
    gpu: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = checked.record(GPU, {"reference": 3.0, "cuda": 1.0}, {})
    monkeypatch.setattr(dispatch, "_missing", lambda impl: "gone" if impl == "cuda" else None)
    assert dispatch.choose("auto", GPU) == "reference"
    for content in ("{", "7", "true", '"text"', "[1]"):
        file.write_text(content)
        checked.found.cache_clear()
        assert dispatch.choose("auto", GPU) == "reference"


def test_compiled_code_may_ask(gpu: dict[str, str]) -> None:
    checked.record(GPU, {"reference": 3.0, "cuda": 1.0}, {})

    @torch.compile(fullgraph=True, backend="eager")
    def named(x: torch.Tensor) -> torch.Tensor:
        return x + len(dispatch.choose("auto", GPU))

    assert named(torch.zeros(1)).item() == len("cuda")


def test_the_doctor_says_what_auto_is_and_why(
    gpu: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "auto is reference: no kernel was checked on this GPU" in doctor._auto(GPU)
    checked.record(GPU, {"reference": 3.0, "triton": 1.0}, {"cuda": "other sums"})
    said = doctor._auto(GPU)
    assert "auto is triton, the fastest here of reference, triton" in said
    assert "cuda refused: other sums" in said


@pytest.mark.parametrize("impl", [name for name in IMPLS if name in ("cpp", "cuda")])
def test_right_kernels_have_no_fault(impl: str) -> None:
    """Those of the CPU, and the GPU's compiled for it; Triton's would take its interpreter a
    minute."""
    assert fault(impl, device_of(impl)) is None


def broken(kernels: ModuleType, name: str, spoil: Any) -> Any:
    """The operations with one of them wrong in all but the reference."""
    original = getattr(kernels, name)

    def wrong(*arguments: Any, impl: str = "auto", **named: Any) -> Any:
        made = original(*arguments, impl=impl, **named)
        return made if impl == "reference" else spoil(made)

    everything = {n: getattr(kernels, n) for n in kernels.__all__}
    return SimpleNamespace(**everything | {name: wrong})


@pytest.mark.parametrize(
    ("operation", "spoil", "said"),
    [
        ("philox", lambda x: x + 1, "other random words"),
        ("normal", lambda x: x * (1 + 2.0**-23), "other normals"),
        ("step", lambda r: r._replace(z=r.z * (1 + 1e-5)), "a model input that is not"),
        ("step", lambda r: r._replace(score=r.score * (1 + 1e-4)), "other scores"),
        ("step", lambda r: r._replace(terms=r.terms * (1 + 1e-4)), "other sums"),
        ("step_out", lambda r: r, None),
        ("renoise", lambda x: x + 1e-4, "other re-noised latents"),
        ("renoise_score", lambda x: x * (1 + 1e-3), "other squared errors"),
    ],
)
def test_a_wrong_kernel_is_found(
    operation: str, spoil: Any, said: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mitune.bench import verify

    monkeypatch.setattr(verify, "_SHAPES", ((3, 19, 29),))
    monkeypatch.setattr(verify, "mitune_kernels", broken(verify.mitune_kernels, operation, spoil))
    found = fault("cpp", torch.device("cpu"))
    assert found is None if said is None else said in str(found)


def test_bench_step_writes_down_who_passed_and_how_fast(
    gpu: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """With the kernels and the clock of another machine: what is recorded is what was found."""
    monkeypatch.setattr(bench_step, "timeable", lambda device: ["reference", "triton", "cuda"])
    monkeypatch.setattr(
        bench_step, "fault", lambda name, device: "other sums" if name == "cuda" else None
    )
    monkeypatch.setattr(bench_step, "on", lambda device: {"device": "H100"})
    monkeypatch.setattr(bench_step, "device_name", lambda device: "H100")
    times = {"eager": 4.0, "reference": 3.0, "triton": 1.0, "copy": 0.5}

    def timed(rows: int, elements: int, noisy: bool, device: Any, names: Any, compiled: Any) -> Any:
        assert names == ["reference", "triton"]  # what is wrong is not timed
        return {"bytes": 64, "seconds": dict(times)}

    monkeypatch.setattr(bench_step, "_timed", timed)
    result = bench_step.measure(3, 64, device=GPU, compiled=False, file=tmp_path / "step.jsonl")
    assert result["refused"] == {"cuda": "other sums"}
    assert result["triton"]["bandwidth_fraction"] == 0.5
    assert dispatch.choose("auto", GPU) == "triton"
    monkeypatch.setattr(bench_step, "_timed", lambda *_: pytest.fail("it is known"))
    again = bench_step.measure(3, 64, device=GPU, compiled=False, file=tmp_path / "step.jsonl")
    assert again == result
