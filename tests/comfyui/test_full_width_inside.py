"""A checkpoint of the official size beside ComfyUI's own loader of the same file. Slow: 2.6 GB, read twice."""

import pytest
from checkpoint_layouts import layout, write_full_width
from live import LORA_NAMES, Graph, difference, lora, sampled
from safetensors.torch import save_file

pytestmark = [pytest.mark.comfyui, pytest.mark.slow]

NAME = "512-base-ema.safetensors"
TOLERANCE = 2  # of 255
STYLES = list(LORA_NAMES)


@pytest.fixture(scope="module")
def pictures(server):
    """By loader and what was done with its objects: 64 px, two steps."""
    write_full_width(server.base / "models" / "checkpoints" / NAME, "v2-base")
    for style, names in LORA_NAMES.items():
        save_file(lora(names, layout("v2-base")), server.base / "models" / "loras" / f"full-{style}.safetensors")
    saved = {}
    graph = Graph()
    latent = graph.add("EmptyLatentImage", width=64, height=64, batch_size=1)()
    core = graph.add("CheckpointLoaderSimple", ckpt_name=NAME)
    for loader, (model, clip, vae) in {"ours": graph.load(NAME), "core": [core(slot) for slot in range(3)]}.items():
        values = {"latent": latent, "steps": 2, "sampler_name": "euler", "scheduler": "normal"}
        saved[loader, "KSampler"] = sampled(graph, model, clip, vae, sampler="KSampler", **values)
        saved[loader, "SD2KSampler"] = sampled(graph, model, clip, vae, **values)
        for style in STYLES:
            changed = graph.add(
                "LoraLoader",
                model=model, clip=clip, lora_name=f"full-{style}.safetensors", strength_model=0.8, strength_clip=0.8,
            )  # fmt: skip
            saved[loader, style] = sampled(graph, changed(0), changed(1), vae, sampler="KSampler", **values)
        encoded = graph.add("SD2CLIPTextEncode", clip=clip, text="a house")()
        image = graph.add("SD2SampleImage", name="forest.png")
        inpaint = graph.add(
            "SD2VAEEncodeForInpaint",
            positive=encoded, negative=encoded, vae=vae, image=image(), mask=image(1), fill="original",
            keep_unmasked=True,
        )  # fmt: skip
        saved[loader, "VAE"] = graph.save(graph.add("SD2VAEDecode", samples=inpaint(2), vae=vae, tile_size=0)())
    images = server.run(graph, timeout=600)
    graph = Graph()
    latent = graph.add("EmptyLatentImage", width=64, height=64, batch_size=1)()
    # any denoise above 0.9999 is 1, and another value is not taken from the cache
    values = {"latent": latent, "steps": 2, "sampler": "KSampler", "denoise": 0.99995}
    afterwards = sampled(graph, *graph.load(NAME), **values)
    return {key: images[node] for key, node in saved.items()} | {"afterwards": server.run(graph)[afterwards]}


@pytest.mark.parametrize("what", ["KSampler", "SD2KSampler", *STYLES, "VAE"])
def test_same_picture_from_comfyuis_own_loader(pictures, what):
    assert pictures["ours", what].std() > 5
    assert difference(pictures["ours", what], pictures["core", what]) <= TOLERANCE


@pytest.mark.parametrize("style", STYLES)
def test_a_lora_shows_and_leaves_nothing_behind(pictures, style):
    assert difference(pictures["ours", style], pictures["ours", "KSampler"]) > TOLERANCE
    assert difference(pictures["afterwards"], pictures["ours", "KSampler"]) == 0
