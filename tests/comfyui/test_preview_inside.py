"""Previews during sampling in ComfyUI's process: the colors of the bundled models' latents."""

import json
import subprocess
from pathlib import Path

import pytest
from live import PATH, PYTHON, missing
from tiny import write_checkpoint

pytestmark = pytest.mark.comfyui


@pytest.fixture(scope="module")
def numbers(tmp_path_factory):
    if reason := missing():
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("preview")
    write_checkpoint(folder / "v2-base.safetensors", "v2-base")
    script = Path(__file__).parent / "inside_preview.py"
    done = subprocess.run([PYTHON, script, PATH, folder], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_a_preview_looks_like_the_image(numbers):
    assert len(numbers["errors"]) == 6
    assert max(numbers["errors"].values()) < 30  # RMS of 255; over 100 with Stable Diffusion 1.5's map


def test_a_file_that_states_no_map_keeps_comfyuis(numbers):
    assert numbers["official"] == [0.3512, 0.2297, 0.3227]
