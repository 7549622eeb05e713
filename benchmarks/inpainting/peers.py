"""Who else repaints the cases: ComfyUI's own nodes and other packs, on a ComfyUI server, with our checkpoints.

Each result goes the way of a user's: a prompt through the API queue, image and mask as 8-bit files in and out. The
loader's node stays the same from case to case, so the server keeps the model.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from ...backends import folders
from ...headless.graph import Workflow
from ...pipeline.stable_diffusion import INPAINT_CFG
from ...training.dataset import SIZE
from ...training.export import FILES
from .cases import Case, Pixels, is_soft
from .contenders import SEEDS, Paint

if TYPE_CHECKING:  # it needs packages of comfy-cli
    from ...headless.server import Server

Link = list[str | int]
STEPS = 30
TIMEOUT = 60  # of an upload in seconds
HIGH_CFG = 7.5  # a common default
IMAGE, MASK = "image.png", "mask.png"
FOLDER = "sd2-benchmark"  # in the server's input folder
PACKS = {  # by the beginning of their nodes' names
    "SD2": "this pack",
    "Inpaint": "lquesada/ComfyUI-Inpaint-CropAndStitch",
    "INPAINT_": "Acly/comfyui-inpaint-nodes",
    "LanPaint_": "scraed/LanPaint",
}
CROP = {  # the pack's defaults, but for the size and the blend
    "downscale_algorithm": "bilinear",
    "upscale_algorithm": "bicubic",
    "preresize": False,
    "preresize_mode": "ensure minimum resolution",
    "preresize_min_width": 1024,
    "preresize_min_height": 1024,
    "preresize_max_width": 16384,
    "preresize_max_height": 16384,
    "mask_fill_holes": True,
    "mask_expand_pixels": 0,
    "mask_invert": False,
    "mask_hipass_filter": 0.1,
    "extend_for_outpainting": False,
    "extend_up_factor": 1.0,
    "extend_down_factor": 1.0,
    "extend_left_factor": 1.0,
    "extend_right_factor": 1.0,
    "context_from_mask_extend_factor": 1.2,
    "output_resize_to_target_size": True,
    "output_padding": "32",
    "device_mode": "gpu (much faster)",
}


@dataclass
class Graph:
    """A prompt in API format that repaints one case: its nodes so far, and the links that every contender takes."""

    case: Case
    cfg: float
    checkpoint: str
    prompt: dict[str, dict[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        loader = self.add("SD2CheckpointLoader", ckpt_name=self.checkpoint, prediction="auto", dtype="auto")
        self.model, self.clip, self.vae = loader(0), loader(1), loader(2)
        self.image = self.add("LoadImage", image=f"{FOLDER}/{IMAGE}")()
        self.mask = self.add("LoadImageMask", image=f"{FOLDER}/{MASK}", channel="red")()
        self.positive = self.add("CLIPTextEncode", clip=self.clip, text=self.case.prompt)()
        self.negative = self.add("CLIPTextEncode", clip=self.clip, text="")()

    def add(self, class_type: str, **inputs: object) -> Callable[..., Link]:
        """Add a node; the result makes links to its outputs, by default the first."""
        node_id = str(len(self.prompt) + 1)
        self.prompt[node_id] = {"class_type": class_type, "inputs": inputs}
        return lambda slot=0: [node_id, slot]

    def sample(self, latent: Link, positive: Link, negative: Link, node: str = "KSampler", **settings: object) -> Link:
        """Sample and decode: the link of the image. settings: of the node, where they differ from the plain ones."""
        plain = {"sampler_name": "ddim", "scheduler": "ddim_uniform", "denoise": self.case.denoise}
        values = {"seed": self.case.seed % SEEDS, "steps": STEPS, "cfg": self.cfg, **plain, **settings}
        links = {"model": self.model, "positive": positive, "negative": negative, "latent_image": latent}
        return self.add("VAEDecode", samples=self.add(node, **links, **values)(), vae=self.vae)()

    def condition(self, node: str, image: Link, mask: Link, **settings: object) -> Callable[..., Link]:
        """A node that makes an inpainting model's conditioning: links to positive, negative and latents."""
        sides = {"positive": self.positive, "negative": self.negative, "vae": self.vae}
        return self.add(node, **sides, pixels=image, mask=mask, **settings)

    def paste(self, painted: Link, mask: Link) -> Link:
        place = {"x": 0, "y": 0, "resize_source": False}
        return self.add("ImageCompositeMasked", destination=self.image, source=painted, mask=mask, **place)()


Draw = Callable[[Graph], Link]


def _repaint(graph: Graph, image: Link, mask: Link) -> Link:
    """Our conditioning and sampler: the generated image."""
    sides = {"positive": graph.positive, "negative": graph.negative, "vae": graph.vae}
    fill = {"fill": "original", "keep_unmasked": True}
    encoded = graph.add("SD2VAEEncodeForInpaint", **sides, image=image, mask=mask, **fill)
    settings = {"sampler_name": "ddim", "scheduler": "ldm", "eta": 0.0, "cfg_rescale": 0.0}
    return graph.sample(encoded(2), encoded(0), encoded(1), node="SD2KSampler", **settings)


def ours(graph: Graph) -> Link:
    """The nodes of workflows/inpaint.json; a soft mask stays soft."""
    level = 0.0 if is_soft(graph.case) else 0.5
    clean = {"threshold": level, "grow": 0, "blur": 0, "fill_holes": False, "invert": False}
    mask = graph.add("SD2MaskPreprocess", mask=graph.mask, image=graph.image, **clean)
    painted = _repaint(graph, graph.image, mask(0))
    blend = {"color_match": False, "blend": "membrane"}
    return graph.add("SD2Composite", original=graph.image, generated=painted, mask=mask(1), **blend)()


def core_encode(graph: Graph) -> Link:
    """VAE Encode (for Inpainting), and the composite that its users add."""
    latent = graph.add("VAEEncodeForInpaint", pixels=graph.image, vae=graph.vae, mask=graph.mask, grow_mask_by=6)
    return graph.paste(graph.sample(latent(), graph.positive, graph.negative), graph.mask)


def core_conditioning(graph: Graph) -> Link:
    """InpaintModelConditioning, and the composite."""
    given = graph.condition("InpaintModelConditioning", graph.image, graph.mask, noise_mask=True)
    return graph.paste(graph.sample(given(2), given(0), given(1)), graph.mask)


def crop_and_stitch(graph: Graph, blend: int) -> Link:
    """The pack's crop at the model's own size, ComfyUI's InpaintModelConditioning, and the pack's stitch."""
    size = {"output_target_width": SIZE, "output_target_height": SIZE, "mask_blend_pixels": blend}
    cut = graph.add("InpaintCropImproved", image=graph.image, mask=graph.mask, **CROP, **size)
    given = graph.condition("InpaintModelConditioning", cut(1), cut(2), noise_mask=True)
    painted = graph.sample(given(2), given(0), given(1))
    return graph.add("InpaintStitchImproved", stitcher=cut(0), inpainted_image=painted)()


def lanpaint(graph: Graph) -> Link:
    """The pack's example for SDXL, on the base checkpoint: 5 inner steps, Euler and Karras."""
    latent = graph.add("LanPaint_ImageEncode", image=graph.image, vae=graph.vae, mask=graph.mask)()
    own = {"LanPaint_NumSteps": 5, "LanPaint_PromptMode": "Image First", "LanPaint_Info": ""}
    values = {"seed": graph.case.seed % SEEDS, "steps": STEPS, "cfg": graph.cfg, "denoise": graph.case.denoise}
    links = {"model": graph.model, "positive": graph.positive, "negative": graph.negative, "latent_image": latent}
    mode = {"Inpainting_mode": "🖼️ Image Inpainting", "sampler_name": "euler", "scheduler": "karras"}
    samples = graph.add("LanPaint_KSampler", **links, **values, **own, **mode)()
    original = {"image": graph.image, "mask": graph.mask, "blend_overlap": 9}
    return graph.add("LanPaint_ImageDecode", samples=samples, vae=graph.vae, **original)()


def acly(graph: Graph) -> Link:
    """The pack's conditioning, its color match outside the mask, and a composite through its expanded, soft mask."""
    node = "INPAINT_VAEEncodeInpaintConditioning"
    given = graph.condition(node, graph.image, graph.mask)
    painted = graph.sample(given(3), given(0), given(1))
    outside = {"target": painted, "reference": graph.image, "exclude_mask": graph.mask, "strength": 1.0}
    soft = graph.add("INPAINT_ExpandMask", mask=graph.mask, grow=4, blur=7, blur_type="gaussian")()
    return graph.paste(graph.add("INPAINT_ColorMatch", **outside)(), soft)


def ours_cropped(graph: Graph) -> Link:
    """The same between SD2 Inpaint Crop and SD2 Inpaint Stitch."""
    size = {"context": 1.2, "target_width": 0, "target_height": 0, "multiple_of": 8, "context_pixels": 0}
    given = {"image": graph.image, "mask": graph.mask, "model": graph.model, "holes": "together"}
    cut = graph.add("SD2InpaintCrop", **given, **size)
    blend = {"color_match": False, "blend": "membrane"}
    return graph.add("SD2InpaintStitch", stitch=cut(2), image=_repaint(graph, cut(0), cut(1)), **blend)()


PEERS: dict[str, tuple[Draw, str]] = {  # how they paint, and the checkpoint
    "ours in ComfyUI": (ours, "inpaint"),
    "ours in ComfyUI, crop": (ours_cropped, "inpaint"),
    "VAEEncodeForInpaint": (core_encode, "inpaint"),
    "InpaintModelConditioning": (core_conditioning, "inpaint"),
    "CropAndStitch, blend 4": (partial(crop_and_stitch, blend=4), "inpaint"),
    "CropAndStitch, blend 32": (partial(crop_and_stitch, blend=32), "inpaint"),
    "inpaint-nodes, color match": (acly, "inpaint"),
    "base, LanPaint": (lanpaint, "base"),
}
HIGH = f", cfg {HIGH_CFG:g}"
NAMES = [name + cfg for name in PEERS for cfg in ("", HIGH)]


def graph_of(name: str, case: Case) -> Graph:
    """The prompt with which a contender of `NAMES` repaints a case. Its last node shows the image."""
    draw, checkpoint = PEERS[name.removesuffix(HIGH)]
    graph = Graph(case, HIGH_CFG if name.endswith(HIGH) else INPAINT_CFG, FILES[checkpoint].name)
    graph.add("PreviewImage", images=draw(graph))
    return graph


def missing(name: str, case: Case, server: Server) -> str:
    """Why a contender cannot take part, in one sentence; empty where it can."""
    nodes = {node["class_type"] for node in graph_of(name, case).prompt.values()} - set(server.library.classes)
    packs = {pack for prefix, pack in PACKS.items() for node in nodes if node.startswith(prefix)}
    lacks = f"{name} is left out: the server has no {', '.join(sorted(nodes))}"
    return f"{lacks}; install {', '.join(sorted(packs)) or 'a newer ComfyUI'} there" if nodes else ""


def painter(name: str, server: Server) -> Paint:
    """Repaint on a server, which needs the nodes of the contender."""

    def paint(case: Case) -> Pixels:
        _upload(server, IMAGE, case.image)
        _upload(server, MASK, (case.mask * 255).round().astype(np.uint8))
        with (
            TemporaryDirectory(prefix="sd2-benchmark-") as folder,
            folders.using(folders.Folders(output=Path(folder))),
        ):
            (shown,) = (shown for _, shown in server.run(Workflow(graph_of(name, case).prompt)))
            (file,) = Path(folder).rglob(shown["images"][0]["filename"])
            with Image.open(file) as image:
                return np.asarray(image.convert("RGB"))

    return paint


def _upload(server: Server, name: str, pixels: Pixels) -> None:
    """Put an image into the server's input folder, in place of the last of that name."""
    content = BytesIO()
    Image.fromarray(pixels).save(content, "png", compress_level=1)
    data = {"subfolder": FOLDER, "overwrite": "true"}
    files = {"image": (name, content.getvalue())}
    server.http.post(f"{server.url}/upload/image", files=files, data=data, timeout=TIMEOUT).raise_for_status()
