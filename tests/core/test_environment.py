"""What is set before torch is imported."""

import os
import subprocess
import sys

import pytest

from mitune.core import environment

SHOW = "import os, mitune; print(*(os.environ.get(n) for n in mitune.environment.SETTINGS))"


def shown(code: str = SHOW, **given: str) -> list[str]:
    kept = {k: v for k, v in os.environ.items() if k not in environment.SETTINGS}
    done = subprocess.run(
        [sys.executable, "-c", code], env=kept | given, capture_output=True, text=True, check=True
    )
    return done.stdout.split()


def test_importing_mitune_sets_them() -> None:
    assert shown() == ["passive", "10000", "AUTO,STRICT"]


def test_what_the_user_set_stays() -> None:
    given = {"OMP_WAIT_POLICY": "active", "GOMP_SPINCOUNT": "7", "MKL_CBWR": "COMPATIBLE"}
    assert shown(**given) == ["active", "7", "COMPATIBLE"]


def test_a_policy_of_the_users_is_not_overruled_by_a_count() -> None:
    assert shown(OMP_WAIT_POLICY="active") == ["active", "None", "AUTO,STRICT"]


def test_where_torch_was_first_they_are_told_and_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "torch" in sys.modules
    monkeypatch.setattr(environment, "_too_late", [])
    monkeypatch.delenv("MKL_CBWR", raising=False)
    monkeypatch.setenv("OMP_WAIT_POLICY", "active")
    environment.prepare()
    assert "MKL_CBWR" not in os.environ
    (line,) = environment.missing()
    assert line.startswith("MKL_CBWR is not set, as torch was imported before mitune")
    assert "MKL_CBWR=AUTO,STRICT" in line


def test_these_tests_run_under_them() -> None:
    assert environment.missing() == []
