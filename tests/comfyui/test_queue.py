"""Workflows by every way in: the API queue, comfy-cli, `sd2 run --server`, and without ComfyUI."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from live import ROOT, difference, picture
from PIL import Image
from sd2_family.headless import graph
from sd2_family.headless.cli import main
from sd2_family.headless.image_files import image_text
from sd2_family.headless.library import LIBRARY
from shipped import WORKFLOWS, named, shortened

pytestmark = pytest.mark.comfyui

TOLERANCE = 2  # of 255: other kernels, and float32 noise levels in ComfyUI


@pytest.fixture(autouse=True)
def folder(server, tmp_path, monkeypatch, use_folders):
    use_folders(models=server.base / "models")
    monkeypatch.delenv("SD2_MODELS_DIR", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def sd2(server):
    return lambda *arguments: main(["run", *arguments, "--server", f"http://127.0.0.1:{server.port}"])


def comfy(server, *arguments):
    """What a command of comfy-cli answers."""
    home = {"HOME": str(server.base), "DO_NOT_TRACK": "1"}
    environment = {**os.environ, **home, "COMFY_LOCAL_URL": f"http://127.0.0.1:{server.port}"}
    command = [sys.executable, "-m", "comfy_cli", "--skip-prompt", "--json", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    answer = json.loads(done.stdout.splitlines()[-1])
    assert done.returncode == 0, answer
    return answer["data"]


def made_here(folder):
    return {path.relative_to(folder).as_posix(): picture(path) for path in folder.rglob("*.png")}


def embedded(path):
    """What ComfyUI opens when the picture is dropped on its canvas, and what it ran."""
    text = {key: json.loads(value) for key, value in image_text(path).items()}
    for node in text["prompt"].values():
        node.pop("is_changed", None)  # ComfyUI's own note of the files a node read
    return text


def made_there(server, prompt_id):
    """The pictures a job saved on the server, each under the name it has where nothing was saved before."""
    job = server.wait(prompt_id, timeout=600)
    assert job["status"]["status_str"] == "success"
    files = [file for shown in job["outputs"].values() for file in shown.get("images", ()) if file["type"] == "output"]
    return {
        re.sub(r"_\d+_\.", "_00001_.", file["filename"]): picture(server.base / "output" / file["filename"])
        for file in files
    }


def assert_same(ours, theirs):
    assert set(ours) == set(theirs)
    for name, pixels in ours.items():
        assert difference(pixels, theirs[name]) <= TOLERANCE, name


@pytest.mark.parametrize("path", WORKFLOWS, ids=named)
def test_every_way_in_makes_the_same_pictures(server, sd2, folder, path):
    workflow = str(shortened(path, folder))
    assert main(["run", workflow, "--output-dir", "here"]) == 0
    here = made_here(folder / "here")
    saved = {name: pixels for name, pixels in here.items() if not name.startswith("preview/")}
    assert saved
    assert all(pixels.std() > 5 for pixels in saved.values())

    assert sd2(workflow, "--output-dir", "there") == 0
    assert_same(here, made_here(folder / "there"))
    for name in saved:
        assert embedded(folder / "there" / name) == embedded(folder / "here" / name)

    assert_same(saved, made_there(server, server.queue(graph.read(folder / path.name, LIBRARY).prompt)))

    ran = comfy(server, "run", "--workflow", workflow, "--wait", "--timeout", 600)
    assert_same(saved, made_there(server, ran["prompt_id"]))


def test_comfy_cli_uploads_and_downloads(server, folder):
    Image.effect_noise((16, 16), 60).convert("RGB").save("comfy-cli.png")
    write({key: node for key, node in loads("comfy-cli.png").items() if key in ("1", "4")})
    comfy(server, "upload", "comfy-cli.png")
    ran = comfy(server, "run", "--workflow", "w.json", "--wait")
    comfy(server, "download", ran["prompt_id"], "--out-dir", "results")
    (file,) = (folder / "results").iterdir()
    assert difference(picture(file), picture(folder / "comfy-cli.png")) == 0


def loads(name):
    """API format: a picture and its mask, each saved as it is read."""
    return {
        "1": {"class_type": "LoadImage", "inputs": {"image": name}},
        "2": {"class_type": "LoadImageMask", "inputs": {"image": name, "channel": "alpha"}},
        "3": {"class_type": "MaskToImage", "inputs": {"mask": ["2", 0]}},
        "4": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "deep/er/picture"}},
        "5": {"class_type": "PreviewImage", "inputs": {"images": ["3", 0]}},
        "6": {"class_type": "PreviewAny", "inputs": {"source": ["2", 0]}, "_meta": {"title": "Say"}},
    }


def write(prompt):
    Path("w.json").write_text(json.dumps(prompt))


def test_local_pictures_and_masks_are_used(sd2, folder, capsys):
    random = np.random.default_rng(0)
    for name in ("photo.png", "clipspace/mask.png"):
        for where in ("one", "two"):  # the same name twice, with other pixels
            (folder / where / "clipspace").mkdir(parents=True, exist_ok=True)
            Image.fromarray(random.integers(0, 256, (24, 32, 4), np.uint8)).save(folder / where / name)
        write(loads(name))
        for where in ("one", "two", "one"):
            assert main(["run", "w.json", "--input-dir", where, "--output-dir", f"{where}/here"]) == 0
            said_here = capsys.readouterr()
            assert sd2("w.json", "--input-dir", where, "--output-dir", f"{where}/there") == 0
            said = capsys.readouterr()
            assert sorted(said.out.split()) == sorted(said_here.out.replace("/here/", "/there/").split())
            assert "Say: tensor(" in said.err
            here, there = (made_here(folder / where / side) for side in ("here", "there"))
            assert set(here) == set(there)
            assert max(difference(here[file], there[file]) for file in here) == 0


def test_a_picture_that_is_nowhere(sd2, capsys):
    write(loads("nowhere.png"))
    assert sd2("w.json") == 2
    said = capsys.readouterr().err
    assert said.count("'nowhere.png' is neither in the input folder") == 2


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("Checkpoint.ckpt_name=none.safetensors", 'Checkpoint": none.safetensors is not in '),
        ("Sampler.steps=0", "steps is 0; enter a value from 1 to "),
        ("Sampler.sampler_name=magic", "sampler_name is 'magic'; choose one of ddim"),
    ],
)
def test_what_the_server_refuses_is_said_as_without_it(sd2, capsys, setting, said):
    workflow = str(ROOT / "workflows" / "inpaint.json")
    assert sd2(workflow, "--set", setting) == 2
    refused = capsys.readouterr().err
    assert main(["run", workflow, "--set", setting]) == 2
    assert len(refused.splitlines()) == 1
    assert said in refused
    assert said in capsys.readouterr().err


def test_a_wrong_checkpoint_is_one_sentence_and_status_2(sd2, capsys):
    workflow = str(ROOT / "workflows" / "inpaint.json")
    assert sd2(workflow, "--set", "Checkpoint.ckpt_name=v2-base.safetensors") == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith('sd2: node 2 "Checkpoint": v2-base.safetensors is a checkpoint for text-to-image')
    assert "but Encode for inpainting needs one of kind v1-inpaint" in line


def test_a_node_that_fails_is_one_sentence_and_status_1(sd2, capsys):
    loader = {"ckpt_name": "v2-base.safetensors", "prediction": "auto", "dtype": "auto"}
    upscale = {"positive": ["2", 0], "negative": ["2", 0], "image": ["3", 0], "noise_level": 20, "seed": 1}
    write(
        {
            "1": {"class_type": "SD2CheckpointLoader", "inputs": loader},
            "2": {"class_type": "SD2CLIPTextEncode", "inputs": {"clip": ["1", 1], "text": "a house"}},
            "3": {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 64, "batch_size": 1, "color": 255}},
            "4": {"class_type": "SD2UpscaleConditioning", "inputs": upscale},
            "5": {"class_type": "SD2VAEDecode", "inputs": {"samples": ["4", 2], "vae": ["1", 2], "tile_size": 0}},
            "6": {"class_type": "SaveImage", "inputs": {"images": ["5", 0], "filename_prefix": "small"}},
        }
    )
    assert sd2("w.json") == 1
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("sd2: node ")
    assert "failed: the latent needs a vae that decodes at 4x, but this one decodes at 8x" in line


def test_what_a_node_says_is_the_same_there_and_here(sd2, caplog):
    mask = {"class_type": "SolidMask", "inputs": {"value": 0.3, "width": 64, "height": 64}}
    image = {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 64, "batch_size": 1, "color": 255}}
    inputs = {"threshold": 0.5, "grow": 0, "blur": 0, "fill_holes": False, "invert": False}
    crop = {"context": 1.2, "target_width": 0, "target_height": 0, "multiple_of": 8, "context_pixels": 0}
    write(
        {
            "1": mask,
            "2": image,
            "3": {"class_type": "SD2MaskPreprocess", "inputs": {"mask": ["1", 0], "image": ["2", 0], **inputs}},
            "4": {
                "class_type": "SD2InpaintCrop",
                "inputs": {"image": ["2", 0], "mask": ["3", 0], "holes": "one by one", **crop},
            },
            "5": {"class_type": "SaveImage", "inputs": {"images": ["4", 0], "filename_prefix": "crop"}},
        }
    )
    assert sd2("w.json") == 0
    there = list(caplog.messages)
    caplog.clear()
    assert main(["run", "w.json"]) == 0
    assert caplog.messages == there
    assert [line.split(",")[0].split(" after")[0] for line in there] == [
        "nothing is left of the mask",
        "the mask is empty",
    ]


def test_ctrl_c_stops_the_job(server, sd2, monkeypatch, capsys):
    steps = []

    def report(self, done, total):
        steps.append(done)
        if done == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr("sd2_family.headless.cli.Bars.report", report)
    asked = time.monotonic()
    assert sd2(str(ROOT / "workflows" / "inpaint.json"), "--set", "Sampler.steps=1000") == 130
    assert capsys.readouterr().err == "sd2: interrupted\n"
    assert steps[-1] == 3
    while server.get("/queue")["queue_running"]:
        time.sleep(0.05)
    assert time.monotonic() - asked < 60  # a thousand steps take minutes
    last = max(server.get("/history").values(), key=lambda job: job["prompt"][0])
    assert "execution_interrupted" in dict(last["status"]["messages"])
