"""The x4 upscaler in ComfyUI's process: beside ComfyUI's own with the same weights, and beside the headless run."""

import json
import subprocess
from pathlib import Path

import pytest
import torch
from live import PATH, PYTHON, missing
from safetensors.torch import load_file
from sd2_family import NODE_CLASS_MAPPINGS
from sd2_family.headless.stock import NODE_CLASS_MAPPINGS as STOCK
from sd2_family.pipeline import upscale
from tiny import write_checkpoint

pytestmark = pytest.mark.comfyui

# float32 on latents of magnitude 10 after four guided steps; attention is computed by another kernel
CLOSE = 2e-3
SEED = 101


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    if reason := missing():
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("models") / "checkpoints"
    folder.mkdir()
    for kind in ("x4", "v2-base"):
        write_checkpoint(folder / f"{kind}.safetensors", kind)
    return folder


@pytest.fixture(scope="module")
def numbers(folder):
    script = Path(__file__).parent / "inside_upscale.py"
    done = subprocess.run([PYTHON, script, PATH, folder], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize(
    "what",
    [
        "our node, stock sampler, core's model",
        "our node, our sampler, core's model",
        "core's node, stock sampler, our model",
        "core's node, our sampler, our model",
        "tiles, our sampler, core's model",
    ],
)
def test_same_result_as_comfyuis_own(numbers, what):
    assert numbers[what] <= CLOSE


@pytest.mark.parametrize("what", ["seed effect", "tiles effect", "stock tiles effect"])
def test_it_has_an_effect(numbers, what):
    assert numbers[what] > 0.05


def test_a_large_picture_reserves_the_memory_of_a_tile(numbers):
    assert numbers["memory of a larger picture"] == 1


def test_the_stock_sampler_refuses_wrong_pairings(numbers):
    assert numbers["no picture"].startswith("x4.safetensors is a checkpoint for x4 upscaling (kind x4), but a prompt")
    assert "without an image to upscale" in numbers["no picture"]
    assert numbers["plain model"].startswith("v2-base.safetensors is a checkpoint for text-to-image")
    assert numbers["depth map"].startswith("x4.safetensors is a checkpoint for x4 upscaling (kind x4), but the cond")
    assert "has a depth map" in numbers["depth map"]


def call(classes, name, *given, **inputs):
    return getattr(classes[name](), classes[name].FUNCTION)(*given, **inputs)


@pytest.mark.parametrize("name", ["whole", "stock", "tiles", "stock tiles"])
@torch.inference_mode()
def test_same_picture_as_without_comfyui(numbers, folder, monkeypatch, use_folders, name):
    inside = load_file(folder / "pictures.safetensors")[name]
    use_folders(models=folder.parent)
    if "tiles" in name:
        monkeypatch.setattr(upscale, "TILE", 16)
        monkeypatch.setattr(upscale, "OVERLAP", 8)
    ours = NODE_CLASS_MAPPINGS
    model, clip, vae, *_ = call(ours, "SD2CheckpointLoader", "x4.safetensors")
    image = torch.rand(1, 24, 40, 3, generator=torch.Generator().manual_seed(8))
    sides = [call(ours, "SD2CLIPTextEncode", clip, text)[0] for text in ("a red house", "")]
    *sides, latent = call(ours, "SD2UpscaleConditioning", *sides, image, noise_level=50, seed=SEED - 10)
    widgets = {"seed": SEED, "steps": 4, "cfg": 5.0, "sampler_name": "ddim", "scheduler": "ldm", "denoise": 1.0}
    if "stock" in name:
        widgets |= {"sampler_name": "euler", "scheduler": "normal"}
    links = {"model": model, "positive": sides[0], "negative": sides[1], "latent_image": latent}
    classes, sampler = (STOCK, "KSampler") if "stock" in name else (ours, "SD2KSampler")
    samples = call(classes, sampler, **links, **widgets)[0]
    picture = call(ours, "SD2VAEDecode", samples, vae)[0]
    assert picture.shape == inside.shape == (1, 96, 160, 3)
    assert inside.std() > 0.05
    assert (picture - inside).abs().max() <= 2 / 255
