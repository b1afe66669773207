"""The survey's pages, asked as a browser and as someone with bad intentions would."""

import re
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from pictures import METHODS, pool
from starlette.testclient import TestClient

from mitune.core.errors import UserError
from mitune.survey.app import application
from mitune.survey.pool import Pool
from mitune.survey.serve import campaign, links
from mitune.survey.store import Store
from mitune.web.requests import LARGEST_POST
from mitune.web.serve import address_of, check_below, listen


def served(folder: Path, **changes: Any) -> Any:
    made: Pool = pool(folder)
    values = {"people": ["students", "staff"], "title": "A <title>", "each": None}
    return campaign([made.folder], folder / "answers.sqlite", **{**values, **changes})


@pytest.fixture
def client(tmp_path: Path) -> TestClient:
    found = served(tmp_path)
    made = TestClient(application(found), follow_redirects=False)
    made.campaign = found
    return made


def begun(client: TestClient) -> str:
    """The id of a new survey."""
    answer = client.post("/survey/methods/students")
    assert answer.status_code == 303
    return re.fullmatch(r"/round/([\w-]+)/1", answer.headers["location"])[1]


def test_a_survey_from_the_link_to_the_results(client: TestClient) -> None:
    page = client.get("/survey/methods/students")
    assert page.status_code == 200
    assert "3 pictures" in page.text
    name = begun(client)
    for number in range(1, 5):
        page = client.get(f"/round/{name}/{number}")
        assert f"Page {number} of 4" in page.text
        pictures = re.findall(r'src="(/image/[^"]+)"', page.text)
        assert len(set(pictures)) == 3
        assert all(client.get(src).headers["content-type"] == "image/png" for src in pictures)
        assert not any(method in page.text for method in METHODS)
        # The first page: none; the second: one; the third: two; the fourth: all.
        answer = client.post(f"/round/{name}/{number}", data={"chosen": list("012")[: number - 1]})
        assert answer.status_code == 303
    assert answer.headers["location"] == f"/thanks/{name}"
    assert "Thank you" in client.get(f"/thanks/{name}").text
    store = client.campaign.store
    (survey,) = store.surveys()
    assert survey.finished is not None
    assert survey.people == "students"
    for number, asked in enumerate(survey.rounds):
        expected = sorted(option for option, _ in asked.shown[:number])
        assert list(survey.answers[number]) == expected
    results = client.get(f"/results/{client.campaign.key}")
    assert "1 finished surveys with 4 answers" in results.text
    assert client.get("/results/guess").status_code == 404


def test_nothing_is_kept_about_a_person_and_nothing_is_asked_from_elsewhere(
    client: TestClient, tmp_path: Path
) -> None:
    name = begun(client)
    page = client.get(f"/round/{name}/1", headers={"User-Agent": "secret-agent"})
    assert "set-cookie" not in page.headers
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert page.headers["x-content-type-options"] == "nosniff"
    assert page.headers["cache-control"] == "no-store"
    assert not re.search(r"https?:|//", page.text.replace("<!doctype html>", ""))
    assert "<script" not in page.text
    client.post(f"/round/{name}/1", headers={"User-Agent": "secret-agent"})
    kept = b"".join(p.read_bytes() for p in tmp_path.glob("answers.sqlite*"))
    assert b"secret-agent" not in kept
    assert b"testclient" not in kept


def test_every_value_is_escaped(client: TestClient) -> None:
    assert "A &lt;title&gt;" in client.get("/").text
    assert "<title>A" not in client.get("/").text.replace("<title>A &lt;", "")


def test_an_answer_can_be_changed_until_the_survey_is_finished(client: TestClient) -> None:
    name = begun(client)
    for chosen in (["0"], ["1"], ["1"]):  # back, another answer; then sent twice
        assert client.post(f"/round/{name}/1", data={"chosen": chosen}).status_code == 303
    page = client.get(f"/round/{name}/1").text
    assert re.findall(r'value="(\d)" checked', page) == ["1"]
    (survey,) = client.campaign.store.surveys()
    assert survey.answers == {0: (survey.rounds[0].shown[1][0],)}
    for number in (2, 3, 4):
        client.post(f"/round/{name}/{number}", data={})
    refused = client.post(f"/round/{name}/1", data={"chosen": ["2"]})
    assert refused.status_code == 409
    assert "finished before" in refused.text
    (after,) = client.campaign.store.surveys()
    assert after.answers[0] == survey.answers[0]
    assert client.get(f"/round/{name}/2").headers["location"] == f"/thanks/{name}"


def test_no_round_is_left_out(client: TestClient) -> None:
    name = begun(client)
    assert client.get(f"/round/{name}/3").headers["location"] == f"/round/{name}/1"
    assert client.get(f"/thanks/{name}").headers["location"] == f"/round/{name}/1"
    (survey,) = client.campaign.store.surveys()
    assert survey.finished is None


@pytest.mark.parametrize(
    ("content", "status"),
    [
        ("chosen=3", 400),
        ("chosen=-1", 400),
        ("chosen=MI", 400),
        ("chosen=0&chosen=0", 400),
        ("chosen=", 400),
        ("other=1", 400),
        ("&&&", 400),
        ("chosen", 400),
        ("chosen=" + "0" * LARGEST_POST, 413),
        ("&".join(["chosen=0"] * 500), 400),
        ("\xff", 400),
    ],
)
def test_malformed_answers_are_refused_and_change_nothing(
    client: TestClient, content: str, status: int
) -> None:
    name = begun(client)
    kind = {"Content-Type": "application/x-www-form-urlencoded"}
    answer = client.post(f"/round/{name}/1", content=content.encode("latin-1"), headers=kind)
    assert answer.status_code == status
    assert "This did not work" in answer.text
    assert client.campaign.store.surveys()[0].answers == {}


def test_a_form_of_another_kind_is_refused(client: TestClient) -> None:
    name = begun(client)
    assert client.post(f"/round/{name}/1", json={"chosen": [0]}).status_code == 415
    files = {"chosen": ("a.png", b"0" * 100_000)}
    assert client.post(f"/round/{name}/1", files=files).status_code == 415


@pytest.mark.parametrize(
    "path",
    [
        "/image/../answers.sqlite",
        "/image/..%2f..%2fanswers.sqlite",
        "/image/%2e%2e/pool.json",
        "/image/pool.json",
        "/image/0",
        "/round/nobody/1",
        "/round/nobody/x",
        "/thanks/nobody",
        "/survey/methods/strangers",
        "/survey/other/students",
        "/results/",
        "/nothing",
    ],
)
def test_what_does_not_exist_is_not_found(client: TestClient, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 404
    assert "This did not work" in answer.text


def test_rounds_out_of_range_and_other_methods(client: TestClient) -> None:
    name = begun(client)
    for number in ("0", "5", "99999999999999999999"):
        assert client.get(f"/round/{name}/{number}").status_code == 404
    assert client.put(f"/round/{name}/1").status_code == 405
    assert client.post("/survey/methods/strangers").status_code == 404


@pytest.mark.parametrize("prefix", ["", "/ask"], ids=["taken away", "kept"])
def test_pages_below_a_path_whether_or_not_a_proxy_takes_it_away(
    tmp_path: Path, prefix: str
) -> None:
    found = served(tmp_path)
    made = TestClient(application(found, "/ask"), follow_redirects=False)
    assert 'href="/ask/style.css"' in made.get(f"{prefix}/").text
    assert made.get(f"{prefix}/style.css").status_code == 200
    answer = made.post(f"{prefix}/survey/methods/staff")
    place = answer.headers["location"]
    assert place.startswith("/ask/round/")
    assert 'src="/ask/image/' in made.get(place.removeprefix("/ask" if not prefix else "")).text


@pytest.mark.parametrize("path", ["ask", "//evil.example", "/a b", "/a//b", "/a?b", "https://x"])
def test_a_path_that_is_none_is_refused(path: str) -> None:
    assert check_below("/ask/here") == "/ask/here"
    with pytest.raises(UserError, match="expected a path such as /ask"):
        check_below(path)


def test_every_answer_has_its_headers_and_no_other_host_is_named(client: TestClient) -> None:
    name = begun(client)
    found = client.campaign.store.find(name)
    image = found.rounds[0].shown[0][1]
    client.campaign.pools["methods"].files[image].unlink()
    gone = client.get(f"/image/{image}")
    assert gone.status_code == 404
    assert "default-src 'none'" in gone.headers["content-security-policy"]
    slash = client.get("/survey/methods/students/", headers={"Host": "evil.example"})
    assert slash.status_code == 404
    assert "evil" not in str(slash.headers)
    assert "There is no such page" in slash.text
    assert client.get(f"/round/{name}/{'9' * 5000}").status_code == 404


def test_links_are_told_and_the_key_stays(tmp_path: Path) -> None:
    first = served(tmp_path)
    told = links(first, "http://here")
    assert "methods, for students: http://here/survey/methods/students" in told
    again = campaign([tmp_path / "methods"], tmp_path / "answers.sqlite", ["a"], "t", None)
    assert again.key == first.key
    assert told[-1].endswith(first.key)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"people": ["a b"]}, "name 'a b' cannot be used"),
        ({"people": ["a", "a"]}, "has a name twice"),
        ({"each": 0}, "each is 0"),
    ],
)
def test_a_campaign_that_cannot_be_is_refused(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        served(tmp_path, **changes)


def test_answers_of_another_pool_of_the_same_name_are_refused(tmp_path: Path) -> None:
    first = served(tmp_path / "a")
    first.store.begin(first.pools["methods"], "students")
    other = pool(tmp_path / "b", categories=1)
    assert other.name == "methods"
    with pytest.raises(UserError, match="has surveys of another pool called methods"):
        campaign([other.folder], tmp_path / "a" / "answers.sqlite", ["x"], "t", None)


def test_other_programs_files_are_left_as_they_are(tmp_path: Path) -> None:
    foreign, empty = tmp_path / "foreign.sqlite", tmp_path / "empty.sqlite"
    with sqlite3.connect(foreign) as database:
        database.execute("CREATE TABLE bookmarks (a)")
    empty.touch()
    before = foreign.read_bytes()
    for path in (foreign, empty):
        with pytest.raises(UserError, match="of another program or version"):
            Store(path, read=True)
    with pytest.raises(UserError, match="of another program or version"):
        Store(foreign)
    assert foreign.read_bytes() == before
    assert empty.read_bytes() == b""
    with pytest.raises(UserError, match="does not exist"):
        Store(tmp_path / "nothing", read=True)


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE survey SET rounds = 'x'",
        "UPDATE survey SET options = '3'",
        "UPDATE survey SET finished = 'yesterday'",
        "UPDATE survey SET finished = '2026-11-28T10:00:00+00:00'",
        "INSERT INTO answer SELECT id, 99, '[]', '' FROM survey",
        "DROP TABLE answer",
    ],
)
def test_damaged_answers_are_one_line(tmp_path: Path, change: str) -> None:
    found = served(tmp_path)
    found.store.begin(found.pools["methods"], "students")
    with sqlite3.connect(tmp_path / "answers.sqlite") as database:
        database.execute(change)
    with pytest.raises(UserError, match=r"answers\.sqlite cannot be"):
        Store(tmp_path / "answers.sqlite", read=True).surveys()


def test_answers_are_read_where_nothing_can_be_written(tmp_path: Path) -> None:
    found = served(tmp_path / "a")
    found.store.begin(found.pools["methods"], "students")
    copy = tmp_path / "copy.sqlite"
    with sqlite3.connect(tmp_path / "a" / "answers.sqlite") as database:
        database.execute("VACUUM INTO ?", (str(copy),))
    copy.chmod(0o400)
    assert len(Store(copy, read=True).surveys()) == 1


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"short", b"a" * 20 + b"/.."])
def test_a_damaged_key_is_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "answers.sqlite.results-key").write_bytes(content)
    with pytest.raises(UserError, match="remove it for a new one"):
        served(tmp_path)


@pytest.mark.parametrize(
    ("host", "port"), [("127.0.0.1", 99999), ("127.0.0.1", -1), ("nonsense.invalid", 8000)]
)
def test_an_address_that_cannot_be_served_is_refused(host: str, port: int) -> None:
    with pytest.raises(UserError, match=r"--port is|cannot be served"):
        listen(host, port)


def test_a_port_in_use_is_refused_and_a_free_one_told() -> None:
    with listen("127.0.0.1", 0) as used:
        port = used.getsockname()[1]
        assert address_of(used, "/ask") == f"http://127.0.0.1:{port}/ask"
        with pytest.raises(UserError, match="cannot be served"):
            listen("127.0.0.1", port)


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("not a database" * 100)
    with pytest.raises(UserError, match="cannot be used"):
        Store(tmp_path / "x")
    with pytest.raises(UserError, match="no pool is given"):
        campaign([], tmp_path / "y", ["a"], "t", None)
