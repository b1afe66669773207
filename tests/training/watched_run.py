"""What the processes of ``test_watch`` run: a training into argv[1] that its patience ends."""

import os
import sys
from pathlib import Path

from test_watch import Scripted, run, scripted

out = Path(sys.argv[1])
if os.environ.get("RANK", "0") != "0":

    def never(self: Scripted) -> float:
        raise AssertionError("only the first process measures")

    Scripted.mi = never  # type: ignore[method-assign]
run(out, watch=scripted(out, patience=3, best=True))
