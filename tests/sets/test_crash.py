import random
import subprocess
import sys
from pathlib import Path

import pytest
from fake_build import PER_PART, POOL, PROMPTS, build, tree

from mitune.sets import FineTuningSet

HERE = Path(__file__).parent


def test_sigkill_at_random_moments_then_resume_equals_uninterrupted(tmp_path: Path) -> None:
    build(tmp_path / "whole")
    whole = FineTuningSet.open(tmp_path / "whole").table()
    out = tmp_path / "killed"
    seed = random.randrange(2**32)
    moments = random.Random(seed)
    finished = 0
    for _ in range(3):
        command = [sys.executable, str(HERE / "fake_build.py"), str(out)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout is not None
            # Within the next part and a half: three deaths always leave something to build.
            for _ in range(moments.randint(1, PER_PART * POOL * 3 // 2)):
                child.stdout.readline()
            child.kill()
            assert child.wait() == -9, f"seed {seed}: the build ended before it was killed"
        killed = FineTuningSet.open(out)
        assert not killed.complete
        assert killed.table() == whole.slice(0, killed.table().num_rows), f"seed {seed}"
        assert killed.table().num_rows >= finished
        finished = killed.table().num_rows
    build(out)
    assert FineTuningSet.open(out).complete
    assert tree(out) == tree(tmp_path / "whole"), f"seed {seed}"


def test_death_within_a_write_or_before_any_disk_operation_then_resume(tmp_path: Path) -> None:
    command = [sys.executable, str(HERE / "every_crash.py"), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    parts = -(-len(PROMPTS) // PER_PART)
    # run.json, README.md, each part: sync, replace, sync the folder. Two folders: make, sync. And
    # some versions of filelock make sure of the lock's folder.
    assert int(done.stdout) - (3 * (2 + parts) + 4) in (0, 1)


def test_resume_makes_only_the_part_that_was_removed(tmp_path: Path) -> None:
    build(tmp_path)
    whole = tree(tmp_path)
    others = [tmp_path / "parts" / f"part-0000{part}.parquet" for part in (0, 2, 3)]
    before = [path.stat().st_mtime_ns for path in others]
    (tmp_path / "parts" / "part-00001.parquet").unlink()
    assert not FineTuningSet.open(tmp_path).complete
    build(tmp_path)
    assert tree(tmp_path) == whole
    assert [path.stat().st_mtime_ns for path in others] == before


@pytest.mark.parametrize(
    "name", [".run.json.tmp", ".README.md.tmp", "parts/.part-00002.parquet.tmp"]
)
def test_leftover_temporaries_go_at_open(tmp_path: Path, name: str) -> None:
    build(tmp_path)
    whole = tree(tmp_path)
    (tmp_path / name).write_bytes(b"half")
    build(tmp_path)
    assert tree(tmp_path) == whole
