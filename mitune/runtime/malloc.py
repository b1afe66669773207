"""What the C library does with memory that is freed."""

import ctypes

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3  # of glibc's malloc.h
_BYTES = {_MMAP_THRESHOLD: 1 << 30, _TRIM_THRESHOLD: 1 << 30, _TOP_PAD: 64 << 20}


def keep_freed_memory() -> bool:
    """Let glibc keep up to 1 GiB of freed memory, and get it in steps of 64 MiB, for the whole
    process.

    Tensors of a few MiB are made and freed hundreds of times in a call of a model. By default their
    memory goes back to the system each time, and comes again page by page, filled with zeros: some
    thousand page faults and 6 % of a call's time, which varies with them (docs/measured.md).

    Returns:
        Whether it is so now; False with another C library.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    return all(mallopt(option, value) == 1 for option, value in _BYTES.items())
