"""The stand-ins beside the stock nodes that they stand in for, in ComfyUI's process."""

import json
import re
import subprocess
from pathlib import Path

import pytest
from live import PATH, PYTHON, missing
from sd2_family.headless.stock import NODE_CLASS_MAPPINGS as STOCK
from sd2_family.headless.stock.core_sampler import CORE_SAMPLERS
from tiny import write_checkpoint

pytestmark = pytest.mark.comfyui

STANDS_FOR = 0, 3  # later versions draw another noise at each step, and describe their nodes elsewhere
EXACT = 1e-5  # the same formula in float32, on values near 1
CLOSE = 1e-4  # standard deviations of the latent; UniPC's last steps, to sigma 0.001, come to 6e-5


@pytest.fixture(scope="module")
def numbers(tmp_path_factory):
    if reason := missing():
        pytest.skip(reason)
    version = re.search(r'__version__ = "(\d+)\.(\d+)', (Path(PATH) / "comfyui_version.py").read_text())
    if (int(version[1]), int(version[2])) != STANDS_FOR:
        pytest.skip(f"the stand-ins have the numbers of ComfyUI 0.3; {PATH} is {version[1]}.{version[2]}")
    folder = tmp_path_factory.mktemp("stock") / "checkpoints"
    folder.mkdir()
    for kind in ("v2-base", "v2-inpaint", "unclip-h", "x4"):
        write_checkpoint(folder / f"{kind}.safetensors", kind)
    script = Path(__file__).parent / "inside_stock.py"
    done = subprocess.run([PYTHON, script, PATH, folder], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_inputs_outputs_and_names_are_comfyuis(numbers):
    assert numbers["schemas"] == {}


def test_nodes_that_only_compute_give_the_same_tensors(numbers):
    assert len(numbers["nodes"]) >= 32
    assert set(numbers["nodes"]) <= set(STOCK)
    assert {name: value for name, value in numbers["nodes"].items() if value > EXACT} == {}


def test_noise_levels_are_the_same_to_the_last_bit(numbers):
    assert set(numbers["sigmas"].values()) == {0.0}


def test_samplers_give_the_same_latents(numbers):
    assert {name.split(",")[0] for name in numbers["samplers"]} == set(CORE_SAMPLERS)
    assert {name: value for name, value in numbers["samplers"].items() if value > CLOSE} == {}


def test_areas_masks_and_ranges_give_the_same_latents(numbers):
    assert {name: gap for name, (gap, _) in numbers["regions"].items() if gap > CLOSE} == {}
    assert {name: effect for name, (_, effect) in numbers["regions"].items() if effect < 0.01} == {}


def test_pictures_condition_our_models_as_they_do_inside(numbers):
    assert {name: value for name, value in numbers["pictures"].items() if value > CLOSE} == {}


def test_upscale_models_make_the_same_pictures(numbers):
    assert len(numbers["upscaled"]) == 4
    assert {name: gap for name, (gap, _) in numbers["upscaled"].items() if gap > EXACT} == {}
    assert {name: contrast for name, (_, contrast) in numbers["upscaled"].items() if contrast < 0.05} == {}


def test_image_encoders_of_their_own_see_the_same(numbers):
    assert len(numbers["image encoders"]) == 4
    assert {name: gap for name, (gap, _) in numbers["image encoders"].items() if gap > CLOSE} == {}
    assert {name: contrast for name, (_, contrast) in numbers["image encoders"].items() if contrast < 0.3} == {}
