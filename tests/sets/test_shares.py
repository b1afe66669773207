"""Several writers of one set: shares in one folder, and in folders that are merged."""

import random
import subprocess
import sys
from pathlib import Path

import pytest
from fake_build import PROMPTS, build, fake, pool, tree, writer

from mitune.config.shard import Shard
from mitune.core.errors import UserError
from mitune.core.files import put
from mitune.sets import FineTuningSet
from mitune.sets.compact import compact
from mitune.sets.leftovers import remove_all_leftovers
from mitune.sets.merge import merge
from mitune.sets.parts import part_path
from mitune.sets.verify import remove_damaged, verify

HERE = Path(__file__).parent
SHARES = [Shard(number=number, of=3) for number in range(3)]


def share(out: Path, shard: Shard) -> None:
    """What one of several processes builds."""
    with writer(out, shard=shard) as target:
        for candidate in pool(target.pending_prompts()):
            target.add(candidate)


def without_locks(folder: Path) -> dict[str, bytes]:
    return {name: b for name, b in tree(folder).items() if not name.startswith(".lock")}


def damage(path: Path) -> None:
    """Change bytes inside of a page."""
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 0xFF
    path.write_bytes(bytes(content))


def test_shares_of_any_number_are_disjoint_and_whole() -> None:
    for count in range(1, 30):
        for of in range(1, count + 1):
            blocks = [Shard(number=n, of=of).block(count) for n in range(of)]
            assert [place for block in blocks for place in block] == list(range(count))
            assert max(map(len, blocks)) - min(map(len, blocks)) <= 1


def test_shares_in_one_folder_are_the_one_process_set(tmp_path: Path) -> None:
    build(tmp_path / "whole")
    with writer(tmp_path / "shares", shard=SHARES[2]) as late:
        for shard in SHARES[:2]:  # while another share's writer is open
            share(tmp_path / "shares", shard)
        assert not late.complete
        for candidate in pool():
            late.add(candidate)  # those of other shares are ignored
        assert late.complete
    assert without_locks(tmp_path / "shares") == without_locks(tmp_path / "whole")


def test_shares_of_processes_that_are_killed_at_random_and_begun_again(tmp_path: Path) -> None:
    build(tmp_path / "whole")
    out = tmp_path / "shares"
    seed = random.randrange(2**32)
    moments = random.Random(seed)
    left = {0: 2, 1: 2, 2: 2}  # how often each is killed before it may end
    while left:
        children = {
            number: subprocess.Popen(
                [sys.executable, str(HERE / "fake_build.py"), str(out), f"{number}/3"],
                stdout=subprocess.PIPE,
                text=True,
            )
            for number in left
        }
        for number, child in children.items():
            assert child.stdout is not None
            if left[number]:
                for _ in range(moments.randint(0, 6)):
                    child.stdout.readline()
                child.kill()
                left[number] -= 1
                child.communicate()
            else:
                child.communicate()
                assert child.returncode == 0, f"seed {seed}"
                del left[number]
    remove_all_leftovers(out)
    assert without_locks(out) == without_locks(tmp_path / "whole"), f"seed {seed}"


def test_only_one_writer_for_each_share(tmp_path: Path) -> None:
    with writer(tmp_path, shard=SHARES[0]):
        for refused in ({"shard": SHARES[0]}, {"shard": Shard(number=1, of=2)}, {}):
            with pytest.raises(UserError, match="is being written by another run"):
                writer(tmp_path, **refused)
        writer(tmp_path, shard=SHARES[1]).close()
        with pytest.raises(UserError, match="is being written by another run"):
            remove_all_leftovers(tmp_path)
    writer(tmp_path).close()


def test_more_shares_than_parts_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"4 parts .*at most as many"):
        writer(tmp_path / "out", shard=Shard(number=0, of=5))
    assert not (tmp_path / "out").exists()


def test_of_two_files_of_one_name_the_first_stays(tmp_path: Path) -> None:
    assert put(tmp_path / "a", b"one")
    assert not put(tmp_path / "a", b"two")
    assert tree(tmp_path) == {"a": b"one"}


def test_put_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("os.link", refuse)
    assert put(tmp_path / "a", b"one")
    assert not put(tmp_path / "a", b"two")
    assert tree(tmp_path) == {"a": b"one"}


def test_merged_shares_are_the_one_process_set(tmp_path: Path) -> None:
    build(tmp_path / "whole")
    folders = [tmp_path / str(shard.number) for shard in SHARES]
    for folder, shard in zip(folders, SHARES, strict=True):
        share(folder, shard)
    merged = merge(tmp_path / "out", folders[:2])
    assert not merged.joined.complete
    merged = merge(tmp_path / "out", folders)  # goes on
    assert merged.joined.complete
    assert merged.copied == len(list((folders[2] / "parts").glob("part-*")))
    assert merged.otherwise == ()
    assert without_locks(tmp_path / "out") == without_locks(tmp_path / "whole")


def test_merge_tells_parts_that_differ_and_takes_the_first(tmp_path: Path) -> None:
    build(tmp_path / "a")
    with writer(tmp_path / "b") as target:
        for prompt in range(len(PROMPTS)):
            for index in range(4):
                target.add(fake(prompt, index, score=1.0 if prompt == 2 else 2.0))
    merged = merge(tmp_path / "out", [tmp_path / "a", tmp_path / "b"])
    assert merged.otherwise == (0, 1, 2, 3)
    assert without_locks(tmp_path / "out") == without_locks(tmp_path / "a")


def test_merge_refuses_other_settings_and_damage(tmp_path: Path) -> None:
    build(tmp_path / "a")
    with writer(tmp_path / "b", keep=1):
        pass
    with pytest.raises(UserError, match=r"no share of the set .* keep is 2 there and 1 here"):
        merge(tmp_path / "out", [tmp_path / "a", tmp_path / "b"])
    with pytest.raises(UserError, match="no folders"):
        merge(tmp_path / "out", [])
    assert not (tmp_path / "out").exists()
    damage(part_path(tmp_path / "a", 1))
    with pytest.raises(UserError, match=r"part-00001.*damaged"):
        merge(tmp_path / "out", [tmp_path / "a"])


def test_verify_names_every_fault_and_removes_them_alone(tmp_path: Path) -> None:
    build(tmp_path)
    whole = tree(tmp_path)
    assert verify(tmp_path).faults == {}
    assert verify(tmp_path).rows == 4 * len(PROMPTS)
    damage(part_path(tmp_path, 1))
    part_path(tmp_path, 0).rename(part_path(tmp_path, 2))
    (tmp_path / "parts" / "other.parquet").write_bytes(b"x")
    found = verify(tmp_path)
    assert found.missing == (0,)
    assert found.rows == 4  # of the last part, with one prompt
    assert {path.name for path in found.faults} == {
        "part-00001.parquet",
        "part-00002.parquet",
        "other.parquet",
    }
    remove_damaged(tmp_path, found)
    build(tmp_path)
    assert tree(tmp_path) == whole


def test_a_part_that_may_not_be_read_is_no_fault(tmp_path: Path, monkeypatch) -> None:
    build(tmp_path)
    damage(part_path(tmp_path, 1))  # what a superuser sees of it; others, that it is not theirs
    monkeypatch.setattr("os.access", lambda path, mode: False)
    with pytest.raises(UserError, match="part-00001"):
        verify(tmp_path)


def test_verify_sees_a_choice_that_does_not_follow_from_the_scores(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    build(tmp_path)
    path = part_path(tmp_path, 0)
    table = pq.read_table(path)
    place = table.schema.get_field_index("score")
    turned = table["score"].combine_chunks().take(list(range(table.num_rows))[::-1])
    pq.write_table(table.set_column(place, table.schema.field("score"), turned), path)
    (wrong,) = verify(tmp_path).faults.values()
    assert "ranks that do not follow from the scores" in wrong


@pytest.mark.parametrize("prompts", [1, 3, 7, 100])
def test_compact_keeps_every_row(tmp_path: Path, prompts: int) -> None:
    build(tmp_path / "a")
    made = compact(tmp_path / "a", tmp_path / "b", prompts)
    assert made.complete
    assert len(list((tmp_path / "b" / "parts").iterdir())) == -(-len(PROMPTS) // prompts)
    before = FineTuningSet.open(tmp_path / "a")
    assert made.table() == before.table()
    for (text, latent), (other, same) in zip(made.selected(), before.selected(), strict=True):
        assert text == other
        assert bool((latent == same).all())
    assert verify(tmp_path / "b").faults == {}


def test_a_killed_compact_is_begun_again(tmp_path: Path) -> None:
    build(tmp_path / "a")
    (tmp_path / ".b.tmp" / "parts").mkdir(parents=True)
    (tmp_path / ".b.tmp" / "parts" / "part-00000.parquet").write_bytes(b"half")
    assert compact(tmp_path / "a", tmp_path / "b", 3).complete
    assert verify(tmp_path / "b").faults == {}
    assert not (tmp_path / ".b.tmp").exists()


def test_compact_with_the_kept_latents_alone(tmp_path: Path) -> None:
    with writer(tmp_path / "a", all_latents=True) as target:
        for candidate in pool():
            target.add(candidate)
    build(tmp_path / "kept")
    made = compact(tmp_path / "a", tmp_path / "b", 2, kept_alone=True)
    assert made.table() == FineTuningSet.open(tmp_path / "kept").table()


def test_compact_refuses(tmp_path: Path) -> None:
    build(tmp_path / "a")
    with pytest.raises(UserError, match="is not empty"):
        compact(tmp_path / "a", tmp_path / "a", 3)
    with pytest.raises(UserError, match="prompts_per_part is 0"):
        compact(tmp_path / "a", tmp_path / "b", 0)
    part_path(tmp_path / "a", 1).unlink()
    with pytest.raises(UserError, match="not complete"):
        compact(tmp_path / "a", tmp_path / "b", 3)


def test_leftovers_of_killed_runs_go(tmp_path: Path) -> None:
    build(tmp_path)
    whole = without_locks(tmp_path)
    left = [".lock-1-of-3", ".run.json.tmp", f"parts/.part-00000.parquet.{'0a' * 16}.tmp"]
    for name in left:
        (tmp_path / name).write_bytes(b"")
    assert len(remove_all_leftovers(tmp_path)) == 3
    assert without_locks(tmp_path) == whole
