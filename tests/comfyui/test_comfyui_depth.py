"""Depth to image in a real ComfyUI, with its own sampler and with ours."""

import json

import pytest
from live import REFUSED, Graph, difference, picture
from safetensors.torch import save_file
from sd2_family.headless.cli import main
from tiny import tiny_state

pytestmark = pytest.mark.comfyui

TOLERANCE = 2  # of 255: other kernels, and float32 noise levels in ComfyUI
SAMPLERS = ("SD2KSampler", "KSampler")


def loader(graph, name):
    return graph.add("SD2CheckpointLoader", ckpt_name=f"{name}.safetensors", prediction="auto", dtype="auto")


def depth_map(graph, image, name="v2-depth"):
    return graph.add("SD2DepthEstimate", depth_model=loader(graph, name)(4), image=image)()


def forest(graph):
    sample = graph.add("SD2SampleImage", name="forest.png")
    return graph.add("ImageScale", image=sample(), upscale_method="bicubic", width=96, height=64, crop="disabled")()


def sampled(graph, sampler, image, depth, model="v2-depth", denoise=0.7):
    """A run from a picture of 96 x 64, guided by a depth map where one is given: its node that saves."""
    file = loader(graph, model)
    sides = [graph.add("CLIPTextEncode", clip=file(1), text=text)() for text in ("a (red:1.2) house", "")]
    if depth:
        size = {"width": 96, "height": 64}
        guided = graph.add("SD2DepthConditioning", positive=sides[0], negative=sides[1], depth=depth, **size)
        sides = [guided(0), guided(1)]
    latent = graph.add("VAEEncode", pixels=image, vae=file(2))()
    widgets = {"seed": 3, "steps": 6, "cfg": 5.0, "sampler_name": "euler", "scheduler": "normal", "denoise": denoise}
    links = {"model": file(0), "positive": sides[0], "negative": sides[1], "latent_image": latent}
    samples = graph.add(sampler, **links, **widgets)()
    return graph.save(graph.add("VAEDecode", samples=samples, vae=file(2))())


@pytest.mark.parametrize("denoise", [0.7, 1.0])
def test_both_samplers_make_the_picture_that_is_made_without_comfyui(server, tmp_path, monkeypatch, denoise):
    graph = Graph()
    image = forest(graph)
    depth = depth_map(graph, image)
    saved = {name: sampled(graph, name, image, depth, denoise=denoise) for name in SAMPLERS}
    saved["map"] = graph.save(depth)
    for name, node in saved.items():
        graph[node]["inputs"]["filename_prefix"] = name
    pictures = server.run(graph)
    inside = {name: pictures[node] for name, node in saved.items()}
    assert inside["KSampler"].std() > 5
    assert difference(*(inside[name] for name in SAMPLERS)) <= TOLERANCE

    monkeypatch.chdir(tmp_path)
    (tmp_path / "w.json").write_text(json.dumps(graph))
    assert main(["run", "w.json", "--models-dir", str(server.base / "models")]) == 0
    for name, shown in inside.items():
        assert difference(shown, picture(tmp_path / "output" / f"{name}_00001_.png")) <= TOLERANCE


def test_the_map_has_an_effect(server):
    graph = Graph()
    image = forest(graph)
    flat = graph.add("EmptyImage", width=96, height=64, batch_size=1, color=0)()
    saved = [sampled(graph, "KSampler", image, depth) for depth in (depth_map(graph, image), flat)]
    pictures = server.run(graph)
    assert difference(*(pictures[node] for node in saved)) > 20


def test_the_estimator_comes_back_after_it_was_unloaded(server):
    def shown(name):
        graph = Graph()
        saved = graph.save(depth_map(graph, graph.add("SD2SampleImage", name=name)()))
        return server.run(graph)[saved]

    first = shown("forest.png")
    server.post("/free", {"unload_models": True})  # what was computed stays in the cache
    other = shown("beach.png")
    server.forget()
    assert difference(shown("forest.png"), first) == 0
    assert difference(other, first) > TOLERANCE


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize(("model", "task"), [("v2-base", "text-to-image"), ("unclip-h", "image variations")])
def test_a_map_for_another_model_is_refused(server, sampler, model, task):
    graph = Graph()
    image = forest(graph)
    sampled(graph, sampler, image, depth_map(graph, image), model=model)
    with pytest.raises(REFUSED, match=rf"{model}.safetensors is a checkpoint for {task} .*512-depth-ema"):
        server.run(graph)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_depth_model_without_a_map_is_refused(server, sampler):
    graph = Graph()
    sampled(graph, sampler, forest(graph), None)
    with pytest.raises(REFUSED, match=r"v2-depth.safetensors is .*put SD2 Depth Conditioning"):
        server.run(graph)


def test_a_file_without_an_estimator_is_refused(server):
    state = {key: tensor for key, tensor in tiny_state("v2-depth").items() if not key.startswith("depth_model.")}
    save_file(state, server.base / "models" / "checkpoints" / "no-midas.safetensors")
    graph = Graph()
    image = forest(graph)
    sampled(graph, "KSampler", image, depth_map(graph, image, "no-midas"))
    with pytest.raises(
        REFUSED,
        match=r"no-midas.safetensors has no depth estimator, which SD2DepthEstimate needs; choose 512-depth-ema",
    ):
        server.run(graph)
