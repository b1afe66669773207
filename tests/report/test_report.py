"""The page of each kind of run."""

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest

from mitune.cli import main
from mitune.core.errors import UserError
from mitune.report.write import write_report

ROW = {"model": "a", "metric": "b", "standard_error": 1}
VOID = {"meta", "link", "img", "input", "br", "line", "circle"}


class Checked(HTMLParser):
    """Every element is closed in order, ids are unique, and nothing is asked of the network."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.pictures = 0
        self.feed(text)
        assert self.open == []
        assert len(set(self.ids)) == len(self.ids)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(str(value))
            if name in ("src", "href"):
                assert str(value).startswith(("data:", "#"))
        if tag == "img":
            self.pictures += 1
            assert "alt" in dict(attrs)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        return

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def aligned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("aligned") / "run"
    few = (
        "--limit 2 --candidates 4 --keep 1 --steps 3 --draws 2 --iterations 2 --batch 2 --images 1"
    )
    main(["align", "--out", str(out), *few.split(), "--rounds", "2", "--all-latents", "--quiet"])
    return out


def test_align_ends_with_its_page(aligned: Path) -> None:
    text = (aligned / "report.html").read_text()
    found = Checked(text)
    titles = re.findall(r"<h2[^>]*>([^<]*)</h2>", text)
    assert titles[:2] == ["Base and tuned", "Pictures"]
    assert {"Round 1: pools", "Round 2: pools", "Round 1: training", "To look at"} < set(titles)
    assert text.count('<article class="pool"') == 4  # two prompts, two rounds
    assert text.count('<li class="kept">') == 4
    # Eight held-out prompts' base and tuned, four sheets, eval.png is not shown again.
    assert found.pictures == 2 * 8 + 4 + 1
    assert "verb: align" in text


def test_a_set_without_a_model_shows_scores_and_no_pictures(aligned: Path, tmp_path: Path) -> None:
    out = tmp_path / "page.html"
    assert write_report([aligned / "round-1" / "set"], out) == out
    text = out.read_text()
    assert Checked(text).pictures == 0
    assert text.count('class="best"') == 2
    assert not (aligned / "round-1" / "set" / "report.html").exists()


def test_runs_are_shown_side_by_side(aligned: Path, tmp_path: Path, capsys) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "eval.json").write_text((aligned / "eval.json").read_text())
    out = tmp_path / "both.html"
    main(["report", str(aligned), str(other), "--out", str(out), "--no-pictures"])
    text = out.read_text()
    Checked(text)
    assert "Side by side" in text
    assert '<th scope="row">strict, tuned</th>' in text
    assert "run: Base and tuned" in text
    assert f"report: {out}" in capsys.readouterr().out


def test_two_sets_on_one_page_have_galleries_of_their_own(aligned: Path, tmp_path: Path) -> None:
    out = tmp_path / "sets.html"
    write_report([aligned / "round-1" / "set", aligned / "round-2" / "set"], out)
    assert len(set(re.findall(r'data-of="([^"]+)"', out.read_text()))) == 2
    Checked(out.read_text())


def test_a_training_alone_and_one_that_was_killed_in_a_line(aligned: Path, tmp_path: Path) -> None:
    run = tmp_path / "adapter"
    run.mkdir()
    for name in ("run.json", "metrics.jsonl"):
        (run / name).write_text((aligned / "round-1" / "adapter" / name).read_text())
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3, "lo')
    text = write_report([run]).read_text()
    Checked(text)
    assert re.search(r"<dt>steps</dt><dd>2</dd>", text)
    assert "loss by step" in text


def test_a_study_and_a_benchmark(tmp_path: Path) -> None:
    rows = [
        {
            "guidance": 3.0,
            "model": m,
            "category": c,
            "metric": "strict",
            "value": 0.5,
            "value_se": 0.1,
        }
        for m in ("base", "mi")
        for c in ("all", "colour")
    ]
    common = {"environment": {"versions": {"torch": "2"}, "device": "cpu"}}
    study = {"study": "selection", "plan": {"seeds": 4}, "rows": rows, "seconds": 1.5, **common}
    (tmp_path / "study.json").write_text(json.dumps(study))
    text = write_report([tmp_path]).read_text()
    Checked(text)
    assert text.count("0.500 ± 0.100") == 4
    assert "By category" in text
    bench = tmp_path / "bench"
    bench.mkdir()
    value = {"mean": 0.25, "standard_error": 0.05}
    found = {
        "benchmark": "list",
        "images": 2,
        "rows": [{"category": "a", "metric": "clip", "value": value}],
    }
    (bench / "results.json").write_text(json.dumps({**found, **common}))
    text = write_report([bench]).read_text()
    Checked(text)
    assert "0.250 ± 0.050" in text


def test_what_holds_no_run_is_refused(tmp_path: Path, aligned: Path, capsys) -> None:
    with pytest.raises(UserError, match="holds no run: expected the folder of a set"):
        write_report([tmp_path])
    with pytest.raises(UserError, match="given twice"):
        write_report([aligned, aligned])
    with pytest.raises(UserError, match="no run is given"):
        write_report([])
    (tmp_path / "eval.json").write_text('{"table": 3}')
    with pytest.raises(UserError, match="cannot be read"):
        write_report([tmp_path])
    (tmp_path / "eval.json").write_text("[")
    with pytest.raises(UserError, match="cannot be read"):
        write_report([tmp_path])
    with pytest.raises(SystemExit) as stop:
        main(["report", str(tmp_path / "nothing")])
    assert stop.value.code == 2
    assert "is no folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    "content", ["", "null", "5", "[1]", '{"format": 3}', '{"a": "b', "[" * 100_000]
)
@pytest.mark.parametrize("options", [[], ["--no-pictures"]], ids=["pictures", "none"])
def test_a_damaged_record_is_one_line(
    aligned: Path, tmp_path: Path, content: str, options: list[str], capsys
) -> None:
    place = tmp_path / "run" / "round-1" / "set"
    shutil.copytree(aligned / "round-1" / "set", place)
    (place / "run.json").write_text(content)
    with pytest.raises(SystemExit) as stop:
        main(["report", str(tmp_path / "run"), *options])
    assert stop.value.code == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("eval.json", {"environment": "x"}),
        ("eval.json", {"environment": None}),
        (
            "eval.json",
            {"table": [{"model": "a", "metric": "b", "mean": 10**400, "standard_error": 1}]},
        ),
        ("study.json", {"plan": []}),
        ("study.json", {"rows": ["a"]}),
    ],
)
def test_content_of_another_shape_is_one_line(
    aligned: Path, tmp_path: Path, name: str, content: dict[str, object]
) -> None:
    common = {"environment": {"versions": {}, "device": "cpu"}}
    study = {"study": "s", "plan": {}, "rows": [], "seconds": 1, **common}
    good = json.loads((aligned / "eval.json").read_text()) if name == "eval.json" else study
    (tmp_path / name).write_text(json.dumps(good | content))
    with pytest.raises(UserError, match="cannot be read"):
        write_report([tmp_path])


def test_odd_numbers_are_drawn(aligned: Path, tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text((aligned / "round-1" / "adapter" / "run.json").read_text())
    for lines in (
        [{"step": 1, "loss": 1e17}, {"step": 2, "loss": 1e17}],
        [{}],
        [{"step": 1, "loss": None}],
        [{"step": 1e17, "loss": 1}, {"step": 1e17, "loss": 2}],
    ):
        (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(each) + "\n" for each in lines))
        Checked(write_report([tmp_path]).read_text())


def test_runs_of_one_name_are_told_apart_and_one_run_is_not_two(
    aligned: Path, tmp_path: Path
) -> None:
    runs = [tmp_path / name / "same" for name in ("a", "b")]
    for run in runs:
        run.mkdir(parents=True)
        (run / "eval.json").write_text((aligned / "eval.json").read_text())
    text = write_report(runs, tmp_path / "x.html").read_text()
    assert all(f"{run}: Base and tuned" in text for run in runs)
    with pytest.raises(UserError, match="given twice"):
        write_report([runs[0], tmp_path / "b" / ".." / "a" / "same"])


def test_rounds_are_those_that_are_there(aligned: Path, tmp_path: Path) -> None:
    (tmp_path / "round-3").mkdir()
    shutil.copytree(aligned / "round-2" / "adapter", tmp_path / "round-3" / "adapter")
    assert "Round 3: training" in write_report([tmp_path]).read_text()


def test_a_folder_is_no_page(aligned: Path, tmp_path: Path, capsys) -> None:
    for out in (tmp_path, Path("."), Path("/")):
        with pytest.raises(SystemExit) as stop:
            main(["report", str(aligned), "--no-pictures", "--out", str(out)])
        assert stop.value.code == 2
        assert "a folder: expected the page's file" in capsys.readouterr().err


def test_another_models_autoencoder_is_refused(aligned: Path, tmp_path: Path, exact_model) -> None:
    with pytest.raises(UserError, match="another autoencoder"):
        write_report([aligned / "round-1" / "set"], tmp_path / "x.html", model=exact_model)


def test_damage_within_metrics_is_told(aligned: Path, tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text((aligned / "round-1" / "adapter" / "run.json").read_text())
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"st\n{"step": 3}\n')
    with pytest.raises(UserError, match="damaged in line 2"):
        write_report([tmp_path])
