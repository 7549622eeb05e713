"""ControlNets, merges and ModelSamplingDiscrete beside ComfyUI's own, on the same files."""

import json
import re
import subprocess
from pathlib import Path

import pytest
from live import PATH, PYTHON, missing
from lora_files import STYLES, random_lora, shapes, unet_weights, write_lora
from sd2_family.models.checkpoint import load_checkpoint
from tiny import write_checkpoint

pytestmark = pytest.mark.comfyui

EXACT = 1e-5  # float32 sums in another order, on weights near 1
CLOSE = 1e-4  # standard deviations of the latent
ROUNDED = 1e-3  # from a noise level of 4519, in float32
PIXELS = 2  # of 255
KINDS = ("v1", "v2-base")


@pytest.fixture(scope="module")
def numbers(tmp_path_factory):
    if reason := missing():
        pytest.skip(reason)
    version = re.search(r'__version__ = "(\d+)\.(\d+)', (Path(PATH) / "comfyui_version.py").read_text())
    if (int(version[1]), int(version[2])) != (0, 3):
        pytest.skip(f"the stand-ins have the numbers of ComfyUI 0.3; {PATH} is {version[1]}.{version[2]}")
    folder = tmp_path_factory.mktemp("control") / "checkpoints"
    folder.mkdir()
    for kind in KINDS:
        for number, suffix in enumerate(("", "-1", "-2")):
            path = write_checkpoint(folder / f"{kind}{suffix}.safetensors", kind, seed=10 * number)
        tensors, _ = random_lora(shapes(unet_weights(load_checkpoint(path).unet)), STYLES["kohya"]["unet"])
        write_lora(folder.parent / "loras" / f"{kind}.safetensors", tensors)
    script = Path(__file__).parent / "inside_control.py"
    done = subprocess.run([PYTHON, script, PATH, folder], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("kind", KINDS)
def test_controlnets_make_the_same_pictures(numbers, kind):
    found = numbers["controls"][kind]
    assert len(found) == 16
    assert {name: latent for name, (latent, _, _) in found.items() if latent > CLOSE} == {}
    assert {name: pixels for name, (_, pixels, _) in found.items() if pixels > PIXELS} == {}
    assert {name: effect for name, (*_, effect) in found.items() if effect < 0.05} == {}


@pytest.mark.parametrize("kind", KINDS)
def test_merges_have_the_same_weights(numbers, kind):
    found = numbers["merges"][kind]
    assert len(found) == 9
    assert {name: weights for name, (weights, _) in found.items() if weights > EXACT} == {}
    assert {name: change for name, (_, change) in found.items() if change < 0.1} == {}


def test_predictions_and_noise_levels_make_the_same_pictures(numbers):
    found = numbers["predictions"]
    assert len(found) == 36
    close = {name: ROUNDED if "zsnr True" in name else CLOSE for name in found}
    assert {name: latent for name, (latent, _, _) in found.items() if latent > close[name]} == {}
    assert {name: pixels for name, (_, pixels, _) in found.items() if pixels > PIXELS} == {}
