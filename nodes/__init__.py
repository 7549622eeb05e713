"""The node classes and their display names, by node id."""

from .conditioning import SD2CLIPTextEncode
from .crop_and_stitch import SD2InpaintCrop, SD2InpaintStitch
from .depth_to_image import SD2DepthConditioning, SD2DepthEstimate
from .image_variations import SD2LoadImageEmbedding, SD2UnCLIPConditioning
from .inpainting import SD2Composite, SD2MaskExtend, SD2MaskPreprocess, SD2RandomMask, SD2VAEEncodeForInpaint
from .latent import SD2VAEDecode
from .loaders import SD2CheckpointLoader
from .sample_image import SD2SampleImage
from .sampling import SD2KSampler, SD2Sampler, SD2Scheduler
from .upscaling import SD2ColorMatch, SD2UpscaleConditioning
from .watermarking import SD2ReadWatermark, SD2Watermark

NODE_CLASS_MAPPINGS: dict[str, type] = {
    "SD2CheckpointLoader": SD2CheckpointLoader,
    "SD2CLIPTextEncode": SD2CLIPTextEncode,
    "SD2MaskPreprocess": SD2MaskPreprocess,
    "SD2InpaintCrop": SD2InpaintCrop,
    "SD2VAEEncodeForInpaint": SD2VAEEncodeForInpaint,
    "SD2UpscaleConditioning": SD2UpscaleConditioning,
    "SD2UnCLIPConditioning": SD2UnCLIPConditioning,
    "SD2LoadImageEmbedding": SD2LoadImageEmbedding,
    "SD2KSampler": SD2KSampler,
    "SD2Sampler": SD2Sampler,
    "SD2Scheduler": SD2Scheduler,
    "SD2VAEDecode": SD2VAEDecode,
    "SD2Composite": SD2Composite,
    "SD2InpaintStitch": SD2InpaintStitch,
    "SD2ColorMatch": SD2ColorMatch,
    "SD2DepthEstimate": SD2DepthEstimate,
    "SD2DepthConditioning": SD2DepthConditioning,
    "SD2SampleImage": SD2SampleImage,
    "SD2RandomMask": SD2RandomMask,
    "SD2MaskExtend": SD2MaskExtend,
    "SD2Watermark": SD2Watermark,
    "SD2ReadWatermark": SD2ReadWatermark,
}

NODE_DISPLAY_NAME_MAPPINGS: dict[str, str] = {
    "SD2CheckpointLoader": "SD2 Load Checkpoint",
    "SD2CLIPTextEncode": "SD2 CLIP Text Encode",
    "SD2MaskPreprocess": "SD2 Mask Preprocess",
    "SD2InpaintCrop": "SD2 Inpaint Crop",
    "SD2VAEEncodeForInpaint": "SD2 VAE Encode (for Inpainting)",
    "SD2UpscaleConditioning": "SD2 Upscale Conditioning",
    "SD2UnCLIPConditioning": "SD2 unCLIP Conditioning",
    "SD2LoadImageEmbedding": "SD2 Load Image Embedding",
    "SD2KSampler": "SD2 KSampler",
    "SD2Sampler": "SD2 Sampler",
    "SD2Scheduler": "SD2 Scheduler",
    "SD2VAEDecode": "SD2 VAE Decode",
    "SD2Composite": "SD2 Composite",
    "SD2InpaintStitch": "SD2 Inpaint Stitch",
    "SD2ColorMatch": "SD2 Color Match",
    "SD2DepthEstimate": "SD2 Depth Estimate",
    "SD2DepthConditioning": "SD2 Depth Conditioning",
    "SD2SampleImage": "SD2 Sample Image",
    "SD2RandomMask": "SD2 Random Mask",
    "SD2MaskExtend": "SD2 Mask Extend",
    "SD2Watermark": "SD2 Invisible Watermark",
    "SD2ReadWatermark": "SD2 Read Watermark",
}
