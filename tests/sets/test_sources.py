"""Sources as people and their systems leave them: found, reported or refused."""

import io
import json
import os
import socket
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from source_files import kinds, picture, refusal, shard, write

from mitune.sets.captioned import read_captioned
from mitune.sets.sources.found import OTHER_PICTURES


def captions(source: Path | str, **options: Any) -> list[str]:
    return [item.caption for item in read_captioned(source, **options)]


def told(caplog: pytest.LogCaptureFixture) -> str:
    """The one warning, if any; the log is empty after."""
    lines = list(caplog.messages)
    caplog.clear()
    assert len(lines) <= 1
    assert all(line.isprintable() for line in lines)
    return "".join(lines)


CAPTIONED: dict[str, bytes | str] = {"a.png": picture(), "a.txt": "a red cube"}


def test_one_caption_of_several_lines(tmp_path: Path, caplog: Any) -> None:
    write(tmp_path, CAPTIONED | {"a.txt": "a red  cube\na disc\nred, cube", "b.jpg": picture()})
    (tmp_path / "b.txt").write_bytes("\r\n \ra cone\u2028here\r\nanother\n".encode())
    assert captions(tmp_path) == ["a red cube", "a cone here"]
    assert told(caplog) == (
        f"{tmp_path}: captions of several lines, of which the first is taken: 2 "
        f"({tmp_path / 'a.txt'}, ...)"
    )
    assert captions(tmp_path, tell=False) == ["a red cube", "a cone here"]
    assert not told(caplog)
    (tmp_path / "a.txt").write_bytes("a\u2028red\x0bcube\n\n".encode())
    assert captions(tmp_path, limit=1) == ["a red cube"]
    assert not told(caplog)
    packed = shard(tmp_path / "a.tar", {"1.png": picture(), "1.txt": "one\ntwo\n"})
    assert captions(packed) == ["one"]
    assert "a.tar: 1.txt" in told(caplog)


def test_one_caption_of_a_list(tmp_path: Path, caplog: Any) -> None:
    entry = {"file_name": "a.png", "text": [" ", None, "a red\ncube", "a disc"]}
    write(tmp_path, {"a.png": picture(), "metadata.jsonl": json.dumps(entry)})
    assert captions(tmp_path) == ["a red cube"]
    assert "lists of captions, of which the first is taken: 1" in told(caplog)
    write(tmp_path, {"metadata.jsonl": json.dumps(entry | {"text": ["only"]})})
    assert captions(tmp_path) == ["only"]
    assert not told(caplog)
    for empty in ([], [""], [3], {"en": "a"}, 3, "\u200b"):
        write(tmp_path, {"metadata.jsonl": json.dumps(entry | {"text": empty})})
        assert f"a.png has no caption ({empty!r:.40})" in refusal(tmp_path)


def test_captions_that_are_no_text(tmp_path: Path) -> None:
    lone = r'{"file_name": "a.png", "text": "\ud800"}'
    write(tmp_path, {"a.png": picture(), "metadata.jsonl": lone})
    assert "the caption of picture" in refusal(tmp_path)
    write(tmp_path / "b", CAPTIONED | {"a.txt": "a\0b"})
    assert "holds a zero character" in refusal(tmp_path / "b")
    write(tmp_path / "c", CAPTIONED | {"a.txt": "a red cube".encode("utf-16")})
    assert "a.txt is not text" in refusal(tmp_path / "c")


def test_a_caption_is_found_whatever_its_capitals(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "A.jpg": picture(),
            "A.TXT": "upper",
            "b.PNG": picture(),
            "B.txt": "lower",
            "C.png": picture(),
            "c.png": picture(),
            "c.txt": "its own",
            "C.Txt": "mixed",
        },
    )
    assert captions(tmp_path) == ["upper", "mixed", "lower", "its own"]
    (tmp_path / "C.Txt").unlink()
    assert "C.png has no caption" in refusal(tmp_path)  # c.txt is that of c.png
    write(tmp_path / "two", {"a.png": picture(), "A.TXT": "x", "A.txt": "y"})
    assert "has the captions A.TXT and A.txt: expected one, a.txt" in refusal(tmp_path / "two")


def test_listings_below_the_folder(tmp_path: Path, caplog: Any) -> None:
    write(
        tmp_path,
        {
            "train/metadata.jsonl": '{"file_name":"a.png","text":"one"}',
            "train/a.png": picture(),
            "test/metadata.csv": "file_name,text\nsub/b.png,two\n",
            "test/sub/b.png": picture(),
            "test/left.png": picture(),
            "left.png": picture(),
        },
    )
    assert captions(tmp_path) == ["two", "one"]
    assert "no listing names passed over: 2" in told(caplog)
    write(tmp_path, {"test/metadata.jsonl": ""})
    assert "test holds metadata.jsonl and metadata.csv: expected one" in refusal(tmp_path)


def test_a_listing_as_a_spreadsheet_writes_it(tmp_path: Path) -> None:
    table = '\ufeffid,file_name,caption\r\n1,a.png,"red, ""big""\r\nand round"\r\n'
    write(tmp_path, {"a.png": picture(), "metadata.csv": table})
    assert captions(tmp_path) == ['red, "big" and round']


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ("", "has the columns : expected file_name"),
        ("file_name;text\na.png;x\n", "columns file_name;text: expected file_name, and text or"),
        ("file_name,label\na.png,x\n", "has the columns file_name, label"),
        ("file_name,text\na.png,a cat, sitting\n", "line 2 has more columns"),
        ("file_name,text\na.png\n", "a.png has no caption (None)"),
        ('file_name,text\na.png,"open\n', "line 2 cannot be read"),
        ("file_name,text\n../a.png,x\n", "line 2 has the file_name '../a.png'"),
        (f"file_name,text\na.png,{'x' * 140_000}\n", "line 2 cannot be read (field larger"),
        (b"\xff\xfef\0i\0", "metadata.csv is not text"),
    ],
)
def test_a_table_that_is_no_listing(tmp_path: Path, table: str | bytes, words: str) -> None:
    write(tmp_path, {"a.png": picture(), "metadata.csv": table})
    assert words in refusal(tmp_path)


def test_what_systems_leave_is_nobodys(tmp_path: Path, caplog: Any) -> None:
    write(
        tmp_path,
        CAPTIONED
        | {
            ".DS_Store": b"\0",
            "Thumbs.db": b"\0",
            "desktop.ini": "",
            "._a.png": b"\0",
            "lost+found/b.png": picture(),
            "@eaDir/a.png/SYNOPHOTO_THUMB_M.jpg": picture(),
            "__MACOSX/._a.png": b"\0",
        },
    )
    assert captions(tmp_path) == ["a red cube"]
    assert not told(caplog)


def test_what_is_passed_over_is_told(tmp_path: Path, caplog: Any) -> None:
    write(
        tmp_path,
        CAPTIONED
        | {f"x.{kind}": b"" for kind in OTHER_PICTURES}
        | {
            "y.GIF": b"",
            ".hidden.png": b"",
            ".git/c.png": b"",
            "b.tar": b"",
            "b.tar.gz": b"",
            "folder.png/a.png": picture("jpg"),
            "folder.png/a.txt": "within",
            "notes.pdf": b"",
        },
    )
    os.symlink(tmp_path / "nowhere", tmp_path / "dangling.png")
    os.symlink(tmp_path / "loop.png", tmp_path / "loop.png")
    os.symlink(tmp_path / "folder.png", tmp_path / "link")
    os.symlink(tmp_path, tmp_path / "circle")
    os.symlink(tmp_path / "a.png", tmp_path / "z.png")
    os.symlink(tmp_path / "a.txt", tmp_path / "z.txt")
    os.mkfifo(tmp_path / "pipe.png")
    assert captions(tmp_path) == ["a red cube", "within", "a red cube"]
    line = told(caplog)
    for words in (
        ".gif files passed over: 2 (",
        ".heic files passed over: 1 (",
        "hidden pictures passed over: 1 (",
        "hidden folders passed over: 1 (",
        "broken links passed over: 2 (",
        "linked folders not followed (give one as the source itself): 2 (",
        "pipes, sockets and devices passed over: 1 (",
        "compressed shards passed over (unpack them): 1 (",
        ".tar files beside pictures passed over: 1 (",
    ):
        assert words in line
    assert captions(tmp_path / "link") == ["within"]


def test_a_folder_of_other_things_says_what_they_are(tmp_path: Path) -> None:
    write(tmp_path / "s", {"a.gif": b"", "b.tar.gz": b""})
    write(tmp_path / "photos", CAPTIONED)
    os.symlink(tmp_path / "photos", tmp_path / "s" / "photos")
    message = refusal(tmp_path / "s")
    assert "s holds no picture (" in message
    for words in (".gif files passed over: 1", "unpack them", "linked folders not followed"):
        assert words in message


def pipe(path: Path) -> None:
    os.mkfifo(path)


def bound(path: Path) -> None:
    place = os.getcwd()
    os.chdir(path.parent)  # a socket's name must be short
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(path.name)
    finally:
        os.chdir(place)


@pytest.mark.parametrize("make", [pipe, bound])
@pytest.mark.parametrize("name", ["a.txt", "metadata.jsonl", "metadata.csv", "a.tar"])
def test_nothing_is_waited_for(tmp_path: Path, make: Callable[[Path], None], name: str) -> None:
    write(tmp_path, {"a.png": picture()})
    make(tmp_path / name)
    assert name in refusal(tmp_path / name if name == "a.tar" else tmp_path)


def test_a_folder_is_no_file_whatever_its_name(tmp_path: Path) -> None:
    for name in ("a.txt", "metadata.jsonl", "metadata.csv", "b.tar", "c.png"):
        (tmp_path / "s.tar" / name).mkdir(parents=True)
    write(tmp_path / "s.tar", {"a.png": picture()})
    assert "a.png has no caption (None)" in refusal(tmp_path / "s.tar")


@pytest.mark.parametrize(
    "name",
    [
        "new\nline",
        "qu'o\"te",
        " space ",
        "tab\t",
        "\u2028",
        "{0..1}",
        "[x]",
        "*",
        "%s",
        "é",
        "\x1b",
    ],
)
def test_names_of_any_letters(tmp_path: Path, name: str) -> None:
    write(tmp_path / name, {f"{name}.png": picture(), f"{name}.txt": "a red cube"})
    assert kinds(tmp_path / name) == [("a red cube", "png")]
    (tmp_path / name / f"{name}.txt").unlink()
    assert "has no caption (None)" in refusal(tmp_path / name)


def test_names_that_are_no_utf_8(tmp_path: Path, caplog: Any) -> None:
    place = os.fsencode(tmp_path)
    for name, content in ((b"\xff.png", picture()), (b"\xff.txt", b"a\nb"), (b"\xfe.gif", b"")):
        with open(place + b"/" + name, "wb") as file:
            file.write(content)
    assert captions(tmp_path) == ["a"]
    assert r"\udcff.txt" in told(caplog)
    packed = shard(tmp_path / "a.tar", {"\udcff.png": picture()})
    assert r"\udcff.png has no caption" in refusal(packed)


def test_braces_name_shards(tmp_path: Path) -> None:
    for number in range(12):
        files: dict[str, bytes | str] = {"1.png": picture(), "1.txt": f"{number}"}
        shard(tmp_path / f"s-{number:03}.tar", files)
        shard(tmp_path / f"{number}" / "x.tar", files)
    for pattern, expected in {
        "s-{000..011}.tar": range(12),
        "s-{008..010}.tar": range(8, 11),
        "s-{002..000}.tar": (2, 1, 0),
        "s-{000,007}.tar": (0, 7),
        "{9..11}/x.tar": range(9, 12),
        "s-0{0,1}{0..1}.tar": (0, 1, 10, 11),
        "s-00{8..9}.tar": (8, 9),
        "s-{00,01}[01].tar": (0, 1, 10, 11),
    }.items():
        assert captions(tmp_path / pattern) == list(map(str, expected)), pattern
    for pattern, words in {
        "s-{000..012}.tar": "s-012.tar is not there",
        "s-{000..}.tar": "has the braces {000..}",
        "s-{a}.tar": "has the braces {a}",
        "s-{0..9999999}.tar": "names more than 1000000 shards",
        "{t,u}-*.tar": "t-*.tar is not there",
        "t-*.tar": "matches no file",
    }.items():
        assert words in refusal(tmp_path / pattern), pattern


def test_shards_of_other_systems(tmp_path: Path, caplog: Any) -> None:
    files: dict[str, bytes | str] = {
        "./._0001.png": b"\0",
        "./0001.png": picture(),
        "./._0001.txt": b"\0",
        "./0001.txt": "a red cube",
        ".DS_Store": b"\0",
        "__MACOSX/0002.png": b"\0",
        "0002.gif": b"",
        "0002.txt": "a cone",
    }
    assert kinds(shard(tmp_path / "a.tar", files)) == [("a red cube", "png")]
    line = told(caplog)
    assert ".gif files passed over: 1" in line
    assert "samples without a picture passed over: 1" in line
    for mode, name in (("w:gz", "gzip"), ("w:bz2", "bzip2"), ("w:xz", "xz")):
        packed = shard(tmp_path / name / "a.tar", files, mode=mode)
        assert f"it is a {name} file" in refusal(packed)
        packed.rename(packed.with_suffix(".tar.gz"))
        assert "is a compressed file" in refusal(packed.with_suffix(".tar.gz"))


def test_members_of_a_shard_that_are_no_plain_files(tmp_path: Path, caplog: Any) -> None:
    linked = tarfile.TarInfo("1.jpg")
    linked.type, linked.linkname = tarfile.LNKTYPE, "0.png"
    with tarfile.open(tmp_path / "a.tar", "w") as target:
        for name, content in (("0.png", picture()), ("0.txt", b"one")):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            target.addfile(member, io.BytesIO(content))
        target.addfile(linked)
    assert captions(tmp_path / "a.tar") == ["one"]
    assert "links in shards passed over: 1" in told(caplog)
    with tarfile.open(tmp_path / "b.tar", "w", format=tarfile.PAX_FORMAT) as target:
        sparse = tarfile.TarInfo("1.png")
        sparse.pax_headers = {"GNU.sparse.map": "0,4", "GNU.sparse.size": "999999"}
        sparse.size = 4
        target.addfile(sparse, io.BytesIO(b"\x89PNG"))
    assert "holds 1.png as a sparse file" in refusal(tmp_path / "b.tar")
    with tarfile.open(tmp_path / "c.tar", "w") as target:
        for content in (picture(), b"newer"):
            member = tarfile.TarInfo("1.png")
            member.size = len(content)
            target.addfile(member, io.BytesIO(content))
    assert "holds 1.png twice" in refusal(tmp_path / "c.tar")
