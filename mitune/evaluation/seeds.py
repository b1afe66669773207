"""Run several seeds of a study at the same time, each in its own process on one core.

Small networks keep two threads busy for only a little more than half of the time, because the
threads wait for each other after each operation. Two seeds in parallel keep both cores busy
(docs/log.md).
"""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing.connection import wait
from typing import TypeVar

import torch

from mitune.core.errors import UserError

_Made = TypeVar("_Made")


def processes(asked: int | None, seeds: int) -> int:
    """The number of seeds to run at the same time: ``asked`` or, if it is None, one on a GPU, else
    one for each of torch's threads; never more than ``seeds``.

    Raises:
        UserError: if ``asked`` or ``seeds`` is below 1.
    """
    if seeds < 1:
        raise UserError(f"seeds is {seeds}: expected at least 1")
    if asked is not None:
        if asked < 1:
            raise UserError(f"processes is {asked}: expected at least 1")
        return min(asked, seeds)
    return 1 if torch.cuda.is_available() else max(1, min(torch.get_num_threads(), seeds))


def each_seed(run: Callable[[int], _Made], seeds: int, count: int) -> list[_Made]:
    """Call ``run`` with every seed below ``seeds``; return the results in order.

    Args:
        run: a module-level function, or a ``functools.partial`` of one; its result must be
            picklable. The output of parallel seeds is interleaved.
        seeds: number of seeds.
        count: number of processes. With 1, ``run`` is called in this process.

    Raises:
        Exception: what ``run`` raised for a seed, once all earlier seeds have finished; the other
            processes are killed.
        UserError: if a process was killed, for example because memory ran out.
    """
    if count == 1:
        return [run(seed) for seed in range(seeds)]
    # Do not fork: torch's threads do not survive a fork.
    start = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(count, mp_context=start, initializer=_begin)
    try:
        with _interrupts_ignored():
            futures = [pool.submit(run, seed) for seed in range(seeds)]
        made = [future.result() for future in futures]
    except BrokenProcessPool:
        raise UserError(
            "the process of a seed was killed, as happens where memory runs out: finished work is "
            "kept; fewer --processes need less"
        ) from None
    except BaseException:
        for process in multiprocessing.active_children():
            process.kill()  # safe: all files are written atomically
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
    return made


@contextmanager
def _interrupts_ignored() -> Iterator[None]:
    """Let processes that are started inside ignore SIGINT. A terminal sends it to them too, but
    this process handles it and kills them."""
    try:
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    except ValueError:  # not in the main thread, which alone receives interrupts
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _begin() -> None:
    torch.set_num_threads(1)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow(sentinel: int) -> None:
        wait([sentinel])
        os._exit(1)  # the parent died and could not end this process

    threading.Thread(target=follow, args=(parent.sentinel,), daemon=True).start()
