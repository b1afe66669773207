from typing import Any

import pytest
import torch

from mitune.engine.candidate import Candidate


def make(**changes: Any) -> Candidate:
    values = {
        "prompt": "abc",
        "prompt_index": 0,
        "index": 0,
        "seed": 0,
        "score": 1.0,
        "terms": torch.zeros(5, 2),
        "latent": torch.zeros(4, 8, 8),
    }
    return Candidate(**{**values, **changes})


def test_prompt_id_is_the_head_of_sha256() -> None:
    # FIPS 180-2, appendix B.1: SHA-256("abc") begins with ba7816bf.
    assert make().prompt_id == 0xBA7816BF
    noise = pytest.importorskip("mitune.diffusion.noise")
    for prompt in ("abc", "", "a red cube on a blue ball", "Würfel"):
        assert make(prompt=prompt).prompt_id == noise.prompt_id(prompt)


def test_finite_looks_at_score_and_latent_alone() -> None:
    spoilt = torch.zeros(4, 8, 8)
    spoilt[0, 0, 0] = float("inf")
    assert make().finite
    assert make(terms=torch.full((5, 2), float("nan"))).finite
    assert not make(score=float("nan")).finite
    assert not make(latent=spoilt).finite


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"prompt_index": -1}, "prompt_index -1"),
        ({"index": -1}, "index -1"),
        ({"seed": -1}, "seed -1"),
        ({"seed": 2**63}, "expected 0 <= seed < 2"),
        ({"terms": torch.zeros(2, 5)}, r"\[2, 5\]; expected \[N, 2\]"),
        ({"terms": torch.zeros(5)}, r"\[5\]; expected \[N, 2\]"),
        ({"terms": torch.zeros(5, 2, dtype=torch.float64)}, "got terms torch.float64"),
        ({"latent": torch.zeros(4, dtype=torch.float16)}, "got latent torch.float16"),
        ({"latent": torch.zeros(4, device="meta")}, "on meta; expected torch.float32 on cpu"),
    ],
)
def test_bad_values_name_got_and_expected(changes: dict[str, Any], line: str) -> None:
    with pytest.raises(ValueError, match=line):
        make(**changes)
