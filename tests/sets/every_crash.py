"""Kill a build within a file's write and at its 1st, 2nd, ... disk operation, resume, compare.

Prints how many disk operations there were.

A script of its own, because it forks: no library may have started threads before.
"""

import os
import resource
import signal
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from fake_build import build, tree


def in_child(action: Callable[[], None]) -> int:
    """Run in a forked child; 0, or minus the number of the signal that ended it."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            action()
            status = 0
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def dying(out: Path, operations: int) -> None:
    """Build, but die right before the disk operation of that number (0 is the first)."""
    left = operations

    def wrap(original: Callable[..., Any]) -> Callable[..., Any]:
        def operation(*args: Any) -> Any:
            nonlocal left
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            left -= 1
            return original(*args)

        return operation

    os.fsync, os.mkdir = wrap(os.fsync), wrap(os.mkdir)
    os.replace, os.link = wrap(os.replace), wrap(os.link)
    build(out)


def torn(out: Path, size: int) -> None:
    """Build, but die within the first file larger than ``size`` bytes, which is cut short there."""
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    build(out)


def main(work: Path) -> None:
    """Try deaths until the build outlives its operations."""
    if in_child(partial(build, work / "whole")) != 0:
        sys.exit("the uninterrupted build failed")
    whole = tree(work / "whole")

    def survives(name: str, death: Callable[[Path, int], None], moment: int) -> int:
        out = work / f"{name}-{moment}"
        status = in_child(partial(death, out, moment))
        if in_child(partial(build, out)) != 0:
            sys.exit(f"{name} {moment}: the resumed build failed")
        if tree(out) != whole:
            sys.exit(f"{name} {moment}: the resumed set differs")
        return status

    for name in ("run.json", "README.md", "parts/part-00000.parquet"):
        size = len(whole[name])
        for moment in (0, 1, size // 2, size - 1):
            if (status := survives(f"torn-{Path(name).name}", torn, moment)) != -signal.SIGXFSZ:
                sys.exit(f"{name} at {moment}: the build ended with {status}")
    deaths = 0
    while (status := survives("dying", dying, deaths)) == -signal.SIGKILL:
        deaths += 1
    if status != 0:
        sys.exit(f"operation {deaths}: the build ended with {status}")
    print(deaths)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
