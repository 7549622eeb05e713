"""Workflows that others made, brought down to tiny weights and a few steps, so that each runs in about a second."""

import copy
import json
import os
import re
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import torch
from controlnet_files import adapter, write_controlnet
from PIL import Image
from safetensors.torch import save_file
from sd2_family.backends import folders
from sd2_family.headless import canvas_text, graph
from sd2_family.headless.execute import Executor, NodeError
from sd2_family.headless.image_files import image_text
from sd2_family.headless.inputs import inputs_of
from sd2_family.headless.library import LIBRARY
from spandrel.architectures.ESRGAN import ESRGAN
from tiny import tiny_state, write_checkpoint

SUFFIXES = {".json", ".png", ".webp", ".jpg", ".jpeg"}
# Nodes of ComfyUI's own that graphs of SD 1.x and 2.x use every day: the runner is to have them
EVERYDAY = """
CLIPLoader CLIPSetLastLayer CLIPTextEncode CLIPVisionEncode CLIPVisionLoader CheckpointLoaderSimple
ConditioningAverage ConditioningCombine ConditioningConcat ConditioningSetArea ConditioningSetAreaPercentage
ConditioningSetAreaStrength ConditioningSetMask ConditioningSetTimestepRange ConditioningZeroOut ControlNetApply
ControlNetApplyAdvanced ControlNetLoader CropMask DiffControlNetLoader EmptyImage EmptyLatentImage FeatherMask
GrowMask ImageBatch ImageCompositeMasked ImageInvert ImagePadForOutpaint ImageScale ImageScaleBy
ImageScaleToTotalPixels ImageToMask ImageUpscaleWithModel InpaintModelConditioning InvertMask KSampler
KSamplerAdvanced LatentBlend LatentComposite LatentCompositeMasked LatentCrop LatentFlip LatentFromBatch LatentRotate
LatentUpscale LatentUpscaleBy LoadImage LoadImageMask LoraLoader LoraLoaderModelOnly MaskComposite MaskToImage
ModelMergeBlocks ModelMergeSimple ModelSamplingDiscrete PreviewAny PreviewImage RepeatLatentBatch
SD_4XUpscale_Conditioning SaveImage SetLatentNoiseMask SolidMask UNETLoader UpscaleModelLoader VAEDecode
VAEDecodeTiled VAEEncode VAEEncodeForInpaint VAEEncodeTiled VAELoader unCLIPCheckpointLoader unCLIPConditioning
"""
# the others for these models, which need a real ComfyUI
REST = """
DiffusersLoader FreeU FreeU_V2 GLIGENLoader GLIGENTextBoxApply HyperTile HypernetworkLoader ImageBlend ImageBlur
ImageCrop ImageQuantize ImageSharpen JoinImageWithAlpha LatentBatch LoadLatent PatchModelAddDownscale PerpNeg
RebatchImages RebatchLatents RescaleCFG SaveLatent SelfAttentionGuidance SplitImageWithAlpha StyleModelApply
StyleModelLoader TomePatchModel
"""
TO_RUN, CORE = frozenset(EVERYDAY.split()), frozenset((EVERYDAY + REST).split())
FOLDERS = {
    "ckpt_name": "checkpoints",
    "vae_name": "vae",
    "lora_name": "loras",
    "unet_name": "diffusion_models",
    "model_name": "upscale_models",
    "control_net_name": "controlnet",
}
CLIP_FOLDERS = {"CLIPLoader": "text_encoders", "CLIPVisionLoader": "clip_vision"}
# parts that are read from a whole checkpoint as well
FROM_CHECKPOINTS = {"diffusion_models": "v1", "text_encoders": "v1", "clip_vision": "unclip-h"}
IMAGES = {"LoadImage", "LoadImageMask"}
SPACE = {"width", "height", "x", "y", "left", "top", "right", "bottom", "target_width", "target_height"}
SMALLER, STEPS = 8, 2
EMBEDDING = re.compile(r"embedding:([^\s,():]+)")


@dataclass
class Report:
    """Counts of files by how far they came, for each group of files, and what held the others up."""

    reached: dict[str, Counter] = field(default_factory=lambda: defaultdict(Counter))
    missing: Counter = field(default_factory=Counter)
    reasons: Counter = field(default_factory=Counter)
    pairs: Counter = field(default_factory=Counter)
    errors: list[str] = field(default_factory=list)

    def text(self):
        stages = ("files", "read", "converted", "checked", "ran")
        lines = [f"{'':32}" + "".join(f"{stage:>11}" for stage in stages)]
        lines += [f"{name:32}" + "".join(f"{row[stage]:11}" for stage in stages) for name, row in self.reached.items()]
        lines += [f"canvases beside what ran: {dict(self.pairs)}", "node types most often missing, in files:"]
        lines += [
            f"{count:6} {kind}{' (core)' if kind in CORE else ''}" for kind, count in self.missing.most_common(40)
        ]
        lines += ["other reasons, in files:", *(f"{count:6} {why}" for why, count in self.reasons.most_common(40))]
        return "\n".join([*lines, f"errors of Python: {len(self.errors)}", *self.errors])


def survey(corpus, scratch):
    """Read, convert, check and run every workflow under a folder."""
    report = Report()
    outcomes = {}
    for path in sorted(path for path in corpus.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file()):
        try:
            _follow(path, report, scratch, outcomes)
        except Exception as error:
            report.errors.append(f"{path.relative_to(corpus)}: {type(error).__name__}: {error}")
    return report


def _follow(path, report, scratch, outcomes):
    try:
        workflow = graph.read(path, LIBRARY)
    except graph.WorkflowError as error:
        if "not a ComfyUI workflow" in str(error) or "contains no workflow" in str(error):
            return  # another file
        report.reached["all"] += Counter(files=1)
        report.reasons[_gist(str(error), path)] += 1
        return
    kinds = {node["class_type"] for node in workflow.prompt.values()}
    groups = ["all", *(["core nodes of SD 1.x and 2.x"] if kinds <= CORE else [])]
    groups += ["nodes that are to run here"] if kinds <= TO_RUN else []
    groups += ["nodes that run here"] if kinds <= set(LIBRARY.classes) else []
    stages = Counter(files=1, read=1, converted=1)
    report.missing.update(kinds - set(LIBRARY.classes))
    _compare(path, report)
    if kinds <= set(LIBRARY.classes):
        small = _smaller(workflow)
        key = json.dumps({node_id: _shape(node) for node_id, node in small.prompt.items()})
        if key not in outcomes:
            outcomes[key] = _run(small, scratch / str(len(outcomes)))
        reached, why, error = outcomes[key]
        stages += Counter(dict.fromkeys(reached, 1))
        if why:
            report.reasons[_gist(why, path)] += 1
        if error:
            report.errors.append(f"{path.name}: {error}")
    for group in groups:
        report.reached[group] += stages


def _gist(sentence, path):
    return re.sub(r"\d+", "N", re.sub(r'node \S+ ".*?"', "node", sentence.replace(str(path), "FILE")))[:150]


def _shape(node):
    """What decides whether a node runs: not its seed, its text or the names of files."""
    fixed = {name: value for name, value in node["inputs"].items() if "seed" not in name}
    return [node["class_type"], {name: value for name, value in fixed.items() if not isinstance(value, str)}]


def _compare(path, report):
    """Convert the canvas in an image too, and compare it with what ran, in nodes that both know."""
    text = image_text(path) or {}
    if not {"prompt", "workflow"} <= text.keys():
        return
    workflow = graph.from_json(json.loads(text["workflow"]), LIBRARY)
    canvas_text.fill_in(workflow, LIBRARY)
    ran = json.loads(text["prompt"])
    same = all(
        _equal(node["inputs"].get(name), value)
        for node_id, node in workflow.prompt.items()
        if node["class_type"] in LIBRARY.classes and node_id in ran
        for name, value in ran[node_id]["inputs"].items()
        if name not in ("upload", "choose file to upload") and "%" not in str(node["inputs"].get(name))
    )
    report.pairs["the same" if same else "different"] += 1


def _equal(ours, theirs):
    if isinstance(theirs, list) and isinstance(ours, list):
        return list(map(str, ours)) == list(map(str, theirs))
    return ours == theirs


def _smaller(workflow):
    """The workflow with pictures an eighth as wide and a few steps; the steps of two-stage sampling in proportion."""
    small = copy.deepcopy(workflow)
    for node in small.prompt.values():
        values = node["inputs"]
        declared = inputs_of(LIBRARY.classes[node["class_type"]])
        most = values.get("steps") if isinstance(values.get("steps"), int) else STEPS
        for name, value in values.items():
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                continue
            if name in SPACE:
                least = declared[name].options.get("min", 0) if name in declared else 0
                values[name] = max(8 * round(value / SMALLER / 8), 16 if value and name[-1] in "ht" else 0, least)
            elif name in ("feathering", "expand", "grow_mask_by"):
                values[name] = value // SMALLER
            elif name in ("steps", "start_at_step", "end_at_step"):
                values[name] = round(min(value, most) * 2 * STEPS / max(most, 1))
            elif name in ("batch_size", "amount"):
                values[name] = 1
    return small


def _run(workflow, scratch):
    """How far a workflow comes: stages reached, the sentence that stopped it, an error of Python."""
    (scratch / "in").mkdir(parents=True)
    _provide(workflow, scratch)
    chosen = folders.Folders(models=scratch / "models", input=scratch / "in", output=scratch / "out")
    with folders.using(chosen):
        executor = Executor(LIBRARY)
        try:
            executor.check(workflow)
        except ValueError as error:
            return [], str(error).splitlines()[0], None
        try:
            list(executor.run(workflow))
        except NodeError as error:
            known = isinstance(error.__cause__, ValueError)
            return ["checked"], str(error), None if known else repr(error.__cause__)
    return ["checked", "ran"], None, None


def _provide(workflow, scratch):
    """Write a tiny file of the right kind under each name that a workflow uses."""
    kinds = {node["class_type"] for node in workflow.prompt.values()}
    for node in workflow.prompt.values():
        for name, value in node["inputs"].items():
            if not isinstance(value, str):
                continue
            value = value.replace("\\", "/")  # canvases of Windows
            folder = CLIP_FOLDERS.get(node["class_type"]) if name == "clip_name" else FOLDERS.get(name)
            if folder:
                kind = _kind(node["class_type"], value, kinds) if folder == "checkpoints" else folder
                kind = "adapter" if folder == "controlnet" and "t2i" in value.lower() else kind
                _place(_tiny(kind, scratch.parent), scratch / "models" / folder / value)
            elif node["class_type"] in IMAGES and name == "image":
                _place(_tiny("picture", scratch.parent), scratch / "in" / re.sub(r" \[\w+\]$", "", value))
            for word in EMBEDDING.findall(value):
                pickled = Path(word).suffix in (".pt", ".bin")
                suffix = "" if pickled or word.endswith(".safetensors") else ".safetensors"
                file = _tiny("pickled" if pickled else "embedding", scratch.parent)
                _place(file, scratch / "models" / "embeddings" / f"{word}{suffix}")


def _kind(node_class, name, kinds):
    """A tiny model with the inputs that the graph gives it."""
    named = " ".join([node_class, name, *kinds]).lower()
    words = {"unclip": "unclip-h", "upscaleconditioning": "x4", "upscale_conditioning": "x4", "sd2depth": "v2-depth"}
    found = [kind for word, kind in words.items() if word in named]
    return next(iter(found), "v1-inpaint" if "inpaintmodel" in named or "inpaint" in name.lower() else "v1")


def _place(file, target):
    target.parent.mkdir(parents=True, exist_ok=True)
    if not target.exists():
        os.link(file, target)


@cache
def _tiny(kind, folder):
    path = folder / f"{kind}{'.png' if kind == 'picture' else '.safetensors'}"
    if kind == "picture":
        Image.effect_noise((64, 64), 60).convert("RGBA").save(path)
    elif kind == "vae":
        state = tiny_state("v1")
        head = "first_stage_model."
        save_file({key.removeprefix(head): state[key].clone() for key in state if key.startswith(head)}, path)
    elif kind == "loras":
        name = "middle_block.1.transformer_blocks.0.attn2.to_q"
        rows, columns = tiny_state("v1")[f"model.diffusion_model.{name}.weight"].shape[:2]
        key = f"lora_unet_{name.replace('.', '_')}"
        up, down = torch.randn(rows, 4, 1, 1), torch.randn(4, columns, 1, 1) / 10
        save_file(
            {f"{key}.lora_up.weight": up, f"{key}.lora_down.weight": down, f"{key}.alpha": torch.tensor(4.0)}, path
        )
    elif kind == "controlnet":
        write_controlnet(path, "v1")
    elif kind == "adapter":
        save_file(adapter(64), path)
    elif kind == "upscale_models":
        save_file(ESRGAN(num_filters=8, num_blocks=1, scale=4).state_dict(), path)
    elif kind == "pickled":
        torch.save({"string_to_param": {"*": torch.randn(2, 64) / 10}}, path)
    elif kind == "embedding":
        save_file({"emb_params": torch.randn(2, 64) / 10}, path)
    else:
        write_checkpoint(path, FROM_CHECKPOINTS.get(kind, kind))
    return path
