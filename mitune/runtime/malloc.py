"""How the C library treats freed memory; set by the host extension, or by ctypes without it."""

import ctypes

from mitune.core.host import host

_KEPT, _STEP = 1 << 30, 64 << 20
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3  # of glibc's malloc.h


def keep_freed_memory() -> bool:
    """Let glibc keep up to 1 GiB of freed memory, and request memory in steps of 64 MiB, for the
    whole process.

    A call of a model allocates and frees tensors of a few MiB hundreds of times. By default their
    memory goes back to the system each time and comes again page by page, filled with zeros. That
    costs some thousand page faults and 6 % of a call's time, and makes this time vary
    (docs/log.md).

    Returns:
        Whether the setting is active; False with another C library.
    """
    if (extension := host()) is not None:
        return bool(extension.keep_freed_memory(_KEPT, _STEP))
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    options = {_MMAP_THRESHOLD: _KEPT, _TRIM_THRESHOLD: _KEPT, _TOP_PAD: _STEP}
    return all(mallopt(option, value) == 1 for option, value in options.items())


def give_back_freed_memory() -> bool:
    """Let glibc return freed memory to the system.

    Returns:
        Whether it returned any; False with another C library.
    """
    if (extension := host()) is not None:
        return bool(extension.give_back_memory())
    try:
        return bool(ctypes.CDLL(None).malloc_trim(0))
    except (AttributeError, OSError, TypeError):
        return False
