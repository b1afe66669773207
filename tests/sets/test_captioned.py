"""Captioned pictures from every kind of source, and what is said about broken ones."""

import io
import json
import pickle
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from source_files import FOUND, kinds, picture, refusal, shard, write

from mitune.core.images import decode_image
from mitune.sets.captioned import read_captioned


def test_a_folder_with_a_text_beside_each_picture(tmp_path: Path) -> None:
    files: dict[str, bytes | str] = {
        "a/1.png": picture(),
        "a/1.txt": "\ufeffa red  cube\n",
        "a/2.v1.JPG": picture("jpg"),
        "a/2.v1.txt": " \r\ntwo blue  balls\nmore words",
        "b.webp": picture("webp"),
        "b.txt": "a cone",
        "._b.webp": b"a copy's leftover",
        "README.txt": "no picture of this name",
        "b.pickle": b"nothing",
    }
    assert kinds(write(tmp_path, files)) == FOUND
    assert next(read_captioned(tmp_path)).name == str(tmp_path / "a" / "1.png")


def test_a_folder_with_a_listing(tmp_path: Path) -> None:
    lines = [
        {"file_name": "z.png", "text": "a red cube", "width": 12},
        {"file_name": "sub/y.jpg", "caption": "two blue balls"},
        {"file_name": "x.webp", "text": "a cone", "caption": "not this one"},
    ]
    write(
        tmp_path,
        {
            "metadata.jsonl": "\n".join(map(json.dumps, lines)) + "\n\n",
            "z.png": picture(),
            "sub/y.jpg": picture("jpg"),
            "x.webp": picture("webp"),
            "not-listed.png": picture(),
        },
    )
    assert kinds(tmp_path) == FOUND


class Planted:
    """What a pickle of a stranger may hold: loading it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_shards_whose_pickles_stay_unread(tmp_path: Path) -> None:
    harm = pickle.dumps(Planted(tmp_path / "harm"))
    shard(
        tmp_path / "s" / "00.tar",
        {
            "0001.cls": "3",
            "0001.png": picture(),
            "0001.seg.png": picture("webp"),
            "0001.txt": "a red cube",
            "0001.json": '{"caption": "the text goes first"}',
            "0001.pyd": harm,
            "0001.pickle": harm,
            "0002.pkl": harm,
            "sub/0002.JPG": picture("jpg"),
            "sub/0002.json": '{"key": 1, "caption": "two blue balls"}',
        },
    )
    shard(tmp_path / "s" / "01.tar", {"x.webp": picture("webp"), "x.json": '{"text": "a cone"}'})
    assert kinds(tmp_path / "s" / "*.tar") == FOUND
    assert kinds(str(tmp_path / "s" / "0[01].tar")) == FOUND
    assert kinds(tmp_path / "s") == FOUND
    assert kinds(tmp_path / "s" / "00.tar") == FOUND[:2]
    assert not (tmp_path / "harm").exists()


def test_a_limit_takes_the_first(tmp_path: Path) -> None:
    path = shard(tmp_path / "a.tar", {f"{n}.png": picture() for n in range(3)})
    assert "0.png has no caption" in refusal(path, limit=1)
    files: dict[str, bytes | str] = {"0.png": picture(), "0.txt": "one", "1.png": b"broken"}
    write(tmp_path / "f", files)
    assert [item.caption for item in read_captioned(tmp_path / "f", limit=1)] == ["one"]
    assert "limit is 0" in refusal(tmp_path / "f", limit=0)


def test_the_digest_is_of_caption_and_file_wherever_they_lie(tmp_path: Path) -> None:
    write(tmp_path / "a", {"1.png": picture(), "1.txt": "a red cube"})
    shard(tmp_path / "b.tar", {"x.png": picture(), "x.txt": "a red cube\n"})
    write(tmp_path / "c", {"1.png": picture(), "1.txt": "a red ball"})
    write(tmp_path / "d", {"1.png": picture(colour="blue"), "1.txt": "a red cube"})
    one, same, *others = (
        next(read_captioned(tmp_path / name)).sha256 for name in ("a", "b.tar", "c", "d")
    )
    assert one == same
    assert len({one, *others}) == 3


def test_a_picture_is_its_upright_centre() -> None:
    strips = Image.new("RGB", (30, 10))
    for place, colour in enumerate([(255, 0, 0), (0, 255, 0), (0, 0, 255)]):
        strips.paste(colour, (10 * place, 0, 10 * place + 10, 10))
    file = io.BytesIO()
    strips.save(file, "PNG")
    green = torch.tensor([0.0, 1.0, 0.0]).view(3, 1, 1)
    assert torch.equal(decode_image(file.getvalue(), "p", (10, 10)), green.expand(3, 10, 10))
    # Wider than high is asked for: nothing is left out, and (height, width) is the order.
    whole = decode_image(file.getvalue(), "p", (10, 30))
    assert torch.equal(whole[:, 0, [0, 15, 29]], torch.eye(3))
    # Orientation 6: the camera was turned, the first column is the upper edge.
    file = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    strips.save(file, "PNG", exif=exif)
    turned = decode_image(file.getvalue(), "p", (30, 10))
    assert torch.equal(turned[:, [0, 15, 29], 0], torch.eye(3))
    assert (turned.dtype, turned.min(), turned.max()) == (torch.float32, 0, 1)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"text",
        picture()[:50],
        picture("jpg")[:300],
        picture("webp")[:-10],
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n",
    ],
    ids=["empty", "text", "cut png", "cut jpeg", "cut webp", "a program for ghostscript"],
)
def test_what_is_no_whole_picture_is_named(tmp_path: Path, content: bytes) -> None:
    write(tmp_path, {"1.png": content, "1.txt": "a red cube"})
    message = refusal(tmp_path)
    assert f"picture {tmp_path / '1.png'} cannot be read" in message
    assert "JPEG, PNG or WebP" in message


def test_a_picture_that_unpacks_to_too_much_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    write(tmp_path, {"1.png": picture(), "1.txt": "a red cube"})
    assert "1.png cannot be read" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({}, ["holds no picture", ".txt", ".tar"]),
        ({"1.gif": b"GIF89a"}, ["holds no picture"]),
        ({"1.png": b""}, ["1.png has no caption", "(None)"]),
        ({"1.png": b"", "1.txt": " \n"}, ["1.png has no caption", "in a .txt"]),
        ({"1.png": b"", "1.txt": b"\xff\xfe"}, ["1.txt is not text", "UTF-8"]),
        ({"metadata.jsonl": ""}, ["holds no picture"]),
        ({"metadata.jsonl": "{"}, ["metadata.jsonl, line 1 is no JSON object"]),
        ({"metadata.jsonl": "\n[1]"}, ["metadata.jsonl, line 2 is no JSON object"]),
        ({"metadata.jsonl": "[" * 100_000}, ["line 1 is no JSON object"]),
        ({"metadata.jsonl": '{"text": "a"}'}, ["line 1 has the file_name None"]),
        ({"metadata.jsonl": '{"file_name": "../a.png"}'}, ["'../a.png'", "a path within"]),
        ({"metadata.jsonl": '{"file_name": "/a.png"}'}, ["'/a.png'", "a path within"]),
        ({"metadata.jsonl": '{"file_name": "a.png", "text": "a"}'}, ["a.png cannot be read"]),
        ({"metadata.jsonl": '{"file_name": "1.txt"}', "1.txt": ""}, ["1.txt has no caption"]),
        (
            {"metadata.jsonl": '{"file_name": "1.txt", "text": 3}', "1.txt": ""},
            ["1.txt has no caption (3)"],
        ),
    ],
)
def test_a_folder_that_is_not_as_expected(
    tmp_path: Path, files: dict[str, bytes | str], words: list[str]
) -> None:
    message = refusal(write(tmp_path, files))
    assert str(tmp_path) in message
    assert all(word in message for word in words), message


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"1.txt": "a"}, ["holds no picture"]),
        ({"1.png": b""}, ["a.tar: 1.png has no caption"]),
        ({"1.png": b"", "2.txt": "a"}, ["a.tar: 1.png has no caption"]),
        ({"1.png": b"", "2.png": b"", "1.txt": "a"}, ["1.png has no caption", "--sort=name"]),
        ({"1.png": b"", "1.json": "{}"}, ["a.tar: 1.png has no caption"]),
        ({"1.png": b"", "1.json": "a"}, ["a.tar: 1.json is no JSON object"]),
        ({"1.png": b"", "1.txt": b"\xff"}, ["a.tar: 1.txt is not text"]),
        ({"1.png": b"", "1.txt": "a"}, ["a.tar: 1.png cannot be read"]),
    ],
)
def test_a_shard_that_is_not_as_expected(
    tmp_path: Path, files: dict[str, bytes | str], words: list[str]
) -> None:
    message = refusal(shard(tmp_path / "a.tar", files))
    assert all(word in message for word in words), message


def test_a_file_that_is_no_shard(tmp_path: Path) -> None:
    assert "matches no file" in refusal(tmp_path / "*.tar")
    write(tmp_path, {"a.tar": b"text", "b.zip": b"PK"})
    assert f"shard {tmp_path / 'a.tar'} cannot be read" in refusal(tmp_path / "a.tar")
    assert "is a file" in refusal(tmp_path / "b.zip")
    whole = shard(tmp_path / "c.tar", {"1.png": picture(size=(99, 99)) * 9, "1.txt": "a"})
    whole.write_bytes(whole.read_bytes()[:700])
    assert "c.tar cannot be read" in refusal(whole)
    shard(tmp_path / "d.tar", {"1.png": picture(), "1.txt": "a"}, mode="w:gz")
    assert "not compressed" in refusal(tmp_path / "d.tar")


class Table(list[dict[str, Any]]):
    """What the reader takes of a ``datasets.Dataset``."""

    features: dict[str, Any]

    @property
    def column_names(self) -> list[str]:
        return list(self.features)

    def select_columns(self, names: list[str]) -> "Table":
        return table([{name: row[name] for name in names} for row in self], self.features)

    def cast_column(self, name: str, feature: Any) -> "Table":
        assert (name, feature.decode) == ("image", False)
        return self


class Feature:
    def __init__(self, decode: bool = True) -> None:
        self.decode = decode


def table(rows: list[dict[str, Any]], features: dict[str, Any]) -> Table:
    made = Table(rows)
    made.features = features
    return made


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch) -> Any:
    """In the place of the package ``datasets``, with nothing in it yet."""

    def missing(name: str, split: str) -> Table:
        raise FileNotFoundError(f"no data set {name}\nat all")

    fake: Any = types.ModuleType("datasets")
    fake.__version__, fake.Image, fake.load_dataset = "4.1.0", Feature, missing
    monkeypatch.setitem(sys.modules, "datasets", fake)
    return fake


def rows(*captions: str | None, key: str = "text") -> Table:
    stored = {"bytes": picture(), "path": None}
    made = [{"image": stored, key: caption, "other": 0} for caption in captions]
    return table(made, {"image": Feature(), key: None, "other": None})


def test_a_data_set_by_name(package: Any, tmp_path: Path) -> None:
    asked = []

    def load(name: str, split: str) -> Table:
        asked.append((name, split))
        return found

    package.load_dataset = load
    found = rows("one", " two\n", key="caption")
    items = list(read_captioned("someone/pictures"))
    assert asked == [("someone/pictures", "train")]
    assert [(i.caption, i.name) for i in items] == [
        ("one", "someone/pictures, row 0"),
        ("two", "someone/pictures, row 1"),
    ]
    assert items[0].content == picture()
    # A row may name a file instead.
    write(tmp_path, {"1.png": picture()})
    found[0] = {"image": {"bytes": None, "path": str(tmp_path / "1.png")}, "caption": "one"}
    assert next(read_captioned("someone/pictures")).content == picture()
    found[0]["image"] = None
    assert "someone/pictures, row 0 cannot be read" in refusal("someone/pictures")
    found = rows("one", None)
    assert "row 1 has no caption" in refusal("someone/pictures")
    found = rows("one", key="label")
    assert "columns image, label, other: expected 'image'" in refusal("someone/pictures")
    found.features["image"] = None
    assert "expected 'image' with pictures" in refusal("someone/pictures")


def test_a_data_set_in_a_folder(package: Any, tmp_path: Path) -> None:
    package.load_from_disk = lambda place: {"train": rows("split")}
    write(tmp_path / "dict", {"dataset_dict.json": "{}"})
    assert [item.caption for item in read_captioned(tmp_path / "dict")] == ["split"]
    package.load_from_disk = lambda place: rows("whole")
    write(tmp_path / "one", {"state.json": "{}"})
    assert [item.caption for item in read_captioned(tmp_path / "one")] == ["whole"]
    package.load_dataset = lambda name, split: rows(name)
    write(tmp_path / "parquet", {"data/0.parquet": ""})
    assert [i.caption for i in read_captioned(tmp_path / "parquet")] == [str(tmp_path / "parquet")]


def test_a_data_set_that_cannot_be_had(package: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "nowhere cannot be loaded (no data set nowhere)" in refusal("nowhere")
    package.__version__ = "3.6.0"
    assert "datasets is 3.6.0: expected 4 or later" in refusal("nowhere")
    monkeypatch.setitem(sys.modules, "datasets", None)
    message = refusal("nowhere")
    assert "nowhere is no folder" in message
    assert "pip install 'mitune[datasets]'" in message


def test_the_package_itself_agrees(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets", minversion="4")
    made = {"image": [{"bytes": picture(), "path": None}], "text": ["a red cube"]}
    features = datasets.Features({"image": datasets.Image(), "text": datasets.Value("string")})
    datasets.Dataset.from_dict(made, features=features).save_to_disk(tmp_path / "saved")
    assert kinds(tmp_path / "saved") == FOUND[:1]
