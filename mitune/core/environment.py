"""Settings that the libraries under torch read from the environment once, when they are loaded.

They change how a run behaves and cannot be set later:

* ``OMP_WAIT_POLICY=passive`` and ``GOMP_SPINCOUNT=10000``: an OpenMP thread that waits for another
  one spins briefly and then sleeps; GNU's count says how long it spins. By default it spins 30
  times as long, on a core that another program may need: next to two busy processes a step may then
  take ten times as long instead of twice. Without any spinning a thread has to be woken after each
  operation, and training alone on the machine took twice as long (docs/processors.md has both).
* ``MKL_CBWR=AUTO,STRICT``: a matrix product has the same bits wherever its operands lie in memory.
  On processors with AVX512, MKL otherwise promises this only for equal addresses, and a resumed set
  would differ from an uninterrupted one in its last bits.

``import mitune`` makes these settings unless torch was imported before. It keeps what the user has
set; if the user has set the policy, it leaves the count alone too.
"""

import os
import sys

_POLICY, _COUNT = "OMP_WAIT_POLICY", "GOMP_SPINCOUNT"
SETTINGS = {_POLICY: "passive", _COUNT: "10000", "MKL_CBWR": "AUTO,STRICT"}

_too_late: list[str] = []


def prepare() -> None:
    """Set what the user has not set.

    If torch is already loaded, this has no effect, and ``missing`` lists the settings.
    """
    unset = [name for name in SETTINGS if name not in os.environ]
    if _COUNT in unset and _POLICY not in unset:
        unset.remove(_COUNT)  # it would override the policy
    if "torch" in sys.modules:
        _too_late.extend(name for name in unset if name not in _too_late)
        return
    for name in unset:
        os.environ[name] = SETTINGS[name]


def missing() -> list[str]:
    """The settings that came too late, each with its fix."""
    return [
        f"{name} is not set, as torch was imported before mitune: import mitune first, or set "
        f"{name}={SETTINGS[name]}"
        for name in _too_late
    ]
