"""A process that has imported everything and forks the processes of a distributed run, as torchrun
would start them: each then costs no import (8 s of CPU).

    run_script("parallel_run.py", [...], processes=2)

It reads one request a line and answers each with the run's exit status. What the processes write to
stderr, with the stacks of one that crashed, is shown where a test fails.
"""

import atexit
import faulthandler
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import traceback
from functools import cache
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent


def run_script(name: str, arguments: list[str], processes: int) -> int:
    """Run a script beside this file in so many processes under torchrun's environment; the exit
    status of the first that fails, whose siblings are then killed as torchrun kills them, or 0."""
    nursery, errors = _started()
    before = os.fstat(errors).st_size
    request = {"script": name, "arguments": arguments, "processes": processes}
    assert nursery.stdin is not None
    assert nursery.stdout is not None
    nursery.stdin.write(json.dumps(request) + "\n")
    nursery.stdin.flush()
    status = int(nursery.stdout.readline())
    if status:
        said = os.pread(errors, 1 << 20, before).decode(errors="replace")
        print(f"{name} {arguments}: status {status}\n{said}")
    return status


@cache
def _started() -> tuple[subprocess.Popen[str], int]:
    """The nursery, and the descriptor of the file that it and its children append their stderr
    to."""
    path = os.pathsep.join(filter(None, [str(HERE), os.environ.get("PYTHONPATH")]))
    errors, name = tempfile.mkstemp()
    os.unlink(name)
    nursery = subprocess.Popen(
        [sys.executable, __file__],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=errors,
        text=True,
    )
    atexit.register(nursery.kill)
    return nursery, errors


def _fork(request: dict[str, Any], rank: int, port: int) -> int:
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        os.environ |= {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(request["processes"]),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
        }
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # the answers' pipe is the parent's
        sys.argv = [request["script"], *request["arguments"]]
        runpy.run_path(str(HERE / request["script"]), run_name="__main__")
        status = 0
    except BaseException:
        traceback.print_exc()
        raise
    finally:
        os._exit(status)


def _answer(request: dict[str, Any]) -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = {_fork(request, rank, port) for rank in range(request["processes"])}
    while children:
        ended, status = os.wait()
        children.discard(ended)
        if status:
            for sibling in children:
                os.kill(sibling, signal.SIGKILL)
                os.waitpid(sibling, 0)
            return os.waitstatus_to_exitcode(status) or 1
    return 0


def main() -> None:
    import joint_model  # noqa: F401
    import tiny_model  # noqa: F401
    import torch

    import mitune.training.shards  # noqa: F401

    faulthandler.enable()
    torch._C._set_print_stack_traces_on_fatal_signal(True)
    torch.set_num_threads(1)
    for line in sys.stdin:
        print(_answer(json.loads(line)), flush=True)


if __name__ == "__main__":
    main()
