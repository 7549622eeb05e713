"""Invisible watermarks: the pixels of the reference scripts, read back, at a stated distance from the image."""

import logging
import sys

import numpy as np
import pytest
import torch
from helpers import call
from sd2_family.pipeline import watermark
from torch.nn import functional as F

PSNR = 39.0  # dB, of the change on a textured image; measured 40 to 41


def textured(height=512, width=512, count=1, *, color=0.05):
    """Noise of several sizes, like the detail of a photo; the method suits images with little color."""
    generator = torch.Generator().manual_seed(height)
    noise = [torch.rand(count, 3, 2**octave, 2**octave, generator=generator) for octave in range(1, 8)]
    sizes = enumerate(F.interpolate(one, size=(height, width), mode="bicubic") for one in noise)
    image = sum(0.6**octave * one for octave, one in sizes)
    image = (image - image.min()) / (image.max() - image.min())
    return image.mean(1, keepdim=True).lerp(image, color).movedim(1, -1)


def reference(image, message):
    """put_watermark of scripts/txt2img.py, on an 8-bit image."""
    cv2, imwatermark = pytest.importorskip("cv2"), pytest.importorskip("imwatermark")
    encoder = imwatermark.WatermarkEncoder()
    encoder.set_watermark("bytes", message.encode("utf-8"))
    marked = encoder.encode(cv2.cvtColor(image, cv2.COLOR_RGB2BGR), "dwtDct")
    return marked[:, :, ::-1]


@pytest.mark.parametrize("size", [(512, 512), (256, 256), (300, 517)])
def test_pixels_are_the_references_and_can_be_read(size, caplog):
    pytest.importorskip("imwatermark")
    image = textured(*size, count=2)
    (marked,) = call("SD2Watermark", image)
    for before, after in zip(image, marked, strict=True):
        eight_bits = (before * 255).round().byte().numpy()
        assert np.array_equal((after * 255).round().byte().numpy(), reference(eight_bits, "SDV2"))
    assert call("SD2ReadWatermark", marked) == ("SDV2\nSDV2",)
    assert call("SD2ReadWatermark", image) == ("\n",)
    assert -10 * torch.log10((marked - image).square().mean()) > PSNR
    assert caplog.messages == []


def test_it_survives_the_file_that_comfyui_saves():
    pytest.importorskip("imwatermark")
    (marked,) = call("SD2Watermark", textured())
    saved = (255.0 * marked.numpy()).astype(np.uint8)  # Save Image cuts instead of rounding
    assert np.array_equal(saved, (marked * 255).round().byte().numpy())


def test_another_text_of_any_length_that_fits():
    pytest.importorskip("imwatermark")
    text = "StableDiffusionV1"
    (marked,) = call("SD2Watermark", textured(), text)
    assert call("SD2ReadWatermark", marked, 17) == (text,)
    assert call("SD2ReadWatermark", marked, 4) != (text,)


def test_colors_that_do_not_hold_it_are_said(caplog):
    pytest.importorskip("imwatermark")
    caplog.set_level(logging.WARNING, "sd2_family")
    call("SD2Watermark", torch.cat([textured(256, 256), textured(256, 256, color=1.0)]))
    assert len(caplog.messages) == 1
    assert "cannot be read back from image 2, because its colors are too flat" in caplog.messages[0]


@pytest.mark.parametrize(
    ("size", "text", "sentence"),
    [
        ((255, 256), "SDV2", "the image is 256 x 255, and a watermark needs 256 x 256 pixels; upscale it first"),
        ((1, 1), "SDV2", "the image is 1 x 1, and a watermark needs"),
        ((1, 70000), "SDV2", "the image is 70000 x 1, and a watermark needs"),
        ((256, 256), "", "the watermark's text is 0 bytes long; an image of 256 x 256 holds 1 to 128"),
        ((256, 256), "é" * 70, "the watermark's text is 140 bytes long"),
    ],
)
def test_what_cannot_be_marked_is_one_sentence(size, text, sentence):
    with pytest.raises(ValueError, match=sentence):
        watermark.put(torch.rand(1, *size, 3), text)


@pytest.mark.parametrize("node", ["SD2Watermark", "SD2ReadWatermark"])
def test_without_the_package(node, monkeypatch):
    monkeypatch.setitem(sys.modules, "imwatermark", None)
    with pytest.raises(ValueError, match=r"pip install invisible-watermark"):
        call(node, textured(256, 256))
