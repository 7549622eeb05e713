"""A checkpoint of the official size, with random weights: recognised, loaded, sampled. Slow: 2.6 GB and minutes."""

import subprocess
import sys

import pytest
import torch
from checkpoint_layouts import write_full_width
from sd2_family.models.checkpoint import load_checkpoint
from sd2_family.models.specs import SPECS

pytestmark = pytest.mark.slow

MEASURE = """
import resource, sys, time
from sd2_family.models import checkpoint, detection
rss = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
detection.inspect(sys.argv[1])  # import everything, warm the file cache
start, before = time.perf_counter(), rss()
loaded = checkpoint.load_checkpoint(sys.argv[1])
print(time.perf_counter() - start, rss() - before)
"""


@pytest.fixture(scope="module")
def full_width(tmp_path_factory):
    return write_full_width(tmp_path_factory.mktemp("checkpoints") / "512-inpainting-ema.safetensors", "v2-inpaint")


def test_loads_in_seconds_and_in_little_more_than_its_own_size(full_width):
    size = full_width.stat().st_size
    assert 2.5e9 < size < 2.7e9
    ran = subprocess.run([sys.executable, "-c", MEASURE, full_width], capture_output=True, text=True, check=True)
    seconds, grown = map(float, ran.stdout.split())
    assert seconds < 5
    assert grown < 1.2 * size


def test_samples_two_steps_at_512(full_width, monkeypatch):
    from sd2_family.nodes import NODE_CLASS_MAPPINGS as nodes

    monkeypatch.setenv("SD2_MODELS_DIR", str(full_width.parent))
    model, clip, vae, _, _, report = nodes["SD2CheckpointLoader"]().load(str(full_width), "auto", "auto")
    assert report.startswith("512-inpainting-ema.safetensors: v2-inpaint")
    assert model.spec == SPECS["v2-inpaint"]
    positive, negative = (nodes["SD2CLIPTextEncode"]().encode(clip, text)[0] for text in ("a red boat", ""))
    image, mask = torch.rand(1, 512, 512, 3), torch.zeros(1, 512, 512)
    mask[:, 128:384, 128:384] = 1
    prepared = nodes["SD2VAEEncodeForInpaint"]().encode(positive, negative, vae, image, mask)
    (latent,) = nodes["SD2KSampler"]().sample(model, 0, 2, 7.5, "ddim", "ldm", *prepared)
    (decoded,) = nodes["SD2VAEDecode"]().decode(latent, vae)
    assert decoded.shape == image.shape
    assert decoded.isfinite().all()


def test_every_official_part_is_there(full_width):
    checkpoint = load_checkpoint(full_width)
    assert {p.dtype for p in checkpoint.unet.parameters()} == {torch.float16}
    assert not any(p.requires_grad or p.is_meta for p in checkpoint.unet.parameters())
