"""The seeds of a study, several at a time, each in a process of its own that uses one core.

Small networks keep two threads busy for little more than half of the time, as one waits for the
other after each operation; two seeds side by side keep both cores busy (docs/log.md).
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
    """How many seeds run at a time: as asked, or one on a GPU, else one for each core.

    Raises:
        UserError: less than one of either is asked for.
    """
    if seeds < 1:
        raise UserError(f"seeds is {seeds}: expected at least 1")
    if asked is not None:
        if asked < 1:
            raise UserError(f"processes is {asked}: expected at least 1")
        return min(asked, seeds)
    return 1 if torch.cuda.is_available() else max(1, min(torch.get_num_threads(), seeds))


def each_seed(run: Callable[[int], _Made], seeds: int, count: int) -> list[_Made]:
    """``run`` of every seed below ``seeds``, in their order.

    Args:
        run: a function of a module, or a ``functools.partial`` of one; its result has to pickle.
            What it prints comes between what other seeds print.
        seeds: how many.
        count: processes. With 1, ``run`` is called here.

    Raises:
        Exception: what ``run`` raised, as soon as a seed before all unfinished ones did so; the
            other processes are ended.
        UserError: a process was killed, as for want of memory.
    """
    if count == 1:
        return [run(seed) for seed in range(seeds)]
    # Not forked: torch's threads do not survive it.
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
            process.kill()  # everything that is written is written whole
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
    return made


@contextmanager
def _interrupts_ignored() -> Iterator[None]:
    """A terminal interrupts the processes that are started inside as well: they leave it to this
    one, which ends them."""
    try:
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    except ValueError:  # not in the main thread: an interrupt goes to that one anyway
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
        os._exit(1)  # killed, it could not end its processes

    threading.Thread(target=follow, args=(parent.sentinel,), daemon=True).start()
