"""The pack in a real ComfyUI, driven through its API queue."""

import json

import pytest
import sd2_family
from diffusers_keys import official_pipeline
from live import REFUSED, ROOT, Graph, difference, picture, sampled
from sd2_family.headless.cli import main
from sd2_family.models.checkpoint import load_checkpoint

pytestmark = pytest.mark.comfyui

DEMO = ROOT / "models" / "demo" / "sd2-demo-inpaint.safetensors"
TOLERANCE = 2  # of 255: other kernels, and float32 noise levels in ComfyUI


def test_every_node_is_there(server):
    offered = server.get("/object_info")
    missing = set(sd2_family.NODE_CLASS_MAPPINGS) - set(offered)
    assert not missing
    for name, node in sd2_family.NODE_CLASS_MAPPINGS.items():
        assert offered[name]["output"] == list(node.RETURN_TYPES)
        assert offered[name]["display_name"] == sd2_family.NODE_DISPLAY_NAME_MAPPINGS[name]
    log = server.log.read_text()
    assert "IMPORT FAILED" not in log
    assert "sd2" not in "".join(line for line in log.lower().splitlines() if "warning" in line)


def test_the_bundled_model_is_offered(server):
    names, _ = server.get("/object_info/SD2CheckpointLoader")["SD2CheckpointLoader"]["input"]["required"]["ckpt_name"]
    assert "v2-base.safetensors" in names
    assert DEMO.name in names or not DEMO.exists()


def test_a_folder_that_diffusers_saved_gives_the_pictures_of_its_file(server):
    models = server.base / "models"
    checkpoint = load_checkpoint(models / "checkpoints" / "v2-v.safetensors")
    official_pipeline(checkpoint).save_pretrained(models / "diffusers" / "v")
    names, _ = server.get("/object_info/SD2CheckpointLoader")["SD2CheckpointLoader"]["input"]["required"]["ckpt_name"]
    assert "v" in names
    pictures = []
    for name in ("v", "v2-v.safetensors"):
        graph = Graph()
        node = sampled(graph, *graph.load(name))
        pictures.append(server.run(graph)[node])
    assert difference(*pictures) == 0


RUNS = [
    ("ddim", "ldm", "epsilon", 0.0),
    ("plms", "ldm", "v_prediction", 0.0),
    ("euler_ancestral", "karras", "v_prediction", 0.7),
    ("dpmpp_2m", "normal", "epsilon", 0.7),
    ("uni_pc", "sgm_uniform", "epsilon", 0.0),
]


@pytest.fixture
def alone(server, tmp_path, monkeypatch):
    """The one picture that a prompt saves without ComfyUI, from the same models."""
    monkeypatch.chdir(tmp_path)

    def run(prompt):
        (tmp_path / "w.json").write_text(json.dumps(prompt))
        assert main(["run", "w.json", "--models-dir", str(server.base / "models")]) == 0
        (file,) = (tmp_path / "output").glob("*.png")
        return picture(file)

    return run


@pytest.mark.parametrize(("sampler", "scheduler", "prediction", "rescale"), RUNS)
def test_same_picture_as_without_comfyui(server, alone, sampler, scheduler, prediction, rescale):
    from sd2_family.headless import graph
    from sd2_family.headless.library import LIBRARY

    prompt = graph.read(ROOT / "workflows" / "inpaint.json", LIBRARY).prompt
    nodes = {node["class_type"]: node["inputs"] for node in prompt.values()}
    if not DEMO.exists():
        nodes["SD2CheckpointLoader"]["ckpt_name"] = "v2-inpaint.safetensors"
    nodes["SD2CheckpointLoader"]["prediction"] = prediction
    values = {"steps": 5, "eta": 0.5, "cfg_rescale": rescale, "sampler_name": sampler, "scheduler": scheduler}
    nodes["SD2KSampler"].update(values)
    (inside,) = server.run(prompt).values()
    assert difference(inside, alone(prompt)) <= TOLERANCE


@pytest.mark.parametrize("sampler", ["KSampler", "SD2KSampler"])
def test_an_inpainting_model_without_a_mask_is_the_same_without_comfyui(server, alone, sampler):
    graph = Graph()
    sampled(graph, *graph.load("v2-inpaint.safetensors"), sampler=sampler)
    (inside,) = server.run(graph).values()
    assert inside.std() > 5
    assert difference(inside, alone(graph)) <= TOLERANCE


STOCK = [
    ("v2-base", "euler", "normal", 1.0),
    ("v2-v", "heun", "karras", 1.0),
    ("v2-inpaint", "dpmpp_2m", "ddim_uniform", 1.0),
    ("v2-base", "ddim", "simple", 0.7),
    ("v1", "euler", "sgm_uniform", 0.5),
    ("v1", "dpmpp_2m", "exponential", 1.0),
]


@pytest.mark.parametrize(("kind", "sampler", "scheduler", "denoise"), STOCK)
def test_stock_sampler_is_the_same_without_comfyui(server, alone, kind, sampler, scheduler, denoise):
    graph = Graph()
    model, clip, vae = graph.load(f"{kind}.safetensors")
    sample = graph.add("SD2SampleImage", name="forest.png")
    image = graph.add("ImageScale", image=sample(), upscale_method="area", width=64, height=64, crop="disabled")()
    encoded = graph.add("VAEEncode", pixels=image, vae=vae)()
    latent = graph.add("SetLatentNoiseMask", samples=encoded, mask=sample(1))()
    values = {"sampler_name": sampler, "scheduler": scheduler, "denoise": denoise}
    sampled(graph, model, clip, vae, sampler="KSampler", latent=latent, **values)
    (inside,) = server.run(graph).values()
    assert difference(inside, alone(graph)) <= TOLERANCE


@pytest.mark.parametrize("name", ["v2-base.safetensors", "v2-v.safetensors", "v1.safetensors"])
def test_stock_sampler_agrees_with_ours(server, name):
    graph = Graph()
    ours = sampled(graph, *graph.load(name))
    stock = sampled(graph, *graph.load(name), sampler="KSampler")
    pictures = server.run(graph)
    assert pictures[ours].std() > 5
    assert difference(pictures[ours], pictures[stock]) <= TOLERANCE


def test_stock_inpainting_nodes_take_our_objects(server):
    graph = Graph()
    model, clip, vae = graph.load("v2-inpaint.safetensors")
    sample = graph.add("SD2SampleImage", name="forest.png")
    image = graph.add("ImageScale", image=sample(), upscale_method="area", width=64, height=64, crop="disabled")()
    encoded = graph.add("CLIPTextEncode", clip=clip, text="a house")()
    inpaint = graph.add(
        "InpaintModelConditioning",
        positive=encoded, negative=encoded, vae=vae, pixels=image, mask=sample(1), noise_mask=True,
    )  # fmt: skip
    rescaled = graph.add("RescaleCFG", model=model, multiplier=0.5)()
    v = graph.add("ModelSamplingDiscrete", model=rescaled, sampling="v_prediction", zsnr=False)()
    freeu = graph.add("FreeU_V2", model=v, b1=1.3, b2=1.4, s1=0.9, s2=0.2)()
    values = {"seed": 1, "steps": 3, "cfg": 4.0, "denoise": 1.0}
    links = {"positive": inpaint(), "negative": inpaint(1), "latent_image": inpaint(2)}
    stock = graph.add("KSampler", model=freeu, **links, **values, sampler_name="euler", scheduler="normal")()
    ours = graph.add("SD2KSampler", model=freeu, **links, **values, sampler_name="euler", scheduler="normal")()
    tiled = graph.add(
        "VAEDecodeTiled", samples=ours, vae=vae, tile_size=64, overlap=16, temporal_size=64, temporal_overlap=8
    )()
    saved = graph.save(graph.add("VAEDecode", samples=stock, vae=vae)()), graph.save(tiled)
    again = graph.add("VAEEncode", pixels=tiled, vae=vae)()
    graph.save(graph.add("SD2VAEDecode", samples=again, vae=vae, tile_size=0)())
    pictures = server.run(graph)
    # the noised start differs: KSampler adds the latent even to a whole run
    assert pictures[saved[0]].shape == pictures[saved[1]].shape == (64, 64, 3)


def test_custom_sampling_agrees_with_ours(server):
    graph = Graph()
    model, clip, vae = graph.load("v2-base.safetensors")
    ours = sampled(graph, model, clip, vae, sampler_name="ddim", scheduler="ldm", eta=1.0)
    text = [graph.add("CLIPTextEncode", clip=clip, text=text)() for text in ("a red house", "")]
    custom = graph.add(
        "SamplerCustomAdvanced",
        noise=graph.add("RandomNoise", noise_seed=3)(),
        guider=graph.add("CFGGuider", model=model, positive=text[0], negative=text[1], cfg=5.0)(),
        sampler=graph.add("SD2Sampler", sampler_name="ddim", eta=1.0)(),
        sigmas=graph.add("SD2Scheduler", model=model, scheduler="ldm", steps=4, denoise=1.0)(),
        latent_image=graph.add("EmptyLatentImage", width=64, height=64, batch_size=1)(),
    )
    custom = graph.save(graph.add("VAEDecode", samples=custom(), vae=vae)())
    pictures = server.run(graph)
    assert difference(pictures[ours], pictures[custom]) <= 1


def test_loras_of_both_namings_come_and_go(server):
    graph = Graph()
    model, clip, vae = graph.load("v2-base.safetensors")
    saved = {"before": sampled(graph, model, clip, vae)}
    for style in ("ldm", "diffusers"):
        lora = graph.add(
            "LoraLoader",
            model=model, clip=clip, lora_name=f"{style}.safetensors", strength_model=0.8, strength_clip=0.8,
        )  # fmt: skip
        saved[style] = sampled(graph, lora(0), lora(1), vae)
    pictures = server.run(graph)
    assert difference(pictures[saved["ldm"]], pictures[saved["diffusers"]]) == 0
    assert difference(pictures[saved["ldm"]], pictures[saved["before"]]) > TOLERANCE
    graph = Graph()
    # euler has no eta, and another value is not taken from the cache
    after = sampled(graph, *graph.load("v2-base.safetensors"), eta=0.5)
    assert difference(server.run(graph)[after], pictures[saved["before"]]) == 0


def test_loras_embeddings_and_another_layer_are_the_same_without_comfyui(server, alone):
    graph = Graph()
    plain = graph.load("v2-base.safetensors")
    lora = graph.add(
        "LoraLoader",
        model=plain[0], clip=plain[1], lora_name="ldm.safetensors", strength_model=0.8, strength_clip=0.6,
    )  # fmt: skip
    model = graph.add("LoraLoaderModelOnly", model=lora(0), lora_name="diffusers.safetensors", strength_model=-0.3)()
    clip = graph.add("CLIPSetLastLayer", clip=lora(1), stop_at_clip_layer=-3)()
    prompt = "a (red:1.2) house, embedding:v2-base/pickled, (embedding:token.bin:0.8), embedding:absent, in the snow"
    changed = sampled(graph, model, clip, plain[2], prompt=prompt, sampler="KSampler")
    inside = server.run(graph)[changed]
    assert difference(inside, alone(graph)) <= TOLERANCE
    graph = Graph()
    unchanged = sampled(graph, *graph.load("v2-base.safetensors"), prompt=prompt, sampler="KSampler")
    assert difference(inside, server.run(graph)[unchanged]) > 30


def test_errors_are_those_without_comfyui(server):
    graph = Graph()
    model, clip, vae = graph.load("v2-depth.safetensors")
    sampled(graph, model, clip, vae)
    with pytest.raises(REFUSED, match=r"depth-guided generation.*without a depth map"):
        server.run(graph)
    graph = Graph()
    model, _, vae = graph.load("v2-base.safetensors")
    _, clip, _ = graph.load("v1.safetensors")
    sample = graph.add("SD2SampleImage", name="forest.png")
    encoded = graph.add("CLIPTextEncode", clip=clip, text="a house")()
    inpaint = graph.add(
        "SD2VAEEncodeForInpaint",
        positive=encoded, negative=encoded, vae=vae, image=sample(), mask=sample(1), fill="original",
        keep_unmasked=True,
    )  # fmt: skip
    values = {"seed": 1, "steps": 3, "cfg": 4.0, "denoise": 1.0, "sampler_name": "ddim", "scheduler": "ldm"}
    samples = graph.add(
        "SD2KSampler", model=model, positive=inpaint(), negative=inpaint(1), latent_image=inpaint(2), **values
    )()
    graph.save(graph.add("VAEDecode", samples=samples, vae=vae)())
    with pytest.raises(REFUSED, match=r"SD2VAEEncodeForInpaint needs one of kind .*v2-inpaint"):
        server.run(graph)


@pytest.mark.parametrize("holes", ["together", "one by one"])
def test_crop_and_stitch_is_the_same_without_comfyui(server, alone, holes):
    graph = Graph()
    model, clip, vae = graph.load("v2-inpaint.safetensors")
    sample = graph.add("SD2SampleImage", name="forest.png")()
    corners = (
        graph.add("SolidMask", value=1.0, width=20, height=16)(),
        graph.add("SolidMask", value=1.0, width=12, height=24)(),
    )
    mask = graph.add("SolidMask", value=0.0, width=128, height=128)()
    for corner, (x, y) in zip(corners, ((16, 24), (90, 70)), strict=True):
        mask = graph.add("MaskComposite", destination=mask, source=corner, x=x, y=y, operation="add")()
    widgets = {"context": 1.2, "target_width": 64, "target_height": 64, "multiple_of": 8, "context_pixels": 8}
    crop = graph.add("SD2InpaintCrop", image=sample, mask=mask, model=model, holes=holes, **widgets)
    sides = {name: graph.add("SD2CLIPTextEncode", clip=clip, text=name)() for name in ("positive", "negative")}
    encoded = graph.add(
        "SD2VAEEncodeForInpaint", **sides, vae=vae, image=crop(0), mask=crop(1), fill="original", keep_unmasked=True
    )
    samples = graph.add(
        "SD2KSampler",
        model=model,
        positive=encoded(0),
        negative=encoded(1),
        latent_image=encoded(2),
        **{"seed": 3, "steps": 4, "cfg": 5.0, "sampler_name": "ddim", "scheduler": "ldm", "denoise": 1.0},
    )()
    image = graph.add("SD2VAEDecode", samples=samples, vae=vae, tile_size=0)()
    graph.save(graph.add("SD2InpaintStitch", stitch=crop(2), image=image, color_match=False, blend="membrane")())
    (inside,) = server.run(graph).values()
    outside = alone(graph)
    assert inside.shape == outside.shape == (128, 128, 3)
    assert difference(inside, outside) <= TOLERANCE


def test_a_soft_mask_is_the_same_without_comfyui(server, alone):
    graph = Graph()
    model, clip, vae = graph.load("v2-base.safetensors")
    sample = graph.add("SD2SampleImage", name="forest.png")
    padded = graph.add("ImagePadForOutpaint", image=sample(), left=0, top=0, right=64, bottom=0, feathering=40)
    latent = graph.add("VAEEncode", pixels=padded(0), vae=vae)()
    masked = graph.add("SetLatentNoiseMask", samples=latent, mask=padded(1))()
    sampled(graph, model, clip, vae, latent=masked)
    (inside,) = server.run(graph).values()
    assert difference(inside, alone(graph)) <= TOLERANCE
