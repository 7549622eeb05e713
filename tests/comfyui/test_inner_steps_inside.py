"""Inner steps in ComfyUI: its guider and our own give the same picture, on a SAMPLER wire too."""

import json

import pytest
from live import Graph, difference, picture, sampled
from sd2_family.headless.cli import main

pytestmark = pytest.mark.comfyui

TOLERANCE = 2  # of 255


def masked(graph, vae):
    sample = graph.add("SD2SampleImage", name="forest.png")
    latent = graph.add("VAEEncode", pixels=sample(0), vae=vae)()
    return graph.add("SetLatentNoiseMask", samples=latent, mask=sample(1))()


@pytest.mark.parametrize(
    ("kind", "sampler", "rescale"),
    [("v2-base", "ddim", 0.0), ("v2-v", "dpmpp_2m", 0.7), ("v1", "euler_ancestral", 0.0), ("unclip-h", "ddim", 0.0)],
)
def test_the_picture_is_that_without_comfyui(server, tmp_path, monkeypatch, kind, sampler, rescale):
    graph = Graph()
    model, clip, vae = graph.load(f"{kind}.safetensors")
    how = {"sampler_name": sampler, "cfg_rescale": rescale, "inner_steps": 2}
    sampled(graph, model, clip, vae, latent=masked(graph, vae), **how)
    (inside,) = server.run(graph).values()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "w.json").write_text(json.dumps(graph))
    assert main(["run", "w.json", "--models-dir", str(server.base / "models")]) == 0
    (file,) = (tmp_path / "output").glob("*.png")
    assert difference(inside, picture(file)) <= TOLERANCE


def test_a_sampler_wire_takes_them(server):
    graph = Graph()
    model, clip, vae = graph.load("v2-base.safetensors")
    text = [graph.add("CLIPTextEncode", clip=clip, text=text)() for text in ("a red house", "")]
    sample, how = graph.add("SD2SampleImage", name="forest.png"), {"sampler_name": "ddim", "inner_steps": 2}
    # its mask has the latent's size, so that ComfyUI does not resize it in its own way
    encoder = graph.add(
        "SD2VAEEncodeForInpaint", positive=text[0], negative=text[1], vae=vae, image=sample(0), mask=sample(1),
        fill="original", keep_unmasked=True,
    )  # fmt: skip
    latent = encoder(2)
    ours = sampled(graph, model, clip, vae, latent=latent, scheduler="ldm", **how)
    plain = sampled(graph, model, clip, vae, latent=latent, scheduler="ldm", sampler_name="ddim")
    custom = graph.add(
        "SamplerCustomAdvanced",
        noise=graph.add("RandomNoise", noise_seed=3)(),
        guider=graph.add("CFGGuider", model=model, positive=text[0], negative=text[1], cfg=5.0)(),
        sampler=graph.add("SD2Sampler", **how)(),
        sigmas=graph.add("SD2Scheduler", model=model, scheduler="ldm", steps=4, denoise=1.0)(),
        latent_image=latent,
    )
    custom = graph.save(graph.add("VAEDecode", samples=custom(), vae=vae)())
    pictures = server.run(graph)
    assert difference(pictures[ours], pictures[custom]) <= 1
    assert difference(pictures[ours], pictures[plain]) > TOLERANCE
