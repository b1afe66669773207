"""People who take surveys at the same time, against a real server that may be killed in between."""

import asyncio
import random
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import httpx


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def server(pool: Path, answers: Path, port: int) -> subprocess.Popen[str]:
    """``mitune survey serve``, ready to answer."""
    command = [sys.executable, "-m", "mitune", "survey", "serve", "--pool", str(pool)]
    command += ["--answers", str(answers), "--port", str(port)]
    made = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    for _ in range(600):
        try:
            httpx.get(f"http://127.0.0.1:{port}/").raise_for_status()
            return made
        except httpx.HTTPError:
            assert made.poll() is None, "the server ended"
            time.sleep(0.1)
    raise AssertionError("the server does not answer")


@dataclass
class Told:
    """What the takers were told.

    Attributes:
        seconds: of each request that was answered.
        acknowledged: for each survey its id and, by round from 1, what was chosen by place.
        finished: ids of the surveys that were thanked.
        failed: requests that no server answered.
    """

    seconds: list[float] = field(default_factory=list)
    acknowledged: dict[str, dict[int, list[int]]] = field(default_factory=dict)
    finished: set[str] = field(default_factory=set)
    failed: int = 0


async def take(
    base: str, pool: str, takers: int, thinking: float, kill: Callable[[], None] | None = None
) -> Told:
    """``takers`` surveys at the same time, each with its pictures loaded; who gets no answer tries
    again.

    Args:
        base: address of the server.
        pool: name of the pool.
        takers: how many at the same time.
        thinking: mean seconds of looking at a page.
        kill: called when a third of the answers are in.
    """
    told, count = Told(), 0
    limits = httpx.Limits(max_connections=2 * takers, max_keepalive_connections=takers)

    async def ask(
        client: httpx.AsyncClient, method: str, path: str, body: str = ""
    ) -> httpx.Response:
        while True:
            start = time.perf_counter()
            try:
                kind = {"Content-Type": "application/x-www-form-urlencoded"}
                answer = await client.request(method, path, content=body or None, headers=kind)
                told.seconds.append(time.perf_counter() - start)
                return answer
            except httpx.TransportError:
                told.failed += 1
                await asyncio.sleep(0.2)

    async def one(client: httpx.AsyncClient, source: random.Random) -> None:
        nonlocal count
        await asyncio.sleep(source.random() * thinking)
        begun = await ask(client, "POST", f"/survey/{pool}/everyone")
        place = begun.headers["location"]
        while "/thanks/" not in place:
            page = await ask(client, "GET", place)
            assert page.status_code == 200, page.text
            shown = re.findall(r'src="(/image/[^"]+)"', page.text)
            for picture in shown:
                assert (await ask(client, "GET", picture)).status_code == 200
            await asyncio.sleep(source.expovariate(1 / thinking))
            chosen = [i for i in range(len(shown)) if source.random() < 0.5]
            answer = await ask(client, "POST", place, "&".join(f"chosen={i}" for i in chosen))
            assert answer.status_code == 303, answer.text
            name, number = re.fullmatch(r"/round/([\w-]+)/(\d+)", place).groups()
            told.acknowledged.setdefault(name, {})[int(number)] = chosen
            place = answer.headers["location"]
            count += 1
        told.finished.add(place.rpartition("/")[2])

    async def killer() -> None:
        while count < takers * 4 / 3:
            await asyncio.sleep(0.02)
        await asyncio.to_thread(kill)

    async with httpx.AsyncClient(base_url=base, limits=limits, timeout=60) as client:
        jobs = [one(client, random.Random(number)) for number in range(takers)]
        await asyncio.gather(*jobs, *([killer()] if kill else []))
    return told
