"""The countable part of performance does not grow unnoticed."""

import json
from pathlib import Path

import pytest

from mitune.bench.proxies import counted_for, proxies

STORED = Path(__file__).parents[2] / "bench" / "proxies.json"


def test_they_are_what_is_stored():
    """A change on purpose: python -m mitune.bench.proxies > bench/proxies.json."""
    stored = json.loads(STORED.read_text())
    if counted_for() != stored["versions"]:
        pytest.skip(f"stored for {stored['versions']}, this is {counted_for()}")
    assert proxies() == stored
