"""Image files of every kind, through Load Image and Load Image (as Mask): pixels, masks, frames, refusals."""

import logging
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image
from sd2_family.headless.stock import NODE_CLASS_MAPPINGS as STOCK

GRAY, RGB, PALETTE = 0, 2, 3  # PNG's color types


@pytest.fixture(autouse=True)
def folder(tmp_path, use_folders):
    use_folders(input=tmp_path, output=tmp_path / "out")
    return tmp_path


def load(name):
    """Load Image's two outputs, its mask the one that Load Image (as Mask) gives."""
    image, mask = STOCK["LoadImage"]().load_image(name)
    (alone,) = STOCK["LoadImageMask"]().load_image(name, "alpha")
    assert torch.equal(alone, mask if mask.any() else torch.zeros(image.shape[:3]))
    for index, channel in enumerate(("red", "green", "blue")):
        assert torch.equal(STOCK["LoadImageMask"]().load_image(name, channel)[0], image[..., index])
    return image, mask


def write_png(path, pixels, depth, color, transparency, palette=b""):
    """A PNG of pixels [H,W] or [H,W,3] with `depth` bits each; Pillow writes no other depths with a color key."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width = pixels.shape[:2]
    bits = pixels.reshape(height, -1, 1) >> np.arange(depth)[::-1] & 1
    rows = (np.packbits(row.astype(np.uint8).ravel()).tobytes() for row in bits)
    chunks = [
        chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)),
        chunk(b"PLTE", palette) if palette else b"",
        chunk(b"tRNS", transparency),
        chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows))),
        chunk(b"IEND", b""),
    ]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))


@pytest.mark.parametrize("depth", [1, 2, 4, 8, 16])
def test_a_gray_is_transparent(folder, depth):
    top = 2**depth - 1
    values = np.random.default_rng(depth).integers(0, top, (5, 7), endpoint=True)
    key = int(values[2, 3])
    write_png(folder / "a.png", values, depth, GRAY, struct.pack(">H", key))
    image, mask = load("a.png")
    assert torch.equal(mask[0], torch.from_numpy(values == key).float())
    np.testing.assert_allclose(image[0, ..., 1].numpy(), values / top, atol=1e-6)


@pytest.mark.parametrize(
    ("depth", "key"), [(8, (1, 2, 3)), (16, (0, 0, 0)), (16, (0x0102, 0x0304, 0xFFFE)), (16, (257, 514, 771))]
)
def test_a_color_is_transparent(folder, depth, key):
    values = np.random.default_rng(0).integers(0x2000 if depth == 16 else 100, 2**depth, (5, 7, 3))
    values[1:3, 2:5] = key
    write_png(folder / "a.png", values, depth, RGB, struct.pack(">3H", *key))
    image, mask = load("a.png")
    expected = torch.zeros(5, 7)
    expected[1:3, 2:5] = 1
    assert torch.equal(mask[0], expected)
    np.testing.assert_allclose(image[0].numpy(), values / (2**depth - 1), atol=1 / 255)


@pytest.mark.parametrize("depth", [1, 4, 8])
def test_palette_entries_are_transparent(folder, depth):
    values = np.array([[0, 1, 1], [1, 0, 1]])
    write_png(folder / "a.png", values, depth, PALETTE, b"\x40\xff", bytes([10, 20, 30, 40, 50, 60]))
    image, mask = load("a.png")
    np.testing.assert_allclose(mask[0].numpy(), (values == 0) * (1 - 0x40 / 255), atol=1e-6)
    np.testing.assert_allclose(image[0, 0, :2].numpy() * 255, [[10, 20, 30], [40, 50, 60]], atol=1e-3)


@pytest.mark.parametrize("mode", ["P", "L", "RGBA"])
def test_transparency_in_a_gif(folder, mode):
    pixels = np.full((4, 6), 200, np.uint8)
    pixels[1:3, 2:4] = 7
    made = Image.fromarray(pixels)
    if mode == "P":
        made = made.convert("P")
        made.putpalette([value for gray in range(256) for value in (gray, 0, 0)])
    if mode == "RGBA":
        made = Image.merge("RGBA", [made, made, made, made.point(lambda gray: 255 * (gray != 7))])
        made.save(folder / "a.gif")
    else:
        made.save(folder / "a.gif", transparency=7)
    image, mask = load("a.gif")
    assert torch.equal(mask[0], torch.from_numpy(pixels == 7).float())
    assert image[0, 0, 0, 0] == pytest.approx(200 / 255)


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_transparency_that_pillow_writes(folder, mode):
    made = Image.effect_noise((9, 8), 60).convert(mode)
    key = made.getpixel((4, 4))
    made.save(folder / "a.png", transparency=key)
    _, mask = load("a.png")
    expected = (np.asarray(made).reshape(8, 9, -1) == key).all(-1)
    assert torch.equal(mask[0], torch.from_numpy(expected).float())


# Frames


@pytest.mark.parametrize("name", ["a.gif", "a.png", "a.webp", "a.tif"])
def test_frames_are_a_batch(folder, name):
    colors = [(250, 0, 0), (0, 250, 0), (0, 0, 250)]
    frames = [Image.new("RGB", (6, 4), color) for color in colors]
    options = {"lossless": True} if name == "a.webp" else {}
    frames[0].save(folder / name, save_all=True, append_images=frames[1:], duration=100, **options)
    image, mask = load(name)
    assert image.shape == (3, 4, 6, 3)
    np.testing.assert_allclose(image[:, 2, 3].numpy() * 255, colors, atol=1)
    assert not mask.any()


@pytest.mark.parametrize("modes", [("RGB", "RGBA"), ("LA", "L"), ("L", "CMYK"), ("F", "RGB"), ("I;16", "RGBA", "1")])
def test_frames_of_several_modes(folder, modes):
    white = {"F": 1.0, "I;16": 65535, "CMYK": (0, 0, 0, 0), "RGBA": (255, 255, 255, 64), "LA": (255, 64)}
    frames = [Image.new(mode, (6, 4), white.get(mode, "white")) for mode in modes]
    frames[0].save(folder / "a.tif", save_all=True, append_images=frames[1:])
    image, mask = load("a.tif")
    assert image.shape == (len(modes), 4, 6, 3)
    assert torch.equal(image, torch.ones_like(image))
    for mode, part in zip(modes, mask, strict=True):
        assert part.unique().tolist() == pytest.approx([1 - 64 / 255 if mode.endswith("A") else 0.0])


@pytest.mark.parametrize("sizes", [[(6, 4), (3, 2)], [(3, 2), (6, 4), (3, 2)], [(6, 4), (4, 6), (6, 5)]])
def test_frames_of_several_sizes_are_said_to_be_left_out(folder, sizes, caplog):
    frames = [Image.new("RGB", size, "red") for size in sizes]
    frames[0].save(folder / "a.tif", save_all=True, append_images=frames[1:])
    image, _ = STOCK["LoadImage"]().load_image("a.tif")
    same = sizes.count(sizes[0])
    assert image.shape == (same, sizes[0][1], sizes[0][0], 3)
    (record,) = caplog.records
    assert f"a.tif has {len(sizes)} frames of several sizes; only the {same} of" in record.getMessage()


# Modes


@pytest.mark.parametrize("name", ["a.tif", "a.png"])
def test_deep_grays(folder, name):
    values = np.array([[0, 1, 32768, 65535]], np.uint16)
    Image.fromarray(values).save(folder / name)
    image, _ = load(name)
    np.testing.assert_allclose(image[0, ..., 2].numpy(), values / 65535, atol=1e-7)


def test_floats_are_0_to_1(folder):
    values = np.array([[0, 0.25, 1], [-0.002, 1.003, 0.5]], np.float32)
    Image.fromarray(values).save(folder / "a.tif")
    image, _ = load("a.tif")
    np.testing.assert_allclose(image[0, ..., 0].numpy(), values.clip(0, 1), atol=1e-7)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (np.array([[0, 255]], np.float32), "holds floats from 0 to 255, but black is 0 and white 1; scale it"),
        (np.array([[-1, 1]], np.float32), "holds floats from -1 to 1,"),
        (np.array([[np.nan, 1]], np.float32), "holds floats from nan to nan,"),
        (np.array([[0, np.inf]], np.float32), "holds floats from 0 to inf,"),
        (np.array([[0, 100000]], np.int32), "holds whole numbers from 0 to 100000, but black is 0 and white 65535"),
        (np.array([[-1000, 1000]], np.int32), "holds whole numbers from -1000 to 1000,"),
    ],
)
def test_values_outside_the_scale_are_refused(folder, values, said):
    Image.fromarray(values).save(folder / "a.tif")
    with pytest.raises(ValueError, match=r"a\.tif") as refused:
        STOCK["LoadImage"]().load_image("a.tif")
    assert said in str(refused.value)
    with pytest.raises(ValueError, match=r"scale it to that range"):
        STOCK["LoadImageMask"]().load_image("a.tif", "red")


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "LAB"])
def test_color_modes(folder, mode):
    white = Image.new("RGBA", (6, 4), (255, 255, 255, 64))
    made = Image.new("LAB", (6, 4), (255, 128, 128)) if mode == "LAB" else white.convert(mode)
    made.save(folder / "a.tif")
    image, mask = load("a.tif")
    assert image.shape == (1, 4, 6, 3)
    assert image.min() > 0.99
    assert mask.max() == pytest.approx(1 - 64 / 255 if mode.endswith("A") else 0.0)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(("name", "mode"), [("a.png", "RGB"), ("a.tif", "RGB"), ("a.tif", "L"), ("a.tif", "RGBA")])
def test_every_orientation_is_turned_upright(folder, name, mode, orientation):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 4), np.uint8)
    made = Image.fromarray(pixels).convert(mode)
    exif = Image.Exif()
    exif[0x0112] = orientation
    made.save(folder / name, exif=exif)
    stored = np.asarray(made.convert("RGB"))
    upright = {  # Exif 2.3, table 6: where the stored row 0 and column 0 are in the picture
        1: stored,
        2: stored[:, ::-1],
        3: stored[::-1, ::-1],
        4: stored[::-1],
        5: stored.swapaxes(0, 1),
        6: stored[::-1].swapaxes(0, 1),
        7: stored[::-1, ::-1].swapaxes(0, 1),
        8: stored.swapaxes(0, 1)[::-1],
    }[orientation]
    image, _ = load(name)
    np.testing.assert_allclose(image[0].numpy() * 255, upright, atol=1e-4)


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.tif", "a.webp"])
def test_a_cut_off_file_is_refused(folder, name):
    Image.effect_noise((64, 64), 60).convert("RGB").save(folder / name)
    whole = (folder / name).read_bytes()
    (folder / name).write_bytes(whole[: len(whole) * 2 // 3])
    with pytest.raises(ValueError, match=r"is (a damaged|not a readable) image"):
        STOCK["LoadImage"]().load_image(name)


# Folders


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("a.png", "a.png"),
        ("a.png [input]", "a.png"),
        ("deep/er/a.png [output]", "out/deep/er/a.png"),
        ("a.png [output]", "out/a.png"),
        ("a.png [temp]", "out/preview/a.png"),
    ],
)
def test_names_of_folders(folder, name, path):
    for node in ("LoadImage", "LoadImageMask"):
        with pytest.raises(ValueError, match=r"is not in the (input|output|preview) folder"):
            STOCK[node].VALIDATE_INPUTS(name)
    (folder / path).parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (6, 4), "red").save(folder / path)
    assert STOCK["LoadImage"].VALIDATE_INPUTS(name)
    image, _ = load(name)
    assert image[0, 0, 0].tolist() == [1, 0, 0]
    before = STOCK["LoadImage"].IS_CHANGED(name)
    Image.new("RGB", (60, 40), "red").save(folder / path)
    assert STOCK["LoadImage"].IS_CHANGED(name) != before


@pytest.mark.parametrize("suffix", [" [output]", " [temp]"])
def test_names_stay_in_their_folder(folder, suffix):
    Image.new("RGB", (6, 4)).save(folder / "a.png")
    with pytest.raises(ValueError, match=r"is outside"):
        STOCK["LoadImage"].VALIDATE_INPUTS(f"../../a.png{suffix}")


def test_nothing_is_said_of_an_ordinary_image(folder, caplog):
    caplog.set_level(logging.INFO, "sd2_family")
    for size in ((6, 4), (64, 64)):
        Image.new("RGB", size).save(folder / "a.png")
        STOCK["LoadImage"]().load_image("a.png")
        STOCK["LoadImageMask"]().load_image("a.png", "red")
        assert not caplog.records
        STOCK["LoadImageMask"]().load_image("a.png", "alpha")
        assert "a.png has no alpha channel, so the mask is empty; choose channel red" in caplog.text
        caplog.clear()
