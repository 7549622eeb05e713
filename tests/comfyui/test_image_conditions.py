"""unCLIP through ComfyUI's API queue: the same picture as without ComfyUI, stock nodes on our objects, errors."""

import json

import pytest
import torch
from live import REFUSED, Graph, difference, picture
from safetensors.torch import save_file
from sd2_family.headless.cli import main

pytestmark = pytest.mark.comfyui

TOLERANCE = 2  # of 255: other kernels, and float32 noise levels in ComfyUI


def variation(graph, loader, add, *, sampler="SD2KSampler", **values):
    """A sampled and saved variation; `add(conditioning)` puts pictures in."""
    text, negative = (graph.add("CLIPTextEncode", clip=loader(1), text=text)() for text in ("a house", ""))
    widgets = {"seed": 3, "steps": 4, "cfg": 4.0, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0}
    samples = graph.add(
        sampler,
        model=loader(0),
        positive=add(text),
        negative=negative,
        latent_image=graph.add("EmptyLatentImage", width=64, height=64, batch_size=2)(),
        **{**widgets, **values},
    )()
    return graph.save(graph.add("VAEDecode", samples=samples, vae=loader(2))())


def load(graph, name):
    return graph.add("SD2CheckpointLoader", ckpt_name=name, prediction="auto", dtype="auto")


def encoded(graph, clip_vision, sample="forest.png", crop="none"):
    image = graph.add("SD2SampleImage", name=sample)()
    return graph.add("CLIPVisionEncode", clip_vision=clip_vision, image=image, crop=crop)()


def ours(graph, conditioning, output, weight, level, seed=5):
    widgets = {"weight": weight, "noise_level": level, "seed": seed}
    return graph.add("SD2UnCLIPConditioning", conditioning=conditioning, clip_vision_output=output, **widgets)()


@pytest.mark.parametrize("kind", ["unclip-h", "unclip-l"])
def test_a_mix_gives_the_same_picture_as_without_comfyui(server, tmp_path, monkeypatch, kind):
    graph = Graph()
    loader = load(graph, f"{kind}.safetensors")
    outputs = encoded(graph, loader(3)), encoded(graph, loader(3), "beach.png", "center")

    def both(text):
        return ours(graph, ours(graph, text, outputs[0], 1.0, 200), outputs[1], -0.3, 50)

    saved = variation(graph, loader, both, sampler_name="ddim", scheduler="ldm")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "w.json").write_text(json.dumps(graph))
    assert main(["run", "w.json", "--models-dir", str(server.base / "models")]) == 0
    first = picture(sorted((tmp_path / "output").glob("*.png"))[0])
    assert first.std() > 5
    assert difference(server.run(graph)[saved], first) <= TOLERANCE


def test_stock_sampler_and_stock_node(server):
    graph = Graph()
    loader = load(graph, "unclip-h.safetensors")
    output = encoded(graph, loader(3))

    def theirs(text):
        values = {"strength": 1.0, "noise_augmentation": 0.2}
        return graph.add("unCLIPConditioning", conditioning=text, clip_vision_output=output, **values)()

    def same(text):  # the noise that ComfyUI draws for its own node and a sampler of seed 3
        return ours(graph, text, output, 0.4, 200, seed=2**64 - 7)

    saved = {
        "stock": variation(graph, loader, theirs, sampler="KSampler"),
        "our node": variation(graph, loader, same, sampler="KSampler"),
        "our sampler": variation(graph, loader, same),
        "no picture": variation(graph, loader, lambda text: text),
    }
    shown = server.run(graph)
    pictures = {name: shown[node] for name, node in saved.items()}
    # 1 each is seen: a single picture's weight of 0.4 cancels but for rounding
    assert difference(pictures["stock"], pictures["our node"]) <= TOLERANCE
    assert difference(pictures["stock"], pictures["our sampler"]) <= TOLERANCE
    assert difference(pictures["stock"], pictures["no picture"]) > 20


def test_embeddings_from_a_file(server):
    save_file({"image_embeds": torch.randn(1, 64)}, server.base / "input" / "prior.safetensors")
    graph = Graph()
    loader = load(graph, "unclip-h.safetensors")
    output = graph.add("SD2LoadImageEmbedding", file="prior.safetensors")()
    saved = variation(graph, loader, lambda text: ours(graph, text, output, 1.0, 0))
    assert server.run(graph)[saved].shape == (64, 64, 3)


def test_embeddings_from_here(server, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_file({"image_embeds": torch.randn(1, 64)}, "mine.safetensors")
    graph = Graph()
    loader = load(graph, "unclip-h.safetensors")
    output = graph.add("SD2LoadImageEmbedding", file="mine.safetensors")()
    variation(graph, loader, lambda text: ours(graph, text, output, 1.0, 0), sampler_name="ddim", scheduler="ldm")
    (tmp_path / "w.json").write_text(json.dumps(graph))
    assert main(["run", "w.json", "--models-dir", str(server.base / "models"), "--output-dir", "here"]) == 0
    assert main(["run", "w.json", "--server", f"http://127.0.0.1:{server.port}", "--output-dir", "there"]) == 0
    here, there = (sorted((tmp_path / side).glob("*.png")) for side in ("here", "there"))
    assert len(here) == len(there) == 2
    assert all(difference(picture(a), picture(b)) <= TOLERANCE for a, b in zip(here, there, strict=True))


@pytest.mark.parametrize("sampler", ["SD2KSampler", "KSampler"])
@pytest.mark.parametrize(
    ("model", "encoder", "message"),
    [
        (
            "v2-base",
            "v2-base",
            "v2-base.safetensors has no image encoder, which CLIPVisionEncode needs; choose sd21-unclip-h",
        ),
        ("v2-base", "unclip-h", "SD2UnCLIPConditioning needs one of kind unclip-h or unclip-l"),
        ("unclip-h", "unclip-l", "48-dim, but unclip-h.safetensors expects 64"),
    ],
)
def test_wrong_pairings_are_named_whatever_the_sampler(server, sampler, model, encoder, message):
    graph = Graph()
    output = encoded(graph, load(graph, f"{encoder}.safetensors")(3))
    variation(
        graph, load(graph, f"{model}.safetensors"), lambda text: ours(graph, text, output, 1.0, 0), sampler=sampler
    )
    with pytest.raises(REFUSED, match=message):
        server.run(graph)
