"""A real server: many people at once, and a server that is killed in between."""

import asyncio
import signal
import socket
import time
from pathlib import Path

from pictures import pool
from survey_load import free_port, server, take

from mitune.survey.store import Store


def test_nothing_acknowledged_is_lost_when_the_server_is_killed(tmp_path: Path) -> None:
    made, answers, port = pool(tmp_path), tmp_path / "answers.sqlite", free_port()
    running = [server(made.folder, answers, port)]

    def kill() -> None:
        running[-1].send_signal(signal.SIGKILL)
        running[-1].wait()
        running.append(server(made.folder, answers, port))

    try:
        told = asyncio.run(take(f"http://127.0.0.1:{port}", "methods", 12, 0.1, kill))
    finally:
        running[-1].terminate()
        running[-1].wait()
    assert len(running) == 2
    assert told.failed > 0
    stored = {survey.id: survey for survey in Store(answers).surveys()}
    assert len(told.finished) == 12
    assert told.finished <= set(stored)
    for name, rounds in told.acknowledged.items():
        for number, chosen in rounds.items():
            shown = stored[name].rounds[number - 1].shown
            expected = sorted(shown[place][0] for place in chosen)
            assert list(stored[name].answers[number - 1]) == expected
    assert all(stored[name].finished for name in told.finished)


def test_a_server_ends_although_someones_form_never_comes_whole(tmp_path: Path) -> None:
    made, port = pool(tmp_path), free_port()
    running = server(made.folder, tmp_path / "answers.sqlite", port)
    with socket.create_connection(("127.0.0.1", port)) as half:
        half.sendall(
            b"POST /survey/methods/everyone HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n"
        )
        time.sleep(0.5)
        running.send_signal(signal.SIGINT)
        out, _ = running.communicate(timeout=60)
    assert "stopped; answers:" in out
    assert running.returncode == 0
