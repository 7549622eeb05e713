"""`sd2 run workflows/inpaint.json` on the bundled checkpoint, and what it says to bad input."""

import json
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from sd2_family.headless.cli import main
from sd2_family.nodes.sample_image import SAMPLES
from tiny import write_checkpoint

ROOT = Path(__file__).parent.parent
WORKFLOW = ROOT / "workflows" / "inpaint.json"
(SAMPLER,) = (node["id"] for node in json.loads(WORKFLOW.read_text())["nodes"] if node["type"] == "SD2KSampler")
DEMO = ROOT / "models" / "demo" / "sd2-demo-inpaint.safetensors"


@pytest.fixture(autouse=True)
def _own_folders(tmp_path, monkeypatch):
    (tmp_path / "models" / "checkpoints").mkdir(parents=True)
    (tmp_path / "input").mkdir()


@pytest.fixture
def run(tmp_path, capsys):
    """Run the shipped workflow with settings: (status, the picture or None, what was said)."""

    def run(*settings, workflow=WORKFLOW):
        arguments = ["run", str(workflow), "--output-dir", str(tmp_path / "out")]
        arguments += ["--models-dir", str(tmp_path / "models"), "--input-dir", str(tmp_path / "input")]
        status = main([*arguments, *(word for setting in settings for word in ("--set", setting))])
        printed = capsys.readouterr()
        paths = printed.out.split()
        picture = np.asarray(Image.open(paths[-1]).convert("RGB")) if status == 0 else None
        return status, picture, printed.err

    return run


@pytest.fixture
def own_picture(tmp_path):
    """The shipped workflow with Load Image in place of the bundled picture."""

    def own_picture(image="picture.png", mask="mask.png"):
        graph = {}
        from sd2_family.headless import graph as reader
        from sd2_family.headless.library import LIBRARY

        graph = reader.read(WORKFLOW, LIBRARY).prompt
        (sample,) = (key for key, node in graph.items() if node["class_type"] == "SD2SampleImage")
        graph[sample] = {"class_type": "LoadImage", "inputs": {"image": image}}
        graph["mask"] = {"class_type": "LoadImageMask", "inputs": {"image": mask, "channel": "red"}}
        for node in graph.values():
            if node["inputs"].get("mask") == [sample, 1]:
                node["inputs"]["mask"] = ["mask", 0]
        path = tmp_path / "own.json"
        path.write_text(json.dumps(graph))
        return path

    return own_picture


def bundled(name):
    return Image.open(SAMPLES / f"{name}.png").convert("RGB"), Image.open(SAMPLES / f"{name}_mask.png").convert("L")


def test_only_the_mask_changes_and_soon(run):
    start = time.perf_counter()
    status, picture, said = run()
    assert status == 0, said
    assert time.perf_counter() - start < 60
    name = next(n for n in json.loads(WORKFLOW.read_text())["nodes"] if n["type"] == "SD2SampleImage")
    image, mask = bundled(Path(name["widgets_values"][0]).stem)
    outside = np.asarray(mask.resize(image.size)) == 0
    # the workflow feathers the mask by a few pixels: beyond them the picture is the input's own
    from sd2_family.pipeline import masks

    blur = next(n for n in json.loads(WORKFLOW.read_text())["nodes"] if n["type"] == "SD2MaskPreprocess")
    _, _, width, *_ = blur["widgets_values"]
    soft = masks.feather(torch.from_numpy(~outside).float()[None], width)[0].numpy()
    assert (picture == np.asarray(image))[soft == 0].all()
    assert (soft == 0).mean() > 0.3
    assert np.abs(picture.astype(int) - np.asarray(image))[~outside].mean() > 10


def test_the_same_seed_gives_the_same_picture_and_another_another(run):
    _, first, _ = run("Sampler.steps=4")
    _, again, _ = run("Sampler.steps=4")
    _, other, _ = run("Sampler.steps=4", "Sampler.seed=8")
    assert (first == again).all()
    assert (first != other).any()


@pytest.mark.parametrize("mode", ["RGBA", "I;16", "CMYK", "L", "P"])
def test_pictures_of_any_mode(run, own_picture, tmp_path, mode):
    image, mask = bundled("beach")
    if mode == "I;16":
        Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257).save(tmp_path / "input/picture.png")
    else:
        image.convert(mode).save(tmp_path / "input" / ("picture.tif" if mode == "CMYK" else "picture.png"))
    mask.save(tmp_path / "input" / "mask.png")
    graph = own_picture("picture.tif" if mode == "CMYK" else "picture.png")
    status, picture, said = run(f"{SAMPLER}.steps=2", workflow=graph)
    assert status == 0, said
    expected = np.asarray(image.convert("L" if mode == "I;16" else mode).convert("RGB")).astype(int)
    assert np.abs(picture[-20:, -20:] - expected[-20:, -20:]).mean() < 2  # CMYK is rounded twice


def test_a_mask_of_another_size_is_resized(run, own_picture, tmp_path):
    image, mask = bundled("beach")
    image.save(tmp_path / "input" / "picture.png")
    mask.resize((300, 300)).save(tmp_path / "input" / "mask.png")
    status, picture, said = run(f"{SAMPLER}.steps=2", workflow=own_picture())
    assert status == 0, said
    assert picture.shape == (128, 128, 3)


def test_an_empty_mask_gives_the_input_and_says_so(run, own_picture, tmp_path, caplog):
    image, mask = bundled("beach")
    image.save(tmp_path / "input" / "picture.png")
    Image.new("L", mask.size).save(tmp_path / "input" / "mask.png")
    status, picture, _ = run(workflow=own_picture())
    assert status == 0
    assert (picture == np.asarray(image)).all()
    assert "the mask is empty, so nothing is repainted" in caplog.text


class Runs:
    def __reduce__(self):
        return eval, ("__import__('pathlib').Path('ran').touch()",)


def truncated(path):
    path.write_bytes(DEMO.read_bytes()[:100_000])


def runs_code(path):
    torch.save({"state_dict": Runs()}, path)


def lora(path):
    save_file({"lora_unet_mid_block_attentions_0_proj_in.lora_down.weight": torch.zeros(4, 8)}, path)


def text_to_image(path):
    write_checkpoint(path, "v2-base")


def nan(path):
    state = load_file(DEMO)
    state["model.diffusion_model.out.2.bias"][0] = float("nan")
    save_file(state, path)


@pytest.mark.parametrize(
    ("name", "make", "sentence"),
    [
        ("short.safetensors", truncated, "is incomplete"),
        ("evil.ckpt", runs_code, "would run"),
        ("style.safetensors", lora, "is a LoRA"),
        ("base.safetensors", text_to_image, "kind v2-base"),
        ("nan.safetensors", nan, "has NaN"),
    ],
)
def test_a_bad_checkpoint_is_one_sentence_and_status_2(run, tmp_path, monkeypatch, name, make, sentence):
    monkeypatch.chdir(tmp_path)
    make(tmp_path / "models" / "checkpoints" / name)
    status, _, said = run(f"Checkpoint.ckpt_name={name}")
    line = said.strip().splitlines()[-1]
    assert (status, "Traceback" in said) == (2, False), said
    assert sentence in line
    assert name in line
    assert not (tmp_path / "ran").exists()
    assert not list((tmp_path / "out").glob("*")) if (tmp_path / "out").exists() else True


def test_a_text_to_image_file_is_told_which_kind_is_wanted(run, tmp_path):
    text_to_image(tmp_path / "models" / "checkpoints" / "base.safetensors")
    _, _, said = run("Checkpoint.ckpt_name=base.safetensors")
    assert "v2-inpaint (512-inpainting-ema)" in said


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [("Sampler.steps=0", "steps"), ("Sampler.cfg=much", "cfg"), ("Sampler.sampler_name=dimm", "ddim")],
)
def test_a_bad_value_is_status_2(run, setting, sentence):
    status, _, said = run(setting)
    assert status == 2
    assert sentence in said


def test_an_unknown_node_and_a_path_out_of_the_input_folder_are_both_told(run, own_picture):
    path = own_picture(image="../../secret.png")
    graph = json.loads(path.read_text())
    graph["99"] = {"class_type": "Teleport", "inputs": {}}
    graph["100"] = {"class_type": "PreviewImage", "inputs": {"images": ["99", 0]}}
    path.write_text(json.dumps(graph))
    status, _, said = run(workflow=path)
    assert status == 2
    assert "Teleport" in said
    assert "../../secret.png" in said
