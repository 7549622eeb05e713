"""`sd2 run --comfyui` on a real ComfyUI: graphs with nodes that run only there."""

import json
import time
from pathlib import Path

import numpy as np
import pytest
from comfy_cli.config_manager import ConfigManager
from controlnet_files import adapter
from live import PATH, PYTHON, ROOT, Graph, difference, missing, picture, sampled
from PIL import Image
from safetensors.torch import save_file
from sd2_family.headless.cli import main
from sd2_family.headless.image_files import image_text
from tiny import write_checkpoint

pytestmark = pytest.mark.comfyui

CHANNELS = 64  # of the first level of the tiny UNets


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Folders for ComfyUI with this pack, and a models folder."""
    if reason := missing():
        pytest.skip(reason)
    place = tmp_path_factory.mktemp("own")
    (place / "base" / "custom_nodes").mkdir(parents=True)
    (place / "base" / "custom_nodes" / "sd2-family").symlink_to(ROOT, target_is_directory=True)
    for kind in ("checkpoints", "controlnet"):
        (place / "models" / kind).mkdir(parents=True)
    write_checkpoint(place / "models" / "checkpoints" / "v2-base.safetensors", "v2-base")
    save_file(adapter(CHANNELS), place / "models" / "controlnet" / "adapter.safetensors")
    return place


@pytest.fixture(autouse=True)
def folder(place, tmp_path, monkeypatch):
    """The working directory; comfy-cli's ComfyUI is the one of these tests."""
    defaults = ConfigManager().config["DEFAULT"]
    monkeypatch.setitem(defaults, "default_workspace", str(PATH))
    monkeypatch.setitem(defaults, "default_launch_extras", f"--base-directory {place / 'base'} --port 1")
    monkeypatch.setenv("VIRTUAL_ENV", str(Path(PYTHON).parent.parent))
    monkeypatch.chdir(tmp_path)
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)).save("in.png")
    return tmp_path


@pytest.fixture
def run(place, folder):
    """run(graph, node): the picture that a node of a graph saves."""

    def run(graph, *arguments):
        Path("w.json").write_text(json.dumps(graph))
        before = set(Path("output").glob("*"))
        assert main(["run", "w.json", "--comfyui", "--models-dir", str(place / "models"), *arguments]) == 0
        (made,) = set(Path("output").iterdir()) - before
        return folder / made

    return run


def controlled(graph):
    model, clip, vae = graph.load("v2-base.safetensors")
    image = graph.add("LoadImage", image="in.png")()
    net = graph.add("ControlNetLoader", control_net_name="adapter.safetensors")()
    sides = {name: graph.add("CLIPTextEncode", clip=clip, text=name)() for name in ("positive", "negative")}
    applied = graph.add(
        "ControlNetApplyAdvanced",
        **sides,
        control_net=net,
        image=image,
        strength=1.0,
        start_percent=0.0,
        end_percent=1.0,
    )
    return sampled_with(graph, model, vae, applied(0), applied(1))


def sampled_with(graph, model, vae, positive, negative):
    latent = graph.add("EmptyLatentImage", width=64, height=64, batch_size=1)()
    widgets = {"seed": 3, "steps": 4, "cfg": 5.0, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0}
    links = {"model": model, "positive": positive, "negative": negative, "latent_image": latent}
    return graph.save(graph.add("VAEDecode", samples=graph.add("SD2KSampler", **links, **widgets)(), vae=vae)())


def patched(graph):
    model, clip, vae = graph.load("v2-base.safetensors")
    return sampled(graph, graph.add("FreeU_V2", model=model, b1=1.3, b2=1.4, s1=0.9, s2=0.2)(), clip, vae)


def rescaled(graph):
    model, clip, vae = graph.load("v2-base.safetensors")
    changed = graph.add("FreeU", model=model, b1=1.1, b2=1.2, s1=0.9, s2=0.2)()
    return sampled(graph, graph.add("RescaleCFG", model=changed, multiplier=0.7)(), clip, vae)


def shrunk(graph):
    model, clip, vae = graph.load("v2-base.safetensors")
    widgets = {"block_number": 1, "downscale_factor": 2.0, "start_percent": 0.0, "end_percent": 0.35}
    methods = {"downscale_after_skip": True, "downscale_method": "bicubic", "upscale_method": "bicubic"}
    return sampled(graph, graph.add("PatchModelAddDownscale", model=model, **widgets, **methods)(), clip, vae)


def custom(graph):
    model, clip, vae = graph.load("v2-base.safetensors")
    sides = {name: graph.add("CLIPTextEncode", clip=clip, text=name)() for name in ("positive", "negative")}
    samples = graph.add(
        "SamplerCustom",
        model=model,
        add_noise=True,
        noise_seed=3,
        cfg=5.0,
        **sides,
        sampler=graph.add("SD2Sampler", sampler_name="plms")(),
        sigmas=graph.add("KarrasScheduler", steps=4, sigma_max=14.6, sigma_min=0.03, rho=7.0)(),
        latent_image=graph.add("EmptyLatentImage", width=64, height=64, batch_size=1)(),
    )()
    return graph.save(graph.add("VAEDecode", samples=samples, vae=vae)())


def quantized(graph):
    blurred = graph.add("ImageBlur", image=graph.add("LoadImage", image="in.png")(), blur_radius=3, sigma=1.0)()
    return graph.save(graph.add("ImageQuantize", image=blurred, colors=8, dither="none")())


@pytest.mark.parametrize("build", [shrunk, patched, rescaled, custom, quantized])
def test_nodes_that_run_only_in_comfyui(run, capsys, build):
    graph = Graph()
    build(graph)
    Path("w.json").write_text(json.dumps(graph))
    assert main(["run", "w.json"]) == 2
    assert "needs ComfyUI" in capsys.readouterr().err
    started = time.monotonic()
    path = run(graph)
    said = capsys.readouterr()
    assert said.out == f"output/{path.name}\n"
    assert "Starting ComfyUI" in said.err
    assert json.loads(image_text(path)["prompt"]).keys() == graph.keys()
    assert picture(path).std() > 3
    assert time.monotonic() - started < 300


def test_a_t2i_adapter_runs_only_in_comfyui(run, place, capsys):
    graph = Graph()
    controlled(graph)
    Path("w.json").write_text(json.dumps(graph))
    assert main(["run", "w.json", "--models-dir", str(place / "models")]) == 2
    said = capsys.readouterr().err
    assert "adapter.safetensors is a T2I-Adapter, which runs only in ComfyUI; run the workflow with --comfyui" in said
    assert picture(run(graph)).std() > 3


def test_it_is_the_same_picture_as_here_without_the_node(run, place):
    graph = Graph()
    model, clip, vae = graph.load("v2-base.safetensors")
    sampled(graph, model, clip, vae)
    Path("w.json").write_text(json.dumps(graph))
    assert main(["run", "w.json", "--models-dir", str(place / "models"), "--output-dir", "here"]) == 0
    (here,) = Path("here").iterdir()
    assert difference(picture(run(graph)), picture(here)) <= 2
    graph = Graph()
    controlled(graph)
    assert difference(picture(run(graph)), picture(here)) > 2
