"""A real ComfyUI as a subprocess, with this pack as its only custom node, and small helpers to talk to it."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import torch
from PIL import Image

ROOT = Path(__file__).parent.parent.parent
PATH = Path(os.environ.get("COMFYUI_PATH") or Path.home() / "comfy" / "ComfyUI")
PYTHON = os.environ.get("COMFYUI_PYTHON", sys.executable)
QUERY = "model.diffusion_model.middle_block.1.transformer_blocks.0.attn2.to_q.weight"
FIRST = "cond_stage_model.model.transformer.resblocks.0.mlp.c_fc.weight"
TEXT = {"lora_te_text_model_encoder_layers_0_mlp_fc1": FIRST}
LORA_NAMES = {
    "ldm": {"lora_unet_middle_block_1_transformer_blocks_0_attn2_to_q": QUERY, **TEXT},
    "diffusers": {"lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_q": QUERY, **TEXT},
}
MODELS = ("checkpoints", "loras", "diffusion_models", "vae_approx", "embeddings")


def missing():
    """Why the tests cannot run, in one sentence; empty where they can."""
    if not (PATH / "main.py").is_file():
        return f"no ComfyUI at {PATH}; set COMFYUI_PATH to a checkout"
    needed = ("aiohttp", "alembic", "open_clip", "spandrel", "torch", "torchsde", "transformers", "yaml")
    look = f"import importlib.util as util; raise SystemExit(not all(map(util.find_spec, {needed})))"
    if subprocess.run([PYTHON, "-c", look]).returncode:
        return f"{PYTHON} lacks ComfyUI's requirements; set COMFYUI_PYTHON to a Python that has them"
    return ""


REFUSED = (ValueError, RuntimeError)  # before a prompt is queued, or by a node


class Server:
    """ComfyUI with its own folders under `base`."""

    def __init__(self, base):
        self.base = base
        for kind in MODELS:
            (base / "models" / kind).mkdir(parents=True)
        self.elsewhere = base / "elsewhere" / "sd"
        self.elsewhere.mkdir(parents=True)
        self.extra_paths = base / "extra.yaml"
        self.extra_paths.write_text(f"more:\n    base_path: {self.elsewhere.parent}\n    checkpoints: sd\n")
        (base / "custom_nodes").mkdir()
        (base / "input").mkdir()
        (base / "custom_nodes" / "sd2-family").symlink_to(ROOT, target_is_directory=True)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.log = base / "log.txt"

    def start(self):
        options = ["--cpu", "--listen", "127.0.0.1", "--port", str(self.port), "--base-directory", str(self.base)]
        options += ["--disable-auto-launch", "--preview-method", "latent2rgb", "--database-url", "sqlite:///:memory:"]
        options += ["--extra-model-paths-config", str(self.extra_paths)]
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [PYTHON, "main.py", *options], cwd=PATH, stdout=log, stderr=subprocess.STDOUT
            )
        deadline = time.monotonic() + 180
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                self.get("/object_info/SD2KSampler")
                return self
            except (urllib.error.URLError, ConnectionError):
                time.sleep(0.3)
        raise RuntimeError(f"ComfyUI did not start:\n{self.log.read_text()[-4000:]}")

    def stop(self):
        self.process.terminate()
        self.process.wait(20)

    def memory(self):
        """Bytes that the process holds itself, files it has mapped left out (Linux)."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.split("RssAnon:")[1].split()[0]) * 1024

    def get(self, path):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}") as answer:
            return json.load(answer)

    def post(self, path, content):
        url = f"http://127.0.0.1:{self.port}{path}"
        request = urllib.request.Request(url, json.dumps(content).encode(), {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request) as answer:
                return json.loads(answer.read() or "{}")
        except urllib.error.HTTPError as error:
            raise ValueError(error.read().decode()) from None

    def forget(self):
        """Free the models and what was computed. The thread that runs prompts looks at this wish after each of them;
        one that comes as it goes to sleep is seen only after the next, so that there is a next, of nothing."""
        self.post("/free", {"unload_models": True, "free_memory": True})
        graph = Graph()
        graph.add("PreviewImage", images=graph.add("EmptyImage", width=8, height=8, batch_size=1, color=0)())
        self.wait(self.queue(graph))

    def queue(self, prompt):
        return self.post("/prompt", {"prompt": prompt})["prompt_id"]

    def wait(self, prompt_id, timeout=120):
        """The history entry of a prompt that has ended."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            history = self.get(f"/history/{prompt_id}")
            if prompt_id in history:
                return history[prompt_id]
            time.sleep(0.05)
        raise TimeoutError(f"prompt {prompt_id} did not end in {timeout} s")

    def run(self, prompt, timeout=120):
        """The pictures a prompt saves, by node id: uint8 [H, W, 3]."""
        entry = self.wait(self.queue(prompt), timeout)
        messages = dict(entry["status"]["messages"])
        if "execution_error" in messages:
            raise RuntimeError(messages["execution_error"]["exception_message"].strip())
        assert entry["status"]["status_str"] == "success"
        return {
            node: picture(self.base / "output" / shown["images"][0]["filename"])
            for node, shown in entry["outputs"].items()
            if "images" in shown and shown["images"][0]["type"] == "output"
        }


def picture(path):
    return np.asarray(Image.open(path).convert("RGB"))


def difference(a, b):
    """The largest difference between two pictures, of 255."""
    assert a.shape == b.shape
    return int(np.abs(a.astype(int) - b.astype(int)).max())


class Graph(dict):
    """An API-format prompt: `add` gives a function of the output slot that makes links."""

    def add(self, class_type, **inputs):
        node_id = str(len(self) + 1)
        self[node_id] = {"class_type": class_type, "inputs": inputs}
        return lambda slot=0: [node_id, slot]

    def load(self, name, prediction="auto"):
        """(model, clip, vae) links of our loader."""
        loader = self.add("SD2CheckpointLoader", ckpt_name=name, prediction=prediction, dtype="auto")
        return loader(0), loader(1), loader(2)

    def save(self, image):
        return self.add("SaveImage", images=image, filename_prefix="test")()[0]


def sampled(graph, model, clip, vae, *, sampler="SD2KSampler", prompt="a red house", latent=None, **values):
    """A text-to-image branch: its node that saves. `values` replace the sampler's widgets."""
    positive = graph.add("CLIPTextEncode", clip=clip, text=prompt)()
    negative = graph.add("SD2CLIPTextEncode", clip=clip, text="")()
    latent = latent or graph.add("EmptyLatentImage", width=64, height=64, batch_size=1)()
    widgets = {"seed": 3, "steps": 4, "cfg": 5.0, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0}
    links = {"model": model, "positive": positive, "negative": negative, "latent_image": latent}
    samples = graph.add(sampler, **links, **{**widgets, **values})()
    return graph.save(graph.add("VAEDecode", samples=samples, vae=vae)())


def lora(names, shapes, rank=4):
    """A LoRA that is strong enough to see, the same numbers under other names. shapes: those of the layers, by key."""
    generator = torch.Generator().manual_seed(5)
    weights = {}
    for name, key in names.items():
        out, into = shapes[key]
        weights[f"{name}.lora_down.weight"] = torch.randn(rank, into, generator=generator) * into**-0.5
        weights[f"{name}.lora_up.weight"] = torch.randn(out, rank, generator=generator)
        weights[f"{name}.alpha"] = torch.tensor(float(rank))
    return weights
