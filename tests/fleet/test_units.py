"""The bookkeeping of a fleet, against simulated workers."""

import heapq
import random

import pytest

from mitune.fleet.units import Units


def simulate(
    units: Units,
    workers: int,
    *,
    duration: float = 10.0,
    dying: float = 0.0,
    restart: float = 0.0,
    slow: dict[int, float] | None = None,
    seed: int = 0,
) -> tuple[float, list[int]]:
    """Workers that take ``duration`` for a unit (times ``slow`` of the worker) and die at a rate of
    ``dying`` a second; then they are away for ``restart`` seconds. Returns when all was done, and
    the units that were made, in order."""
    chance = random.Random(seed)
    made: list[int] = []
    # (time, worker, what): "free" asks for a unit; else it ends one, or dies while it makes it.
    queue: list[tuple[float, int, str, int]] = [(0.0, w, "free", -1) for w in range(workers)]
    now = 0.0
    while not units.finished:
        now, worker, what, unit = heapq.heappop(queue)
        if what == "end":
            if units.made(worker, now):
                made.append(unit)
        elif what == "die":
            units.failed(worker, "killed")
            heapq.heappush(queue, (now + restart, worker, "free", -1))
            continue
        given = units.take(worker, now)
        if given is None:
            heapq.heappush(queue, (now + 1.0, worker, "free", -1))
            continue
        takes = duration * (slow or {}).get(worker, 1.0)
        death = chance.expovariate(dying) if dying else float("inf")
        event = (
            (now + death, worker, "die", given)
            if death < takes
            else (now + takes, worker, "end", given)
        )
        heapq.heappush(queue, event)
    return now, made


def test_every_unit_is_made_once_and_in_order() -> None:
    units = Units(range(5, 50))
    seconds, made = simulate(units, 1)
    assert made == list(range(5, 50))
    assert seconds == 450
    assert units.done == 45
    assert units.left == 0


@pytest.mark.parametrize("seed", range(20))
def test_every_unit_is_made_whoever_dies(seed: int) -> None:
    units = Units(range(200), tries=50)
    _, made = simulate(units, 8, dying=0.05, restart=30.0, seed=seed)
    assert sorted(made) == list(range(200))
    assert units.aside == {}
    assert units.failures


def test_a_unit_that_fails_too_often_is_put_aside_after_the_others() -> None:
    units = Units(range(4), tries=2)
    order = []
    while (unit := units.take("w", 0.0)) is not None:
        order.append(unit)
        if unit == 1:
            units.failed("w", f"error {len(units.failures.get(1, []))}")
        else:
            units.made("w", 1.0)
    assert order == [0, 1, 2, 3, 1]
    assert units.finished
    assert units.aside == {1: "error 1"}
    assert units.failures == {1: ["error 0", "error 1"]}
    assert units.done == 3


def test_a_straggler_is_given_to_a_second_worker() -> None:
    units = Units(range(20))
    seconds, made = simulate(units, 4, slow={3: 100.0})
    assert sorted(made) == list(range(20))
    assert units.repeated == 1
    assert seconds < 120  # alone, the slow worker's would take 1000


def test_nothing_is_repeated_among_equal_workers() -> None:
    units = Units(range(21))
    simulate(units, 4)
    assert units.repeated == 0


def test_a_unit_put_aside_that_another_worker_makes_after_all_is_made() -> None:
    units = Units([0, 1], tries=1)
    assert units.take("a", 0.0) == 0
    assert units.take("b", 0.0) == 1
    units.made("a", 1.0)
    assert units.take("a", 10.0) == 1  # it straggles
    units.failed("a", "lost")
    assert units.aside == {1: "lost"}
    assert units.made("b", 11.0)
    assert units.aside == {}
    assert units.done == 2


def test_a_failed_unit_that_another_worker_still_makes_is_not_given_again() -> None:
    units = Units([0, 1])
    units.take("a", 0.0), units.take("b", 0.0)
    units.made("a", 1.0)
    assert units.take("a", 10.0) == 1
    units.failed("b", "lost")
    assert units.take("c", 11.0) is None
    assert units.made("a", 12.0)
    assert units.finished


def test_64_workers_use_their_time() -> None:
    """20 000 units of a part each (8 prompts of 50 candidates: 8 million)."""
    seconds, _ = simulate(Units(range(20_000)), 64)
    assert 20_000 * 10.0 / 64 / seconds >= 0.95
    dying = 0.01 / 60  # of each worker a second; a new one takes a minute to load
    seconds, made = simulate(Units(range(20_000), tries=10), 64, dying=dying, restart=60.0)
    assert sorted(made) == list(range(20_000))
    assert 20_000 * 10.0 / 64 / seconds >= 0.90
