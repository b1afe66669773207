"""The table of what each family can do, from the tests that show it (tests/models/cells.yaml).

    python bench/families.py docs/families.md

Runs them, and writes the table between the two marks in that file. A cell whose test did not pass
is empty, and the program then fails.
"""

import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
import yaml

BEGIN, END = "<!-- table: make families -->", "<!-- end of the table -->"
TESTS = Path(__file__).parents[1] / "tests/models"


def cells() -> dict[str, dict[str, str]]:
    """For each family and column, the test that shows it."""
    sys.path.insert(0, str(TESTS))
    from family_cases import CASES

    found = yaml.safe_load((TESTS / "cells.yaml").read_text())
    each, empty, only = (found.pop(name) for name in ("each", "empty", "only"))
    for name, case in CASES.items():
        left = {*empty.get(name, ()), *(() if case.compiles else ("compiled",))}
        left |= {column for column, names in only.items() if name not in names}
        row = {column: test.replace("NAME", name) for column, test in each.items()}
        found[name] = {column: test for column, test in row.items() if column not in left}
    return found


def passed(tests: list[str]) -> set[str]:
    """Those of which at least one case ran, and none failed."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        pytest.main(
            ["-q", "-p", "no:cacheprovider", "-n", "logical", f"--junitxml={report}", *tests]
        )
        cases = ElementTree.parse(report).getroot().iter("testcase")
        ran: dict[str, bool] = {}
        for case in cases:
            if case.find("skipped") is not None:
                continue
            file = case.get("classname", "").replace(".", "/") + ".py"
            whole = case.find("failure") is None and case.find("error") is None
            own = case.get("name", "")
            for name in (file, f"{file}::{own.partition('[')[0]}", f"{file}::{own}"):
                ran[name] = ran.get(name, True) and whole
    return {test for test in tests if ran.get(test, False)}


def table(rows: dict[str, dict[str, str]], shown: set[str]) -> str:
    """Families in rows."""
    columns = list(dict.fromkeys(column for row in rows.values() for column in row))
    lines = ["| | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for family, row in rows.items():
        marks = ["✓" if row.get(column) in shown else "" for column in columns]
        lines.append(f"| {family} | " + " | ".join(marks) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    page = Path(sys.argv[1])
    found = cells()
    wanted = sorted({test for row in found.values() for test in row.values()})
    good = passed(wanted)
    before, _, rest = page.read_text().partition(BEGIN)
    after = rest.partition(END)[2]
    page.write_text(f"{before}{BEGIN}\n{table(found, good)}\n{END}{after}")
    for test in sorted(set(wanted) - good):
        print(f"not shown: {test}")
    sys.exit(1 if set(wanted) - good else 0)
