"""What families do compiled: apart, since compiling takes most of the time."""

from pathlib import Path

import pytest
from family_cases import CASES, OTHERS, Case, check_drawing, check_gradient

COMPILING = {name: case for name, case in (CASES | OTHERS).items() if case.compiles}
EVERY = pytest.mark.parametrize("case", COMPILING.values(), ids=COMPILING)


@EVERY
def test_the_compiled_engine_draws_what_the_pipeline_does(case: Case) -> None:
    check_drawing(case, "inductor")


@EVERY
def test_the_compiled_gradient_is_pefts(tmp_path: Path, case: Case) -> None:
    check_gradient(case, "inductor", tmp_path)
