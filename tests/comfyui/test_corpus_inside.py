"""Workflows that others made, here and in a real ComfyUI: the same pixels, with full-width random weights.

ComfyUI's own loaders know models by their full width. `SD2_CORPUS=folder pytest -m corpus tests/comfyui`; some 40 s
for each workflow and 15 GB of disk.
"""

import copy
import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoint_layouts import layout
from corpus import EMBEDDING, FOLDERS, IMAGES, SUFFIXES, _kind, _shape, _smaller
from live import Server as ComfyUI
from live import missing
from PIL import Image
from safetensors.torch import save_file
from sd2_family.backends import folders
from sd2_family.headless import graph
from sd2_family.headless.execute import Executor
from sd2_family.headless.library import LIBRARY
from sd2_family.headless.server import Server
from sd2_family.models.controlnet import ControlNet, ControlNetSpec
from sd2_family.models.specs import SPECS
from spandrel.architectures.ESRGAN import ESRGAN

pytestmark = [pytest.mark.corpus, pytest.mark.comfyui]

MOST = 30  # workflows; those with a ControlNet, a LoRA or an embedding first
CLOSE = 2  # of 255
WIDTH = 768  # of 1.x text


def random_weights(shapes, seed=0):
    """Weights that keep activations near 1, in float16."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for key, shape in shapes.items():
        noise = torch.randn(shape, generator=generator)
        if len(shape) > 1 and "embedding" not in key:
            noise *= noise[0].numel() ** -0.5
        else:
            noise = 0.1 * noise + float(key.endswith("weight") and len(shape) == 1)
        tensors[key] = noise.half()
    return tensors


class Models:
    """A models folder that fills with what workflows ask for."""

    def __init__(self, folder):
        self.folder = folder

    def provide(self, kind, target):
        """Write a file of the kind once, at a path in the folder."""
        path = self.folder / target
        if path.exists():
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        match kind:
            case "vae_name":
                shapes = layout("v1", "first_stage_model.")
                save_file(random_weights(shapes, 1), path)
            case "lora_name":
                name, rows = "middle_block.1.transformer_blocks.0.attn2.to_k", 1280
                text = "text_model_encoder_layers_3_mlp_fc1"
                save_file(
                    lora(f"lora_unet_{name.replace('.', '_')}", rows, WIDTH) | lora(f"lora_te_{text}", 3072, WIDTH),
                    path,
                )
            case "model_name":
                torch.manual_seed(4)
                save_file(ESRGAN(num_filters=8, num_blocks=1, scale=4).state_dict(), path)
            case "unet_name":
                save_file(random_weights(layout("v1", "model.diffusion_model.")), path)
            case "control_net_name":
                with torch.device("meta"):
                    network = ControlNet(ControlNetSpec(encoder=SPECS["v1"].unet))
                shapes = {f"control_model.{key}": tensor.shape for key, tensor in network.state_dict().items()}
                save_file(random_weights(shapes, 2), path)
            case "embedding":
                save_file({"emb_params": torch.randn(2, WIDTH, generator=torch.Generator().manual_seed(3)) / 10}, path)
            case _:
                save_file(random_weights(layout(kind)), path)


def lora(key, rows, columns):
    generator = torch.Generator().manual_seed(rows)
    up, down = torch.randn(rows, 4, generator=generator), torch.randn(4, columns, generator=generator) / columns**0.5
    return {f"{key}.lora_up.weight": up, f"{key}.lora_down.weight": down, f"{key}.alpha": torch.tensor(4.0)}


def prepared(workflow, models, pictures):
    """The workflow, small, with our names of its models, embeddings and pictures, all of which are there."""
    small = _smaller(workflow)
    kinds = {node["class_type"] for node in small.prompt.values()}
    for node in small.prompt.values():
        for name, value in node["inputs"].items():
            if not isinstance(value, str):
                continue
            if name in FOLDERS:
                kind = _kind(node["class_type"], value, kinds) if name == "ckpt_name" else name
                node["inputs"][name] = f"{kind}.safetensors"
                models.provide(kind, f"{FOLDERS[name]}/{kind}.safetensors")
            elif node["class_type"] in IMAGES and name == "image":
                node["inputs"][name] = "picture.png"
            elif EMBEDDING.search(value):
                node["inputs"][name] = EMBEDDING.sub("embedding:embedding", value)
                models.provide("embedding", "embeddings/embedding.safetensors")
            if name == "filename_prefix":
                node["inputs"][name] = "picture"
    return small


def chosen(corpus):
    """Workflows that run here, one of each structure: those with ControlNets, LoRAs and embeddings first."""
    found = {}
    for path in sorted(path for path in corpus.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file()):
        try:
            workflow = graph.read(path, LIBRARY)
        except graph.WorkflowError:
            continue
        kinds = {node["class_type"] for node in workflow.prompt.values()}
        if kinds <= set(LIBRARY.classes) and not any(kind.startswith("SD2") for kind in kinds):
            key = str([_shape(node) for node in workflow.prompt.values()])
            found.setdefault(key, (path.relative_to(corpus), workflow))
    text = {path: str(workflow.prompt) for path, workflow in found.values()}
    first = ("ControlNetApply", "LoraLoader", "embedding:")
    rank = {path: sum(word in words for word in first) for path, words in text.items()}
    return sorted(found.values(), key=lambda pair: (-rank[pair[0]], str(pair[0])))


def pictures_of(engine, workflow, output):
    """Run a workflow: the pictures that its output nodes show, in their order."""
    with folders.using(folders.Folders(models=output.parent / "models", input=output.parent / "in", output=output)):
        engine.check(workflow)
        shown = dict(engine.run(workflow))
    files = [image for node in sorted(shown) for image in shown[node].get("images", ())]
    return [np.asarray(Image.open(output / file["subfolder"] / file["filename"]).convert("RGB")) for file in files]


def test_the_same_pixels_as_in_comfyui(tmp_path, capsys):
    corpus = os.environ.get("SD2_CORPUS")
    if not corpus:
        pytest.skip("set SD2_CORPUS to a folder of workflows")
    if reason := missing():
        pytest.skip(reason)
    (tmp_path / "in").mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (8, 8, 4), np.uint8)
    Image.fromarray(noise, "RGBA").resize((64, 64), Image.Resampling.BICUBIC).save(tmp_path / "in" / "picture.png")
    models = Models(tmp_path / "models")
    server = ComfyUI(tmp_path / "comfyui")
    for kind in {*FOLDERS.values(), "embeddings"}:
        (models.folder / kind).mkdir(parents=True)
        (server.base / "models" / kind).rmdir() if (server.base / "models" / kind).exists() else None
        (server.base / "models" / kind).symlink_to(models.folder / kind, target_is_directory=True)
    here = Executor(LIBRARY)
    gaps, refused = {}, {}
    try:
        for path, workflow in chosen(Path(corpus)):
            if len(gaps) == MOST:
                break
            small = prepared(workflow, models, tmp_path / "in")
            if not hasattr(server, "process"):
                server.start()
            there = Server(f"http://127.0.0.1:{server.port}")
            try:
                ours = pictures_of(here, copy.deepcopy(small), tmp_path / "ours")
                theirs = pictures_of(there, copy.deepcopy(small), tmp_path / "theirs")
            except (ValueError, RuntimeError) as error:
                refused[str(path)] = re.sub(r"\s+", " ", str(error))[:160]
                continue
            assert len(ours) == len(theirs) > 0
            same = [a.shape == b.shape for a, b in zip(ours, theirs, strict=True)]
            gap = (
                max(int(abs(a.astype(int) - b).max()) for a, b in zip(ours, theirs, strict=True)) if all(same) else 255
            )
            gaps[str(path)] = gap, float(np.std(ours[0]))
            with capsys.disabled():
                print(f"{gap:4} of 255, spread {gaps[str(path)][1]:5.1f}  {path}", flush=True)
    finally:
        if hasattr(server, "process"):
            server.stop()
    with capsys.disabled():
        print(f"\n{len(gaps)} compared; not run in both: {refused}")
    assert len(gaps) >= MOST
    assert {path: gap for path, (gap, _) in gaps.items() if gap > CLOSE} == {}
