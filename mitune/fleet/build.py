"""Build a fine-tuning set with a fleet."""

from collections.abc import Callable

from mitune.core.errors import UserError
from mitune.fleet.events import FILE, Events
from mitune.fleet.on_ray import Cluster, run
from mitune.fleet.set_work import SetJob
from mitune.sets import FineTuningSet
from mitune.sets.schema import SetRecord


def build_set_on(
    cluster: Cluster,
    job: SetJob,
    *,
    tries: int = 3,
    progress: Callable[[int, int], None] | None = None,
) -> FineTuningSet:
    """Build the set of ``job``, or go on with it, on a cluster: the set that one process builds.

    Every worker writes its parts straight to the set's folder, which all machines must have under
    the same path. What happens is told in ``fleet.jsonl`` there.

    Args:
        cluster: where the workers run.
        job: the build.
        tries: how often a part may fail.
        progress: called with (parts made, parts in all).

    Raises:
        UserError: as ``mitune.fleet.on_ray.run``; or parts failed ``tries`` times. All others are
            then built, and the same command tries those again.
    """
    if tries < 1:
        raise UserError(f"tries is {tries}: expected at least 1")
    done = run(job, cluster, tries=tries, events=Events(job.out), progress=progress)
    if done.aside:
        part, error = next(iter(done.aside.items()))
        record = SetRecord.load(job.out)
        prompts = [record.prompts[p] for p in record.prompts_of(part)]
        raise UserError(
            f"parts that failed {tries} times: {len(done.aside)} of {record.parts}, first part "
            f"{part} ({error[:300]}), with the prompts {prompts[0]!r:.60} to {prompts[-1]!r:.60}; "
            f"all others are built, and {job.out / FILE} tells what happened: mend that and run "
            "the same command again"
        )
    return FineTuningSet.open(job.out)
