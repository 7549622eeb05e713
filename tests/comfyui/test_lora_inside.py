"""LoRA files and embeddings: the tensors of ComfyUI's own patching, tokenizer and text encoder."""

import json
import subprocess
from pathlib import Path

import pytest
import torch
from embedding_files import OWN_KEYS, PROMPTS, write_embeddings
from live import PATH, PYTHON, missing
from lora_files import (
    LDM_STYLES,
    LINEAR,
    STYLES,
    dora,
    forms,
    random_lora,
    shapes,
    text_weights,
    unet_weights,
    write_lora,
)
from sd2_family.models.checkpoint import load_checkpoint
from tiny import write_checkpoint

pytestmark = pytest.mark.comfyui

CLOSE = 1e-5  # float32 sums in another order; and of a text encoder's output, attention by another kernel
KINDS = ("v1", "v2-base")
# ComfyUI 0.3.64 does not read the names of attention layers in these
READ = [style for style in STYLES if style not in ("diffusers, up and down", "peft in diffusers", "peft")]


FILES = [*READ, *(f"checkpoint, {style}" for style in LDM_STYLES), "forms", "lengths of rows", "differences"]
LAYERS = ("input_blocks.1.0.in_layers.2", "middle_block.1.transformer_blocks.0.ff.net.2")
WITH_TEXT = [style for style in READ if "text" in STYLES[style]] + ["differences"]


@pytest.fixture(scope="module")
def numbers(tmp_path_factory):
    if reason := missing():
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("inside")
    for kind in KINDS:
        write_embeddings(folder / kind / "embeddings", 64, OWN_KEYS[kind])
        write_loras(write_checkpoint(folder / f"{kind}.safetensors", kind), folder / kind / "loras")
    script = Path(__file__).parent / "inside_lora.py"
    done = subprocess.run([PYTHON, script, PATH, folder], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def write_loras(checkpoint, folder):
    file = load_checkpoint(checkpoint)
    ldm, text = file.unet.state_dict(), text_weights(file.text)
    for style in READ:
        tensors, _ = random_lora(shapes(unet_weights(file.unet)), STYLES[style]["unet"])
        if "text" in STYLES[style]:
            tensors |= random_lora(shapes(text, LINEAR), STYLES[style]["text"])[0]
        write_lora(folder / f"{style}.safetensors", tensors)
    for style, key in LDM_STYLES.items():
        tensors, _ = random_lora(shapes(ldm), key, dtype=torch.float16)
        write_lora(folder / f"checkpoint, {style}.pt", tensors)
    tensors = {}
    layers = [name for name in shapes(ldm) if ".in_layers" in name or ".ff.net" in name or "attn" in name]
    found = [list(forms(ldm[f"{name}.weight"].shape).values()) for name in layers]
    for index, (name, of_layer) in enumerate(zip(layers, found, strict=True)):
        factors, _ = of_layer[index % len(of_layer)]
        tensors |= {f"lora_unet_{name.replace('.', '_')}.{key}": tensor for key, tensor in factors.items()}
    write_lora(folder / "forms.safetensors", tensors)
    tensors = {}
    for index, name in enumerate(layers):
        factors, _ = dora(ldm[f"{name}.weight"].shape, index % 2)
        tensors |= {f"lora_unet_{name.replace('.', '_')}.{key}": tensor for key, tensor in factors.items()}
    write_lora(folder / "lengths of rows.safetensors", tensors)
    generator, tower = torch.Generator().manual_seed(0), f"text_encoders.{OWN_KEYS[checkpoint.stem]}.transformer."
    tensors = {}
    for prefix, weights in (("diffusion_model.", ldm), (tower, text)):
        for key, tensor in weights.items():
            layer, _, kind = key.rpartition(".")
            role = {"weight": "diff", "bias": "diff_b"}[kind]
            tensors[f"{prefix}{layer}.{role}"] = torch.randn(tensor.shape, generator=generator) / 9
    write_lora(folder / "differences.safetensors", tensors)


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("kind", KINDS)
def test_the_weights_with_a_file_are_comfyuis(numbers, kind, file):
    unet, text, unet_gap, text_gap = numbers[kind]["loras"][file]
    assert unet > 0.1
    assert (text > 0.1) == (file in WITH_TEXT)
    assert unet_gap <= CLOSE
    assert text_gap <= CLOSE


@pytest.mark.parametrize("prompt", PROMPTS)
@pytest.mark.parametrize("kind", KINDS)
def test_the_tokens_of_a_prompt_are_comfyuis(numbers, kind, prompt):
    assert numbers[kind]["tokens"][prompt]


@pytest.mark.parametrize("kind", KINDS)
def test_the_text_encoding_is_comfyuis_at_every_layer(numbers, kind):
    gaps = numbers[kind]["encoded"]
    assert len(gaps) >= 4 * len(PROMPTS)
    assert max(gaps.values()) <= CLOSE, gaps


def test_an_embedding_of_another_width_is_ignored_as_by_comfyui(numbers):
    assert all(numbers[kind]["other width"] <= CLOSE for kind in KINDS)
