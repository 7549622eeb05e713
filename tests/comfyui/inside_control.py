"""Run by test_control_inside.py in ComfyUI's own Python: ControlNets, merges and what models predict, in both.

Arguments: ComfyUI's folder, the folder checkpoints of a models folder. Prints numbers as JSON.
"""

import importlib
import json
import sys

from embedded import FOLDER, gap, node, pack

# isort: split
import comfy.supported_models_base
import comfy_extras.nodes_model_advanced as advanced
import comfy_extras.nodes_model_merging as merging
import folder_paths
import torch

import nodes as core_nodes

stock = importlib.import_module("pack.headless.stock")
folders = importlib.import_module("pack.backends.folders")
local = importlib.import_module("pack.backends.local")
assert pack

from controlnet_files import write_controlnet  # noqa: E402
from tiny import hugging_face_text  # noqa: E402

OURS = stock.NODE_CLASS_MAPPINGS
THEIRS = core_nodes.NODE_CLASS_MAPPINGS | merging.NODE_CLASS_MAPPINGS | advanced.NODE_CLASS_MAPPINGS
HEADS = {"v1": {"num_heads": 8, "num_head_channels": -1}, "v2-base": {"num_heads": -1, "num_head_channels": 64}}
HERE, THERE = OURS, THEIRS
generator = torch.Generator().manual_seed(0)


def run(library, name, **values):
    node_class = library[name]
    return getattr(node_class(), node_class.FUNCTION)(**values)


def sampled(library, model, vae, positive, negative, latent, **widgets):
    """[latent, picture] of four steps."""
    values = {"seed": 3, "steps": 4, "cfg": 3.0, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0}
    sides = {"positive": positive, "negative": negative, "latent_image": latent}
    (result,) = run(library, "KSampler", model=model, **sides, **values | widgets)
    return result["samples"], vae.decode(0.3 * result["samples"] / result["samples"].std())


def compared(mine, theirs, plain):
    """[difference of the latents in deviations, of the pictures of 255, what it all did to the latents]."""
    scale = float(theirs[0].std())
    return [gap(mine[0], theirs[0]) / scale, 255 * gap(mine[1], theirs[1]), gap(plain[0], theirs[0]) / scale]


def conditionings(library, nets, sides, images):
    """Conditionings with ControlNets, by what they try."""
    positive, negative = sides
    image, batch = images
    (net, other, shuffle, bare, *_) = nets

    def advanced_apply(net, image, sides, strength=1.0, start=0.0, end=1.0):
        given = dict(zip(("positive", "negative"), sides, strict=True))
        span = {"start_percent": start, "end_percent": end}
        return run(
            library, "ControlNetApplyAdvanced", **given, control_net=net, image=image, strength=strength, **span
        )

    def old(net, image, side, strength):
        return run(library, "ControlNetApply", conditioning=side, control_net=net, image=image, strength=strength)[0]

    def in_area(side, x, strength=1.0):
        area = {"width": 64, "height": 64, "x": x, "y": 0, "strength": strength}
        return run(library, "ConditioningSetArea", conditioning=side, **area)[0]

    once = advanced_apply(net, image, sides, 0.7)
    yield "both sides", once
    yield "a range", advanced_apply(net, image, sides, 1.5, 0.2, 0.7)
    yield "two in a chain", advanced_apply(other, batch, once, 0.6, 0.0, 0.5)
    yield "for the prompt, old", (old(net, image, positive, 0.8), negative)
    yield "two prompts, old", (old(net, image, positive, 0.8) + old(other, image, negative, 0.5), negative)
    yield "the negative side has its own", (old(net, image, positive, 0.8), old(other, image, negative, 0.5))
    yield "a chain of both kinds", advanced_apply(other, image, (old(net, image, positive, 0.8), negative), 0.4)
    yield "a batch of images", advanced_apply(net, batch, sides)
    yield "no strength", advanced_apply(other, image, advanced_apply(net, image, sides), 0.0)
    yield "the mean of the picture", advanced_apply(shuffle, image, sides)
    yield "bare names", advanced_apply(bare, image, sides)
    yield "an area", (positive + in_area(old(net, image, positive, 1.0), 64, 1.4), negative)
    yield "an area of both sides", (positive + in_area(once[0], 64), negative + in_area(once[1], 32))
    yield "an area beside a whole", (old(net, image, positive, 0.8) + in_area(positive, 64), negative)
    masked = {"mask": (torch.arange(96) > 40).float().expand(1, 96, 96), "strength": 0.9}
    (shaped,) = run(library, "ConditioningSetMask", conditioning=once[0], **masked, set_cond_area="mask bounds")
    yield "a mask's bounds", (positive + shaped, negative)
    if len(nets) > 4:
        yield "differences", advanced_apply(nets[4], image, sides)


def control_gaps(kind):
    place = FOLDER.parent / "controlnet"
    files = {"a": (4, "authors"), "b": (9, "authors"), "b_shuffle": (9, "authors"), "bare": (7, "bare")}
    files |= {"diff": (7, "differences")}
    for name, (seed, layout) in files.items():
        write_controlnet(place / f"{kind} {name}.safetensors", kind, layout=layout, seed=seed)
    comfy.supported_models_base.BASE.unet_extra_config = HEADS[kind]  # ComfyUI's, for widths that it does not know
    model, _, vae = node("SD2CheckpointLoader", ckpt_name=f"{kind}.safetensors")[:3]
    here = local.load_checkpoint(f"{kind}.safetensors")
    sides = [here.clip.encode_from_tokens_scheduled(here.clip.tokenize(text)) for text in ("a house", "")]
    images = torch.rand(1, 50, 77, 3, generator=generator), torch.rand(2, 64, 64, 3, generator=generator)
    latent = {"samples": torch.zeros(3, 4, 8, 16)}
    results = []
    for library, here_model, here_vae in ((HERE, here.model, here.vae), (THERE, model, vae)):
        nets = [
            run(library, "ControlNetLoader", control_net_name=f"{kind} {name}.safetensors")[0]
            for name in list(files)[:4]
        ]
        nets += run(library, "DiffControlNetLoader", model=here_model, control_net_name=f"{kind} diff.safetensors")
        results.append(
            {
                name: sampled(library, here_model, here_vae, *given, latent)
                for name, given in conditionings(library, nets, sides, images)
            }
        )
    plain = sampled(HERE, here.model, here.vae, *sides, latent)
    mine, theirs = results
    return {name: compared(mine[name], theirs[name], plain) for name in theirs}


def patched(patcher):
    """The weights of a ComfyUI model with its patches."""
    patcher.unpatch_model(torch.device("cpu"))  # else what is there already counts as patched
    patcher.patch_model(torch.device("cpu"))
    weights = {key: tensor.clone() for key, tensor in patcher.model.state_dict().items()}
    patcher.unpatch_model(torch.device("cpu"))
    return weights


def unet_gap(core, ours):
    core = {key.removeprefix("diffusion_model."): tensor for key, tensor in core.items() if "diffusion_model" in key}
    assert core.keys() == ours.keys()
    return max(gap(core[key], tensor) for key, tensor in ours.items())


def text_gap(core, ours):
    core = {key.split(".transformer.")[1]: tensor for key, tensor in core.items() if ".text_model." in key}
    unread = ("model.text_projection", "model.logit_scale")
    ours = hugging_face_text({key: tensor for key, tensor in ours.items() if key not in unread})
    assert core.keys() == ours.keys()
    return max(gap(core[key], tensor) for key, tensor in ours.items())


def merged(library, models, clips):
    """Merges by what they try: models, then text encoders."""
    a, b, c = models
    (half,) = run(library, "ModelMergeSimple", model1=a, model2=b, ratio=0.3)
    (difference,) = run(library, "ModelMergeSubtract", model1=b, model2=a, multiplier=0.7)
    blocks = {"input": 0.2, "middle": 0.9, "out": 0.55}
    text, other, third = clips
    (mixed,) = run(library, "CLIPMergeSimple", clip1=text, clip2=other, ratio=0.3)
    (subtracted,) = run(library, "CLIPMergeSubtract", clip1=other, clip2=text, multiplier=-0.4)
    return {
        "two": half,
        "all of the second": run(library, "ModelMergeSimple", model1=a, model2=b, ratio=0.0)[0],
        "blocks": run(library, "ModelMergeBlocks", model1=a, model2=b, **blocks)[0],
        "a merge into a merge": run(library, "ModelMergeBlocks", model1=half, model2=c, **blocks)[0],
        "a merge in a merge": run(library, "ModelMergeSimple", model1=c, model2=half, ratio=0.6)[0],
        "a difference": difference,
        "a difference added": run(library, "ModelMergeAdd", model1=c, model2=difference)[0],
        "text, two": mixed,
        "text, a difference added": run(library, "CLIPMergeAdd", clip1=third, clip2=subtracted)[0],
    }


def merge_gaps(kind):
    """[gap of the weights, change of the first model's] by merge; one model has a LoRA."""
    folder_paths.add_model_folder_path("loras", str(FOLDER.parent / "loras"))
    files = [f"{kind}{suffix}.safetensors" for suffix in ("", "-1", "-2")]
    core = [list(node("SD2CheckpointLoader", ckpt_name=file)[:2]) for file in files]
    here = [[loaded.model, loaded.clip] for loaded in map(local.load_checkpoint, files)]
    before = patched(core[0][0]), patched(core[0][1].patcher)
    for library, loaded in ((THERE, core), (HERE, here)):
        strengths = {"strength_model": 0.8, "strength_clip": 0.5}
        model, clip = loaded[1]
        loaded[1] = run(library, "LoraLoader", model=model, clip=clip, lora_name=f"{kind}.safetensors", **strengths)
    theirs, ours = merged(THERE, *zip(*core, strict=True)), merged(HERE, *zip(*here, strict=True))
    numbers = {}
    for name, merge in theirs.items():
        if name.startswith("text"):
            weights, own = patched(merge.patcher), ours[name].changed_tower.state_dict()
            numbers[name] = [text_gap(weights, own), max(gap(weights[key], t) for key, t in before[1].items())]
        else:
            weights, own = patched(merge), ours[name].changed_unet.state_dict()
            numbers[name] = [unet_gap(weights, own), max(gap(weights[key], t) for key, t in before[0].items())]
    return numbers


def prediction_gaps():
    """Runs after ModelSamplingDiscrete, by sampling, noise levels and sampler."""
    model, _, vae = node("SD2CheckpointLoader", ckpt_name="v2-base.safetensors")[:3]
    here = local.load_checkpoint("v2-base.safetensors")
    sides = [here.clip.encode_from_tokens_scheduled(here.clip.tokenize(text)) for text in ("a house", "")]
    (later,) = run(HERE, "ConditioningSetTimestepRange", conditioning=sides[0], start=0.4, end=1.0)
    (sooner,) = run(HERE, "ConditioningSetTimestepRange", conditioning=sides[1], start=0.0, end=0.4)
    latent = {"samples": torch.zeros(2, 4, 8, 8)}
    plain, numbers = sampled(HERE, here.model, here.vae, *sides, latent), {}
    for sampling in ("eps", "v_prediction", "lcm"):
        for zsnr in (False, True):
            mine, theirs = (
                run(library, "ModelSamplingDiscrete", model=given, sampling=sampling, zsnr=zsnr)[0]
                for library, given in ((HERE, here.model), (THERE, model))
            )
            for scheduler, sampler in (("normal", "euler"), ("sgm_uniform", "lcm"), ("simple", "dpmpp_2m")):
                for positive in (sides[0], sooner + later):
                    widgets = {"scheduler": scheduler, "sampler_name": sampler}
                    pair = [
                        sampled(library, *parts, positive, sides[1], latent, **widgets)
                        for library, parts in ((HERE, (mine, here.vae)), (THERE, (theirs, vae)))
                    ]
                    name = f"{sampling}, zsnr {zsnr}, {sampler} {scheduler}, {len(positive)} prompts"
                    numbers[name] = compared(*pair, plain)
    return numbers


@torch.inference_mode()
def main():
    folder_paths.add_model_folder_path("controlnet", str(FOLDER.parent / "controlnet"))
    with folders.using(folders.Folders(models=FOLDER.parent)):
        return {
            "controls": {kind: control_gaps(kind) for kind in HEADS},
            "merges": {kind: merge_gaps(kind) for kind in HEADS},
            "predictions": prediction_gaps(),
        }


sys.stdout.write("\n" + json.dumps(main()) + "\n")
