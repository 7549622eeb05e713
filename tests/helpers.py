"""What several tests do with the nodes: run one, make a picture, encode two prompts, sample."""

import json
from pathlib import Path
from types import SimpleNamespace

import torch
from sd2_family import NODE_CLASS_MAPPINGS

WIDGETS = {"seed": 5, "steps": 2, "cfg": 4.0, "sampler_name": "ddim", "scheduler": "ldm", "denoise": 1.0}


def call(node, *args, **kwargs):
    """Run a node, by its id; its outputs."""
    returned = getattr(NODE_CLASS_MAPPINGS[node](), NODE_CLASS_MAPPINGS[node].FUNCTION)(*args, **kwargs)
    return returned["result"] if isinstance(returned, dict) else returned


def declared(node):
    """A node's inputs, required and optional: name to (type, options)."""
    inputs = NODE_CLASS_MAPPINGS[node].INPUT_TYPES()
    return {**inputs["required"], **inputs.get("optional", {})}


def loaded(name, *widgets):
    """The outputs of SD2 Load Checkpoint by their names."""
    outputs = call("SD2CheckpointLoader", name, *widgets)
    return SimpleNamespace(**dict(zip(NODE_CLASS_MAPPINGS["SD2CheckpointLoader"].RETURN_NAMES, outputs, strict=True)))


def picture(height=64, width=64, count=1):
    """Noise, the same for the same size."""
    return torch.rand(count, height, width, 3, generator=torch.Generator().manual_seed(height + width))


def empty(count=1, height=8, width=8):
    """An empty latent, its size in latent pixels."""
    return {"samples": torch.zeros(count, 4, height, width)}


def prompts(file, *texts):
    """Both sides of a conditioning: two texts encoded by a loaded checkpoint's CLIP."""
    return tuple(call("SD2CLIPTextEncode", file.clip, text)[0] for text in texts or ("a (red:1.2) cat", ""))


def sample(file, positive, negative, latent, **widgets):
    """SD2 KSampler's latent."""
    links = {"positive": positive, "negative": negative, "latent_image": latent}
    return call("SD2KSampler", file.model, **links, **WIDGETS | widgets)[0]


def scaling():
    """A workflow as the canvas saves it: Load Image -> Upscale Image -> Save Image."""
    return {
        "last_node_id": 3,
        "last_link_id": 2,
        "nodes": [
            {"id": 1, "type": "LoadImage", "widgets_values": ["in.png", "image"]},
            {
                "id": 2,
                "type": "ImageScale",
                "title": "Scale",
                "inputs": [{"name": "image", "type": "IMAGE", "link": 1}],
                "widgets_values": ["nearest-exact", 16, 0, "disabled"],
            },
            {
                "id": 3,
                "type": "SaveImage",
                "inputs": [{"name": "images", "type": "IMAGE", "link": 2}],
                "widgets_values": ["big"],
            },
        ],
        "links": [[1, 1, 0, 2, 0, "IMAGE"], [2, 2, 0, 3, 0, "IMAGE"]],
        "version": 0.4,
    }


def write(data, name="w.json"):
    """Write JSON into the working directory."""
    Path(name).write_text(json.dumps(data))
