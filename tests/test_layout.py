"""What the layout promises (DESIGN.md): a family's names stay in its folder."""

import re
from pathlib import Path

import mitune

PACKAGE = Path(mitune.__file__).parent
NAMES = re.compile(
    r"(?i:stable[ _-]?diffusion|sdxl|sd3)|encoder_hidden_states|\.unet\b|alphas_cumprod"
)
FAMILY = re.compile(r"models/\w+/")
"""A folder below ``models`` is a family's own."""
COMPATIBILITY = {"moved.py"}
"""Keeps the names that modules and attributes had."""
METRICS = {"scorers/blip.py"}
"""Calls networks of metrics; their text encoders have an argument of the same name."""


def test_nothing_outside_its_folder_names_a_family():
    found = [
        f"{name}:{number}: {line.strip()}"
        for file in sorted(PACKAGE.rglob("*.py"))
        if not FAMILY.match(name := file.relative_to(PACKAGE).as_posix())
        and name not in COMPATIBILITY | METRICS
        for number, line in enumerate(file.read_text().splitlines(), 1)
        if NAMES.search(line)
    ]
    assert found == []


def test_the_search_finds_what_it_looks_for():
    inside = (PACKAGE / "models/stable_diffusion/model.py").read_text()
    assert NAMES.search(inside)
