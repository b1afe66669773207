"""What the libraries under torch read from the environment once, when they are loaded.

Two settings change how a run behaves and cannot be given later:

* ``OMP_WAIT_POLICY=passive``: OpenMP's threads sleep while they wait for each other. Otherwise they
  spin, on cores that another program needs: beside two busy processes a step may then take ten
  times as long instead of twice (docs/processors.md has a table).
* ``MKL_CBWR=AUTO,STRICT``: a matrix product has the same bits wherever its operands lie in memory.
  On processors with AVX512 MKL otherwise promises this only for equal addresses, and a resumed set
  would differ from an uninterrupted one in its last bits.

``import mitune`` makes both settings unless torch was imported before, or the user has set them.
"""

import os
import sys

SETTINGS = {"OMP_WAIT_POLICY": "passive", "MKL_CBWR": "AUTO,STRICT"}

_too_late: list[str] = []


def prepare() -> None:
    """Set what is not set. Where torch is loaded already it has no effect, and ``missing`` says
    so."""
    unset = [name for name in SETTINGS if name not in os.environ]
    if "torch" in sys.modules:
        _too_late.extend(name for name in unset if name not in _too_late)
        return
    for name in unset:
        os.environ[name] = SETTINGS[name]


def missing() -> list[str]:
    """The settings that came too late, each with the mend."""
    return [
        f"{name} is not set, as torch was imported before mitune: import mitune first, or set "
        f"{name}={SETTINGS[name]}"
        for name in _too_late
    ]
