"""Candidates' noise keys."""

import hashlib

import pytest
import torch

from mitune.core.errors import UserError
from mitune.diffusion.noise import candidate_key, candidate_keys, normal, prompt_id


def test_prompt_id_is_the_start_of_sha256() -> None:
    # SHA-256 of the empty message and of "abc", from FIPS 180-2: e3b0c442..., ba7816bf...
    assert prompt_id("") == 0xE3B0C442
    assert prompt_id("abc") == 0xBA7816BF
    assert prompt_id("é") == int(hashlib.sha256("é".encode()).hexdigest()[:8], 16)


def test_key_holds_seed_candidate_and_prompt() -> None:
    assert candidate_key(0x1234567890ABCDEF, "abc", 7) == (0x90ABCDEF, 0x12345678, 7, 0xBA7816BF)


def test_keys_are_rows() -> None:
    keys = candidate_keys([(0, "abc", 0), (2**64 - 1, "", 2**32 - 1)])
    assert keys.dtype == torch.int64
    expected = [[0, 0, 0, 0xBA7816BF], [2**32 - 1, 2**32 - 1, 2**32 - 1, 0xE3B0C442]]
    assert keys.tolist() == expected
    assert candidate_keys([]).shape == (0, 4)


def test_candidates_prompts_and_seeds_have_their_own_noise() -> None:
    keys = candidate_keys(
        [(0, "abc", 0), (1, "abc", 0), (2**32, "abc", 0), (0, "abd", 0), (0, "abc", 1)]
    )
    noise = normal(keys, torch.zeros(5, dtype=torch.int64), (16,))
    assert len({tuple(row.tolist()) for row in noise}) == 5


@pytest.mark.parametrize(
    ("seed", "candidate", "message"),
    [
        (-1, 0, "seed: got -1, expected 0 to 2"),
        (1 << 64, 0, "seed: got 18446744073709551616, expected"),
        (0, -1, "candidate: got -1, expected 0 to 2"),
        (0, 1 << 32, "candidate: got 4294967296, expected"),
    ],
)
def test_out_of_range_is_the_users_mistake(seed: int, candidate: int, message: str) -> None:
    with pytest.raises(UserError, match=message):
        candidate_key(seed, "abc", candidate)
