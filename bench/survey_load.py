"""People who take a survey at the same time on this machine, the server killed in between:

python bench/survey_load.py --takers 200
"""

import argparse
import asyncio
import signal
import statistics
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "survey"))

from pictures import pool
from survey_load import free_port, server, take

from mitune.survey.store import Store


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--takers", type=int, default=200)
    options.add_argument("--thinking", type=float, default=2.0, help="mean seconds at a page")
    options.add_argument("--kill", action="store_true", help="kill the server once")
    given = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        place, port = Path(folder), free_port()
        made = pool(place, categories=6, prompts=20)
        answers = place / "answers.sqlite"
        running = [server(made.folder, answers, port)]

        def kill() -> None:
            running[-1].send_signal(signal.SIGKILL)
            running[-1].wait()
            running.append(server(made.folder, answers, port))

        told = asyncio.run(
            take(
                f"http://127.0.0.1:{port}",
                "methods",
                given.takers,
                given.thinking,
                kill if given.kill else None,
            )
        )
        running[-1].terminate()
        running[-1].wait()
        stored = {survey.id: survey for survey in Store(answers).surveys()}
    lost = sum(
        sorted(stored[name].rounds[number - 1].shown[place][0] for place in chosen)
        != list(stored[name].answers.get(number - 1, ("lost",)))
        for name, rounds in told.acknowledged.items()
        for number, chosen in rounds.items()
    )
    cuts = statistics.quantiles(told.seconds, n=100)
    count = sum(len(rounds) for rounds in told.acknowledged.values())
    print(
        f"{given.takers} takers, {len(told.finished)} finished, {count} answers, {lost} lost; "
        f"{len(told.seconds)} requests, {told.failed} unanswered; "
        f"p50 {1e3 * cuts[49]:.0f} ms, p95 {1e3 * cuts[94]:.0f} ms, p99 {1e3 * cuts[98]:.0f} ms"
    )


if __name__ == "__main__":
    main()
