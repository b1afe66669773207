"""Pictures as people have them: what each mode, note and format becomes, and what is refused."""

import io
import os
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms, features
from torch import Tensor

from mitune.core.errors import UserError
from mitune.core.images import decode_image, read_images

SIZE = (4, 4)


def encoded(image: Image.Image, format: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def colour(image: Image.Image, format: str = "PNG", **options: Any) -> list[float]:
    """The one colour that a picture of one colour has."""
    pixels = decode_image(encoded(image, format, **options), "p", SIZE)
    assert (pixels.dtype, tuple(pixels.shape)) == (torch.float32, (3, *SIZE))
    assert torch.equal(pixels, pixels[:, :1, :1].expand_as(pixels))
    found: list[float] = pixels[:, 0, 0].tolist()
    return found


def palette(*colours: int) -> Image.Image:
    image = Image.new("P", (8, 8), 1)
    image.putpalette([0, 0, 0, *colours])
    return image


def sixteen(value: int) -> Image.Image:
    return Image.fromarray(np.full((8, 8), value, np.uint16))


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (Image.new("1", (8, 8), 1), [1, 1, 1]),
        (Image.new("L", (8, 8), 51), [0.2, 0.2, 0.2]),
        (Image.new("RGB", (8, 8), (255, 51, 0)), [1, 0.2, 0]),
        (palette(255, 51, 0), [1, 0.2, 0]),
        (sixteen(0), [0, 0, 0]),
        (sixteen(32768), [32768 / 65535] * 3),
        (sixteen(1), [1 / 65535] * 3),
        (sixteen(65535), [1, 1, 1]),
        # On white: 0.4 of black, 0.4 of red.
        (Image.new("LA", (8, 8), (0, 102)), [0.6, 0.6, 0.6]),
        (Image.new("RGBA", (8, 8), (255, 0, 0, 102)), [1, 0.6, 0.6]),
        (Image.new("RGBA", (8, 8), (0, 255, 0, 0)), [1, 1, 1]),
        (Image.new("RGBA", (8, 8), (255, 51, 0, 255)), [1, 0.2, 0]),
    ],
    ids=lambda value: value.mode if isinstance(value, Image.Image) else None,
)
def test_every_mode_of_png_has_its_right_value(image: Image.Image, expected: list[float]) -> None:
    assert colour(image) == pytest.approx(expected, abs=1e-6)


def test_a_transparent_colour_is_the_background_too() -> None:
    for image, key in (
        (palette(0, 0, 0), 1),
        (palette(0, 0, 0), b"\xff\0"),
        (Image.new("L", (8, 8), 9), 9),
        (Image.new("RGB", (8, 8), (9, 8, 7)), (9, 8, 7)),
        (sixteen(500), 500),
    ):
        assert colour(image, transparency=key) == [1, 1, 1]
    assert colour(sixteen(0), transparency=500) == [0, 0, 0]


def test_what_nobody_sees_changes_nothing() -> None:
    seen = []
    for hidden in ((0, 255, 0), (90, 0, 17)):
        pixels = np.zeros((32, 32, 4), np.uint8)
        pixels[..., :3] = hidden
        pixels[8:20, 4:14] = 220, 40, 40, 255
        for format in ("PNG", "WEBP"):
            options = {} if format == "PNG" else {"lossless": True, "exact": True}
            content = encoded(Image.fromarray(pixels), format, **options)
            seen.append(decode_image(content, "p", (32, 32)))
    assert all(torch.equal(seen[0], other) for other in seen[1:])
    assert torch.equal(seen[0][:, 25, 25], torch.ones(3))


def test_jpeg_in_grey_and_in_printers_inks() -> None:
    assert colour(Image.new("L", (8, 8), 51), "JPEG") == pytest.approx([0.2] * 3, abs=0.01)
    # (1 - ink) (1 - black), with inks of 1, 0.6, 0 and a black of 0.2.
    inks = Image.new("CMYK", (8, 8), (255, 153, 0, 51))
    assert colour(inks, "JPEG", quality=100) == pytest.approx([0, 0.32, 0.8], abs=0.01)


def test_the_first_picture_of_a_cameras_file_counts() -> None:
    photograph, depth = Image.new("RGB", (8, 8), "red"), Image.new("RGB", (8, 8), "blue")
    options: dict[str, Any] = {"save_all": True, "append_images": [depth], "quality": 100}
    assert colour(photograph, "MPO", **options) == pytest.approx([1, 0, 0], abs=0.01)


@pytest.mark.parametrize("format", ["PNG", "WEBP"])
def test_an_animation_is_refused(format: str) -> None:
    frames = [Image.new("RGB", (8, 8), shade) for shade in ("red", "blue")]
    content = encoded(frames[0], format, save_all=True, append_images=frames[1:])
    with pytest.raises(UserError, match="picture p is an animation of 2 frames"):
        decode_image(content, "p", SIZE)


CORNERS = torch.tensor([[0.0, 1 / 3], [2 / 3, 1.0]])


@pytest.mark.parametrize(
    ("orientation", "expected"),
    [
        (1, CORNERS),
        (2, CORNERS.flip(1)),
        (3, CORNERS.flip(0, 1)),
        (4, CORNERS.flip(0)),
        (5, CORNERS.T),
        (6, CORNERS.rot90(-1)),
        (7, CORNERS.flip(0, 1).T),
        (8, CORNERS.rot90(1)),
        (0, CORNERS),
        (77, CORNERS),
    ],
)
def test_the_side_that_is_up(orientation: Any, expected: Tensor) -> None:
    grey = Image.fromarray((CORNERS * 255).round().byte().numpy())
    exif = Image.Exif()
    exif[0x0112] = orientation
    for image in (grey, sixteen(0)):
        if image is not grey:
            image = Image.fromarray((CORNERS * 65535).round().numpy().astype(np.uint16))
        found = decode_image(encoded(image, exif=exif), "p", (2, 2))
        assert torch.allclose(found, expected.expand(3, 2, 2), atol=1e-6)


@pytest.mark.parametrize(
    "exif",
    [b"", b"Exif\0\0", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0garbage" * 9, b"\0" * 99],
    ids=["none", "empty", "no offset", "garbage", "zeros"],
)
@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP"])
def test_notes_that_make_no_sense_are_passed_over(format: str, exif: bytes) -> None:
    image = Image.new("RGB", (8, 8), "blue")
    options = {"lossless": True} if format == "WEBP" else {}
    assert colour(image, format, exif=exif, **options) == pytest.approx([0, 0, 1], abs=0.02)


def test_a_colour_profile_is_not_applied() -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    for icc in (profile, b"no profile"):
        assert colour(Image.new("RGB", (8, 8), (51, 0, 255)), icc_profile=icc) == pytest.approx(
            [0.2, 0, 1]
        )


@pytest.mark.parametrize("shape", [(1, 1), (1, 9000), (9000, 1), (3, 8)])
def test_small_and_narrow_pictures(shape: tuple[int, int]) -> None:
    assert colour(Image.new("RGB", shape, "red")) == [1, 0, 0]
    assert colour(Image.fromarray(np.full(shape, 65535, np.uint16))) == [1, 1, 1]


def test_a_resized_16_bit_picture_stays_within_its_range() -> None:
    step = np.zeros((64, 64), np.uint16)
    step[:, 29:] = 65535
    found = decode_image(encoded(Image.fromarray(step)), "p", (16, 16))
    assert (found.min(), found.max()) == (0, 1)
    eight = Image.fromarray((step // 257).astype(np.uint8))
    plain = decode_image(encoded(eight), "p", (16, 16))
    assert (found - plain).abs().max() <= 1 / 255


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "it is empty"),
        (b"GIF89a", "it is a GIF file"),
        (encoded(Image.new("RGB", (8, 8)), "GIF"), "it is a GIF file"),
        (encoded(Image.new("RGB", (8, 8)), "BMP"), "it is a BMP file"),
        (encoded(Image.new("RGB", (8, 8)), "TIFF"), "it is a TIFF file"),
        (b"\0\0\0\x1cftypavif" + b"\0" * 40, "it is a AVIF file"),
        (b"\0\0\0\x1cftypheic" + b"\0" * 40, "it is a HEIC file"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "it is a SVG file"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
        (b"text", "of no such format"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_other_formats_are_called_by_their_names(content: bytes, words: str) -> None:
    with pytest.raises(UserError, match="picture a\\.jpg cannot be read") as caught:
        decode_image(content, "a.jpg", SIZE)
    assert words in str(caught.value)
    assert "expected a whole JPEG, PNG or WebP file" in str(caught.value)


def test_the_name_of_a_file_says_nothing_about_its_format(tmp_path: Path) -> None:
    red = Image.new("RGB", (8, 8), "red")
    (tmp_path / "a.jpg").write_bytes(encoded(red))
    (tmp_path / "b.png").write_bytes(encoded(red, "WEBP", lossless=True))
    found = read_images([tmp_path / "a.jpg", tmp_path / "b.png"], SIZE)
    assert torch.equal(found[0], found[1])
    assert features.check("webp")


def test_a_picture_beyond_the_limit_is_one_line(tmp_path: Path) -> None:
    Image.new("1", (20000, 10000)).save(tmp_path / "big.png")
    with pytest.raises(UserError, match=r"big\.png cannot be read \(it has more than \d+ pixels\)"):
        read_images([tmp_path / "big.png"], SIZE)


@pytest.mark.filterwarnings("error")
def test_a_large_picture_is_read_without_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 40)  # 64 pixels: Pillow would warn
    assert colour(Image.new("RGB", (8, 8), "red")) == [1, 0, 0]


def test_what_is_no_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    (tmp_path / "dangling.png").symlink_to(tmp_path / "nowhere")
    with socket.socket(socket.AF_UNIX) as server:
        place = os.getcwd()
        os.chdir(tmp_path)  # a socket's name must be short
        try:
            server.bind("socket.png")
        finally:
            os.chdir(place)
    for name, words in {
        "pipe.png": "it is a pipe",
        "folder.png": "it is a folder",
        "loop.png": "symbolic links",
        "socket.png": "cannot be read",
        "dangling.png": "does not exist",
        "absent.png": "does not exist",
        "zero\0byte.png": "null byte",
    }.items():
        with pytest.raises(UserError) as caught:
            read_images([tmp_path / name], SIZE)
        assert words in str(caught.value), name
        assert str(caught.value).isprintable()
    with pytest.raises(UserError, match="it is a pipe, socket or device"):
        read_images([Path("/dev/zero")], SIZE)


def test_a_message_names_any_file_in_one_line(tmp_path: Path) -> None:
    for name, shown in {
        b"two\nlines.png": r"two\nlines.png",
        b"b\xff.png": r"b\udcff.png",
        b"esc\x1b[31m.png": r"esc\x1b[31m.png",
        "line\u2028end.png".encode(): r"line\u2028end.png",
        "é 'quoted'.png".encode(): "é 'quoted'.png",
    }.items():
        path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name))
        path.write_bytes(b"")
        with pytest.raises(UserError) as caught:
            read_images([path], SIZE)
        assert f"{shown} cannot be read (it is empty)" in str(caught.value)
        assert str(caught.value).isprintable()
