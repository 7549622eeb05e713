"""What to use in place of nodes that run only in ComfyUI, for those whose job nodes here do."""

from __future__ import annotations

import re

from .graph import Library

VALUE = "the widget itself, without a node for its value"
LINK = "a link past it"
SAMPLER = "{SD2KSampler}, which has the sampler, the noise levels, cfg and the seed in one"

# node type -> what does its job; {id} is a node here
INSTEAD = {
    # ComfyUI's own
    "BasicGuider": SAMPLER,
    "BasicScheduler": SAMPLER,
    "CFGGuider": SAMPLER,
    "CheckpointLoader": "{SD2CheckpointLoader}, which needs no config",
    "DiffusersLoader": "{SD2CheckpointLoader}, which lists the diffusers folder as well",
    "ExponentialScheduler": SAMPLER,
    "ImageScaleToMaxDimension": "{ImageScale}",
    "KarrasScheduler": SAMPLER,
    "KSamplerSelect": SAMPLER,
    "LoadImageOutput": '{LoadImage} with " [output]" after the file\'s name',
    "MaskPreview": "{MaskToImage} and {PreviewImage}",
    "PrimitiveBoolean": VALUE,
    "PrimitiveFloat": VALUE,
    "PrimitiveInt": VALUE,
    "PrimitiveString": VALUE,
    "PrimitiveStringMultiline": VALUE,
    "RandomNoise": SAMPLER,
    "RescaleCFG": "the cfg_rescale widget of {SD2KSampler}",
    "ResizeImageMaskNode": "{ImageScale}",
    "SamplerCustom": SAMPLER,
    "SamplerCustomAdvanced": SAMPLER,
    "SaveImageAdvanced": "{SaveImage}",
    "SaveImageWebsocket": "{SaveImage}",
    "ThresholdMask": "the threshold widget of {SD2MaskPreprocess}",
    # other packs'
    "Checkpoint Loader": "{CheckpointLoaderSimple}",
    "Checkpoint Loader (Simple)": "{CheckpointLoaderSimple}",
    "CheckpointLoader|pysssss": "{CheckpointLoaderSimple}",
    "CheckpointLoaderSimpleWithNoiseSelect": "{CheckpointLoaderSimple}",
    "CR Seed": VALUE,
    "Efficient Loader": "{CheckpointLoaderSimple}, {CLIPTextEncode} and {EmptyLatentImage}",
    "GrowMaskWithBlur": "{SD2MaskPreprocess}",
    "Image Comparer (rgthree)": "{PreviewImage}",
    "Image Load": "{LoadImage}",
    "Image Resize": "{ImageScale}",
    "Image Save": "{SaveImage}",
    "ImageResize+": "{ImageScale}",
    "ImageScaleFactor _O": "{ImageScaleBy}",
    "ImageScaleFactorSimple _O": "{ImageScaleBy}",
    "INPAINT_ExpandMask": "{SD2MaskPreprocess}",
    "INPAINT_VAEEncodeInpaintConditioning": "{SD2VAEEncodeForInpaint}",
    "INTConstant": VALUE,
    "KSampler (Efficient)": "{KSampler} and {VAEDecode}",
    "KSampler (WAS)": "{KSampler}",
    "KSampler //Inspire": "{KSampler}",
    "KSampler Adv. (Efficient)": "{KSamplerAdvanced} and {VAEDecode}",
    "KSamplerAdvanced //Inspire": "{KSamplerAdvanced}",
    "Latent Upscale by Factor (WAS)": "{LatentUpscaleBy}",
    "LatentUpscaleFactor _O": "{LatentUpscaleBy}",
    "LatentUpscaleFactorSimple _O": "{LatentUpscaleBy}",
    "Load Lora": "{LoraLoader}",
    "Lora Loader Stack (rgthree)": "one {LoraLoader} for each LoRA",
    "LoraLoader|pysssss": "{LoraLoader}",
    "MiDaS-DepthMapPreprocessor": "{SD2DepthEstimate}",
    "Power Lora Loader (rgthree)": "one {LoraLoader} for each LoRA",
    "Reroute (rgthree)": LINK,
    "ReroutePrimitive|pysssss": LINK,
    "Seed": VALUE,
    "Seed (rgthree)": VALUE,
    "ShowText|pysssss": "{PreviewAny}",
    "StringConstant": VALUE,
    "StringConstantMultiline": VALUE,
    "Text _O": VALUE,
    "Text Multiline": VALUE,
    "Text String": VALUE,
    "Text to Conditioning": "{CLIPTextEncode}",
    "Text to Console": "{PreviewAny}",
    "unCLIP Checkpoint Loader": "{unCLIPCheckpointLoader}",
}
NODE = re.compile(r"\{(\w+)\}")


def instead_of(class_type: str, library: Library) -> str | None:
    """Return what does the job of a node type here, in words; None if nothing does."""
    known = INSTEAD.get(class_type)
    return known and NODE.sub(lambda found: library.names.get(found[1], found[1]), known)
