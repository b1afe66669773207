"""Defer an interrupt to the end of a training step."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def deferred_interrupt() -> Iterator[Callable[[], bool]]:
    """Hold back the first SIGINT or SIGTERM, which inside ``optimizer.step`` would leave half a
    step.

    The block polls the yielded function and ends once it returns True; then this raises
    KeyboardInterrupt. A second signal is not held back.
    """
    # Only the main thread may set handlers, and only it is interrupted. An ignored SIGINT stays
    # ignored. A scheduler's SIGTERM, which kills by default, is treated as an interrupt.
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    ours = threading.current_thread() is threading.main_thread()
    held = [
        number
        for number, handler in handlers.items()
        if ours and (callable(handler) or (number, handler) == (signal.SIGTERM, signal.SIG_DFL))
    ]
    came = False

    def release() -> None:
        for number in held:
            signal.signal(number, handlers[number])

    def hold(*_: object) -> None:
        nonlocal came
        came = True
        release()

    for number in held:
        signal.signal(number, hold)
    try:
        yield lambda: came
    finally:
        release()
    if came:
        raise KeyboardInterrupt
