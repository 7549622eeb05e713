"""Run by test_lora_inside.py in ComfyUI's own Python: LoRA files and embeddings by ComfyUI and by us, outside it.

Arguments: ComfyUI's folder, a folder with v1.safetensors and v2-base.safetensors, and for each of them a folder with
loras/ and embeddings/. Prints the largest differences as JSON.
"""

import importlib
import json
import sys

from embedded import FOLDER, gap, node, pack

# isort: split
import comfy.sd
import comfy.utils
import folder_paths
import torch

components = importlib.import_module("pack.pipeline.components")
apply_lora = importlib.import_module("pack.pipeline.apply_lora").apply_lora
assert pack

from embedding_files import PROMPTS  # noqa: E402
from tiny import hugging_face_text  # noqa: E402


def patched(patcher):
    """The weights of a ComfyUI model with its patches."""
    patcher.patch_model(torch.device("cpu"))
    weights = {key: tensor.clone() for key, tensor in patcher.model.state_dict().items()}
    patcher.unpatch_model(torch.device("cpu"))
    return weights


def unet_gap(core, ours):
    core = {key.removeprefix("diffusion_model."): tensor for key, tensor in core.items() if "diffusion_model" in key}
    assert core.keys() == ours.state_dict().keys()
    return max(gap(core[key], tensor) for key, tensor in ours.state_dict().items())


def text_gap(core, tower):
    core = {key.split(".transformer.")[1]: tensor for key, tensor in core.items() if ".text_model." in key}
    unread = ("model.text_projection", "model.logit_scale")
    ours = hugging_face_text({key: tensor for key, tensor in tower.state_dict().items() if key not in unread})
    assert core.keys() == ours.keys()
    return max(gap(core[key], tensor) for key, tensor in ours.items())


def loras(kind, core, ours, path):
    """[change of the UNet, of the text encoder, gap of the UNet, of the text encoder] for a file loaded twice."""
    model, clip = core
    ours_model, ours_clip = ours
    before = {key: tensor.clone() for key, tensor in model.model.state_dict().items()}
    text_before = {key: tensor.clone() for key, tensor in clip.patcher.model.state_dict().items()}
    for strengths in ((0.8, 0.6), (-0.3, 0.5)):
        file = comfy.utils.load_torch_file(str(path), safe_load=True)
        model, clip = comfy.sd.load_lora_for_models(model, clip, file, *strengths)
        ours_model, ours_clip = apply_lora(path, ours_model, ours_clip, *strengths)
    unet, text = patched(model), patched(clip.patcher)
    return [
        max(gap(unet[key], tensor) for key, tensor in before.items()),
        max(gap(text[key], tensor) for key, tensor in text_before.items()),
        unet_gap(unet, ours_model.changed_unet),
        text_gap(text, ours_clip.changed_tower),
    ]


def tokens(core, ours):
    """Whether ids, vectors and weights of every prompt are the same."""
    same = {}
    for name, text in PROMPTS.items():
        (theirs,) = core.tokenize(text).values()
        chunks = ours.tokenize(text)
        same[name] = len(theirs) == len(chunks) and all(
            len(batch) == len(chunk.tokens)
            and all(
                weight == own_weight and (torch.equal(token.float(), own) if torch.is_tensor(token) else token == own)
                for (token, weight), own, own_weight in zip(batch, chunk.tokens, chunk.weights, strict=True)
            )
            for batch, chunk in zip(theirs, chunks, strict=True)
        )
    return same


def encoding_gap(theirs, ours, text):
    expected = theirs.encode_from_tokens_scheduled(theirs.tokenize(text))[0][0]
    return gap(expected, ours.encode_from_tokens_scheduled(ours.tokenize(text))[0][0])


def encoded(core, ours, stops):
    """The gap of every prompt, at every layer that can be read."""
    gaps = {}
    for stop in stops:
        for name, text in PROMPTS.items():
            theirs, own = core.clone(), ours
            if stop is not None:
                theirs.clip_layer(stop)
                own = ours.with_stop(stop)
            gaps[f"{name} at {stop}"] = encoding_gap(theirs, own, text)
    return gaps


# of three layers; 12 in 1.x, where a workflow may ask for more, and in 2.x the 24 that the widget allows
STOPS = {"v1": (None, -1, -2, -3, -4, -24), "v2-base": (None, -1, -2, -3)}
numbers = {}
with torch.inference_mode():
    for kind in ("v1", "v2-base"):
        folder_paths.folder_names_and_paths["embeddings"] = ([str(FOLDER / kind / "embeddings")], set())
        core_model, core_clip, *_ = node("SD2CheckpointLoader", f"{kind}.safetensors")
        ours = components.load(FOLDER / f"{kind}.safetensors", embeddings=(FOLDER / kind / "embeddings",))
        numbers[kind] = {
            "loras": {
                path.stem: loras(kind, (core_model, core_clip), (ours.model, ours.clip), path)
                for path in sorted((FOLDER / kind / "loras").iterdir())
            },
            "tokens": tokens(core_clip, ours.clip),
            "encoded": encoded(core_clip, ours.clip, STOPS[kind]),
            "other width": encoding_gap(core_clip, ours.clip, "a cat embedding:wide in the snow"),
        }
sys.stdout.write("\n" + json.dumps(numbers) + "\n")
