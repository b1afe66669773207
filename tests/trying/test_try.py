"""The page to type a prompt into."""

import base64
import html
import json
import re
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from starlette.testclient import TestClient

import mitune
from mitune.adapters import adapter as adapters
from mitune.cli import main
from mitune.config.runtime import Runtime
from mitune.config.sampling import SamplerConfig
from mitune.config.sets import RealConfig
from mitune.config.training import TuneConfig
from mitune.core.errors import UserError
from mitune.core.images import as_pictures, png_of
from mitune.scoring.score import score
from mitune.trying import app
from mitune.trying.app import MOST, application
from mitune.trying.drawer import Candidate, Drawer
from mitune.trying.space import write_space

PROMPT = "a red circle"
SAMPLER = SamplerConfig(steps=3, guidance=2.0)
FORM = {"prompt": PROMPT, "count": "3", "seed": "5"}


@pytest.fixture
def adapter(shapes_model: Any, tmp_path: Path) -> Path:
    """That changes what the model draws."""
    adapters.attach(shapes_model, TuneConfig(method="lora", rank=2, alpha=2))
    with torch.no_grad():
        for value in adapters.parameters(shapes_model).values():
            value.normal_(std=0.2)
    adapters.save(shapes_model, tmp_path / "adapter", {"fingerprint": shapes_model.fingerprint})
    adapters.detach(shapes_model)
    return tmp_path / "adapter"


def client(model: Any, adapter: Path | None = None) -> TestClient:
    drawer = Drawer(model, adapter, SAMPLER, Runtime())
    return TestClient(application(drawer, "Try <it>", count=4), follow_redirects=False)


def drawn(model: Any, adapter: Path | None = None) -> tuple[torch.Tensor, list[bytes]]:
    """The latents that mitune.generate makes of the same seed, of the base and with an adapter of
    the tuned model, and their pictures; in the page's own batches, so that they round alike."""
    made = []
    for each in (None,) if adapter is None else (None, adapter):
        if each is not None:
            adapters.load(model, each, fingerprint=model.fingerprint)
        found = mitune.generate(model, [PROMPT], candidates=3, sampler=SAMPLER, seed=5, slots=3)
        made += [c.latent for c in sorted(found, key=lambda c: c.index)]
        adapters.detach(model)
    latents = torch.stack(made)
    return latents, [png_of(picture) for picture in as_pictures(model.decode(latents))]


def test_candidates_are_those_of_generate_and_their_scores_those_of_the_base_model(
    shapes_model: Any, adapter: Path
) -> None:
    found = Drawer(shapes_model, adapter, SAMPLER, Runtime()).draw(PROMPT, 3, 5)
    assert [each.base.nats for each in found] == sorted(
        (each.base.nats for each in found), reverse=True
    )
    places = [each.number - 1 for each in found]
    assert sorted(places) == [0, 1, 2]
    latents, pngs = drawn(shapes_model, adapter)
    base, tuned = pngs[:3], pngs[3:]
    assert [each.base.png for each in found] == [base[i] for i in places]
    assert [each.tuned.png for each in found if each.tuned] == [tuned[i] for i in places]
    assert base != tuned
    rule = RealConfig.of(shapes_model.preset).score
    nats = score(shapes_model, [PROMPT] * 6, latents, rule, seed=5).tolist()
    assert [each.base.nats for each in found] == pytest.approx([nats[i] for i in places], abs=1e-3)


def test_the_page_shows_what_was_drawn(shapes_model: Any, adapter: Path) -> None:
    page = client(shapes_model, adapter)
    first = page.get("/")
    assert 'name="count" type="number" min="1" max="16" required value="4"' in first.text
    shown = page.post("/", data=FORM)
    assert shown.status_code == 200
    pictures = [base64.b64decode(p) for p in re.findall(r"base64,([^\"]+)", shown.text)]
    assert sorted(pictures) == sorted(drawn(shapes_model, adapter)[1])
    assert shown.text.count("tuned ") >= 3
    assert f'value="{PROMPT}"' in shown.text
    alone = client(shapes_model).post("/", data=FORM)
    assert alone.text.count("base64,") == 3
    assert "tuned" not in alone.text
    for answer in (first, shown):
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert answer.headers["cache-control"] == "no-store"
        assert "<script" not in answer.text
        assert "Try &lt;it&gt;" in answer.text


def test_every_value_is_escaped(shapes_model: Any) -> None:
    told = client(shapes_model).post("/", data={**FORM, "prompt": '<b>"a" & b</b>'})
    assert "<b>" not in told.text
    assert '<b>"a" & b</b>' in html.unescape(told.text)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"prompt": " \t"}, "a prompt of 1 to 1000"),
        ({"prompt": "a" * 1001}, "a prompt of 1 to 1000"),
        ({"prompt": "a\0b"}, "expected text"),
        ({"count": "0"}, "1 to 16 pictures"),
        ({"count": "17"}, "1 to 16 pictures"),
        ({"count": "-1"}, "1 to 16 pictures"),
        ({"count": "٣"}, "1 to 16 pictures"),
        ({"seed": "x"}, "a seed"),
        ({"seed": "9999999999"}, "a seed"),
        ({"seed": ["1", "2"]}, "Expected a prompt, a number"),
        ({"more": "1"}, "Expected a prompt, a number"),
    ],
)
def test_forms_that_ask_for_nothing_are_refused(
    shapes_model: Any, change: dict[str, Any], words: str
) -> None:
    told = client(shapes_model).post("/", data={**FORM, **change})
    assert told.status_code == 400
    assert words in html.unescape(told.text)


def test_other_requests_are_refused(shapes_model: Any) -> None:
    page = client(shapes_model)
    assert page.post("/", data=FORM, headers={"sec-fetch-site": "cross-site"}).status_code == 403
    assert page.post("/", data={**FORM, "prompt": "a" * 9000}).status_code == 413
    assert page.post("/", content=b"{}", headers={"content-type": "text/x"}).status_code == 415
    assert page.get("/../secret").status_code == 404
    assert page.put("/").status_code == 405


def test_more_than_a_few_at_a_time_are_told_to_wait(
    shapes_model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawer = Drawer(shapes_model, None, SAMPLER, Runtime())
    begun, go_on = threading.Semaphore(0), threading.Event()

    def slow(*_: object) -> list[Candidate]:
        begun.release()
        go_on.wait(60)
        return []

    monkeypatch.setattr(app, "_WAITING", 1)
    monkeypatch.setattr(drawer, "draw", slow)
    answers: list[int] = []
    with TestClient(application(drawer, "Try", count=1)) as page:
        threads = [
            threading.Thread(target=lambda: answers.append(page.post("/", data=FORM).status_code))
            for _ in range(2)
        ]
        for thread in threads:
            thread.start()
        for _ in threads:
            assert begun.acquire(timeout=60)
        assert page.post("/", data=FORM).status_code == 503
        go_on.set()
        for thread in threads:
            thread.join()
        assert answers == [200, 200]
        assert page.post("/", data=FORM).status_code == 200


def test_what_cannot_be_served_is_told_before_anything_is(
    shapes_model: Any, adapter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UserError, match="trained on another model"):
        Drawer(mitune.load("shapes", device="cpu"), adapter, SAMPLER, Runtime())
    for words, message in (
        (["--candidates", str(MOST + 1)], "candidates is 17: expected 1 to 16"),
        (["--root-path", "//x"], "--root-path is //x"),
        (["--port", "65536"], "--port is 65536"),
        (["--adapter", "nowhere", "--port", "0"], "adapter nowhere is not there"),
        (["--model", "./here", "--space", str(tmp_path / "s")], "expected an embedded model or"),
    ):
        with pytest.raises(SystemExit) as ended:
            main(["try", *words])
        assert ended.value.code == 2
        assert message in capsys.readouterr().err


def test_a_space_runs_the_verb_with_the_adapter(adapter: Path, tmp_path: Path) -> None:
    write_space(tmp_path / "space", model="shapes-v1", adapter=adapter)
    files = {p.relative_to(tmp_path / "space").as_posix() for p in (tmp_path / "space").rglob("*")}
    weights = "adapter/pytorch_lora_weights.safetensors"
    assert files == {"Dockerfile", "README.md", "adapter", weights}
    (command,) = re.findall(r"^CMD (.+)$", (tmp_path / "space" / "Dockerfile").read_text(), re.M)
    words = json.loads(command)
    assert words[:2] == ["mitune", "try"]
    assert words[words.index("--adapter") + 1] == weights
    card = (tmp_path / "space" / "README.md").read_text()
    assert f"app_port: {words[words.index('--port') + 1]}" in card
