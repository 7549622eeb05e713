"""The Python entry gives the pixels of the shipped workflow of each task, and its documentation runs."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import sd2_family as sd2
import torch
from lora_files import write_lora
from PIL import Image, ImageOps
from sd2_family.headless import graph, overrides
from sd2_family.headless.execute import Executor
from sd2_family.headless.library import LIBRARY
from sd2_family.nodes import sample_image
from sd2_family.pipeline import pil
from torch.nn import functional

ROOT = Path(__file__).parent.parent
DEMO = "sd2-demo-{}.safetensors"
SAMPLES = sample_image.SAMPLES
FAST = {"steps": 3, "width": 64, "height": 64}


def sample(name):
    return SAMPLES / f"{name}.png"


def mask(name):
    return SAMPLES / f"{name}_mask.png"


def padded(name, *, left):
    """A sample with a gray border at the left, and the mask of the border."""
    pixels = pil.load(sample(name))[0]
    image, border = (functional.pad(x, (0, 0, left, 0), value=0.5) for x in (pixels, torch.zeros_like(pixels)))
    return image, (border[..., 0] > 0).float()


SMALL = (0, 0, 64, 64)  # the part of an image that is upscaled
# the task of each shipped workflow with the workflow's values
TASKS = {
    "txt2img": lambda m, **s: m.text_to_image("a red boat on a beach", seed=5, **s),
    "txt2img_v": lambda m, **s: m.text_to_image("a red umbrella on a beach", seed=2, **s),
    "img2img": lambda m, **s: m.image_to_image(sample("sunset"), "an orange balloon at sunset", seed=3, **s),
    "inpaint": lambda m, **s: m.inpaint(
        sample("snowfield"), mask("snowfield"), "a red house in the snow", context=2.0, seed=1, **s
    ),
    "inpaint_v1": lambda m, **s: m.inpaint(
        sample("night"), mask("night"), "a yellow car under a night sky", context=2.0, seed=8, sampler="plms", **s
    ),
    "inpaint_outpaint": lambda m, **s: m.inpaint(*padded("beach", left=64), "a beach", context=2.0, seed=2, **s),
    "inpaint_remove_object": lambda m, **s: m.inpaint(
        sample("snow"), mask("snow"), "", fill="surroundings", denoise=0.6, context=2.0, seed=3, **s
    ),
    "inpaint_refine": lambda m, **s: m.inpaint(
        sample("sunset"), mask("sunset"), "a red balloon at sunset", denoise=0.5, context=2.0, seed=1, **s
    ),
    "inpaint_replace_background": lambda m, **s: m.inpaint(
        sample("meadow"),
        ImageOps.invert(Image.open(mask("meadow"))),
        "a red rocket under a night sky",
        blend="none",
        context=2.0,
        seed=3,
        **s,
    ),
    "unclip_variations": lambda m, **s: m.variations(sample("sunset"), seed=2, cfg=6.0, **s),
    "unclip_mix": lambda m, **s: m.variations(
        [sample("beach"), sample("night")], weights=[0.6, 0.4], seed=6, cfg=6.0, **s
    ),
    "depth2img": lambda m, **s: m.depth_to_image(sample("desert"), "a red car in a meadow", seed=3, **s),
    "upscale_x4": lambda m, **s: m.upscale(
        Image.open(sample("beach")).crop(SMALL), "a red boat on a beach", seed=3, cfg=1.0, **s
    ),
}
NODES_ONLY = {"inpaint_depth", "inpaint_variation"}
OWN_SIZE = {name for name in TASKS if "inpaint" in name} | {"upscale_x4"}  # the others take width and height


@pytest.fixture
def run_workflow(tmp_path, use_folders):
    """run_workflow(name, settings): the saved image of a shipped workflow, uint8 [H, W, 3]."""
    use_folders(output=tmp_path / "out", input=tmp_path)

    def run(name, settings):
        executor = Executor(LIBRARY)
        workflow = executor.read(ROOT / "workflows" / f"{name}.json")
        for setting in settings:
            overrides.set_value(workflow, setting, LIBRARY)
        executor.check(workflow)
        shown = dict(executor.run(workflow))
        (saved,) = [v["images"][0] for v in shown.values() if not v["images"][0]["subfolder"]]
        return np.asarray(Image.open(tmp_path / "out" / saved["filename"]))

    return run


@pytest.mark.parametrize("workflow", TASKS)
def test_same_pixels_as_the_workflow(workflow, run_workflow, tmp_path, monkeypatch):
    prompt = graph.read(ROOT / "workflows" / f"{workflow}.json", LIBRARY).prompt
    if workflow == "upscale_x4":
        Image.open(sample("beach")).crop(SMALL).save(tmp_path / "beach.png")
        monkeypatch.setattr(sample_image, "SAMPLES", tmp_path)
    values = {"steps": 3} if workflow in OWN_SIZE else FAST
    expected = run_workflow(
        workflow,
        [f"{key}.{name}={values[name]}" for key, node in prompt.items() for name in values if name in node["inputs"]],
    )
    (name,) = [node["inputs"]["ckpt_name"] for node in prompt.values() if "ckpt_name" in node["inputs"]]
    result = TASKS[workflow](sd2.load(name), **values)
    assert np.array_equal(np.asarray(result.image), expected)
    assert result.seconds > 0


@pytest.mark.parametrize("blend", ["membrane", "feather", "none"])
def test_inpainting_changes_no_pixel_outside_the_mask(blend):
    before, hole = np.asarray(Image.open(sample("night")).convert("RGB")), np.asarray(Image.open(mask("night")))
    model = sd2.load(DEMO.format("inpaint"))
    after = model.inpaint(sample("night"), mask("night"), "a yellow car", seed=1, steps=2, blend=blend, blur=6).image
    assert np.array_equal(np.asarray(after)[hole == 0], before[hole == 0])
    assert not np.array_equal(np.asarray(after)[hole > 0], before[hole > 0])


@pytest.mark.parametrize("kind", ["base", "v", "depth", "unclip"])
def test_any_checkpoint_inpaints(kind):
    before, hole = np.asarray(Image.open(sample("night")).convert("RGB")), np.asarray(Image.open(mask("night")))
    model = sd2.load(DEMO.format(kind))
    after, masked = (
        np.asarray(model.inpaint(sample("night"), mask("night"), "a yellow car", seed=1, steps=2, **how).image)
        for how in ({}, {"inner_steps": 0})
    )
    assert np.array_equal(after[hole == 0], before[hole == 0])
    assert not np.array_equal(after[hole > 0], masked[hole > 0])


def test_the_upscaler_does_not_inpaint():
    with pytest.raises(ValueError, match=r"kind x4\); load one of kind v1-inpaint"):
        sd2.load(DEMO.format("upscale").replace("upscale", "x4")).inpaint(sample("night"), mask("night"), "x")


def test_every_workflow_has_its_task():
    assert set(TASKS) | NODES_ONLY == {path.stem for path in (ROOT / "workflows").glob("*.json")}


@pytest.fixture(scope="module")
def base():
    return sd2.load(DEMO.format("base"))


def test_images_of_every_kind_are_taken(base):
    path = sample("sunset")
    pixels = torch.from_numpy(np.array(Image.open(path).convert("RGB"), np.float32) / 255)
    given = [path, str(path), Image.open(path), pixels, pixels[None]]
    results = [base.image_to_image(one, "a boat", seed=1, steps=2, denoise=0.5).image for one in given]
    assert all(np.array_equal(np.asarray(results[0]), np.asarray(other)) for other in results[1:])


def test_any_size_comes_back(base):
    image = Image.new("RGB", (70, 50), "orange")
    assert base.image_to_image(image, "a boat", seed=1, steps=2).image.size == (70, 50)
    with pytest.raises(ValueError, match="100 x 64 is not a multiple of 8"):
        base.text_to_image("a boat", width=100, height=64)


def test_a_batch_of_prompts_is_one_image_each(base):
    prompts = ["a red boat on a beach", "a cat " * 80]  # the second is two chunks long
    both = base.text_to_image(prompts, seed=4, **FAST)
    noise = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(4))
    assert len(both.images) == 2
    first = base.text_to_image(prompts[0], seed=4, **FAST).image
    assert torch.equal(noise[0], torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(4))[0])
    assert np.abs(np.asarray(both.images[0], int) - np.asarray(first, int)).max() <= 2  # batched products round apart
    assert np.abs(np.asarray(both.images[0], int) - np.asarray(both.images[1], int)).max() > 30


def test_the_seed_comes_back_and_reproduces(base):
    once = base.text_to_image("a boat", **FAST)
    again = base.text_to_image("a boat", seed=once.seed, **FAST)
    assert np.array_equal(np.asarray(once.image), np.asarray(again.image))


def test_progress_is_reported_and_may_stop(base):
    seen = []
    base.text_to_image("a boat", seed=1, progress=lambda done, total: seen.append((done, total)), **FAST)
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]  # ldm takes 4 steps where 3 are asked for

    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        base.text_to_image("a boat", seed=1, progress=stop, **FAST)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda m: m.variations(sample("forest")), "load one of kind unclip-h or unclip-l"),
        (lambda m: m.depth_to_image(sample("forest"), "x"), "load one of kind v2-depth"),
        (lambda m: m.upscale(sample("forest"), "x"), "load one of kind x4"),
        (lambda m: m.text_to_image("x", sampler="ddmi"), "sampler is 'ddmi'; choose one of ddim, plms"),
        (lambda m: m.text_to_image("x", scheduler="no"), "scheduler is 'no'; choose one of ldm"),
        (lambda m: m.text_to_image([]), "there is no prompt"),
        (lambda m: m.image_to_image(ROOT / "README.md", "x"), r"README\.md is not a readable image"),
    ],
)
def test_what_is_wrong_is_one_sentence(base, call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call(base)


def test_an_unknown_setting_is_named(base):
    with pytest.raises(TypeError, match="there is no setting stpes; the settings are seed, steps"):
        base.text_to_image("x", stpes=3)


def test_what_to_load_may_be_a_name_or_a_path(tmp_path):
    path = ROOT / "models" / "demo" / DEMO.format("base")
    assert sd2.load(path).report == sd2.load(DEMO.format("base")).report
    with pytest.raises(ValueError, match=r"none\.safetensors is not in"):
        sd2.load("none.safetensors")


def test_a_mask_may_be_white_or_transparent():
    from sd2_family.pipeline.stable_diffusion import _mask

    drawn = np.zeros((8, 8), np.uint8)
    drawn[2:5, 2:5] = 255
    white = Image.fromarray(drawn)
    clear = Image.new("RGBA", (8, 8), "red")
    clear.putalpha(Image.fromarray(255 - drawn))
    assert torch.equal(_mask(white)[0], torch.from_numpy(drawn / np.float32(255)))
    assert torch.equal(_mask(clear), _mask(white))


def small_lora(width):
    """A LoRA of one layer of a demo checkpoint."""
    name = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q"
    generator = torch.Generator().manual_seed(0)
    return {
        f"{name}.lora_up.weight": torch.randn(width, 4, generator=generator),
        f"{name}.lora_down.weight": torch.randn(4, width, generator=generator),
    }


def test_with_lora_leaves_the_model_as_it_is(base, tmp_path):
    write_lora(tmp_path / "style.safetensors", small_lora(128))
    plain = base.text_to_image("a boat", seed=4, **FAST).image
    styled = base.with_lora(tmp_path / "style.safetensors", 4.0)
    both = styled.with_lora(str(tmp_path / "style.safetensors"), -4.0, text_strength=1.0)
    pictures = [np.asarray(model.text_to_image("a boat", seed=4, **FAST).image, int) for model in (base, styled, both)]
    assert np.array_equal(pictures[0], np.asarray(plain, int))
    assert np.abs(pictures[1] - pictures[0]).max() > 30
    assert np.abs(pictures[2] - pictures[0]).max() <= 1  # W + d - d rounds
    with pytest.raises(ValueError, match=r"none\.safetensors does not exist"):
        base.with_lora("none.safetensors")


def test_the_documentation_runs(tmp_path, monkeypatch):
    """Every example of docs/python.md, in order, in one namespace."""
    page = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
    examples = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert len(examples) >= 6
    monkeypatch.chdir(tmp_path)
    for name in ("forest", "sunset", "desert", "beach", "night"):
        pil.to_pil(pil.load(sample(name))[0][0]).save(f"{name}.png")
    Image.open(mask("forest")).save("forest_mask.png")
    for name in ("style", "detail"):
        write_lora(tmp_path / f"{name}.safetensors", small_lora(128))
    namespace = {}
    for example in examples:
        exec(compile(example, "docs/python.md", "exec"), namespace)  # noqa: S102
    assert (tmp_path / "house.png").is_file()


def test_import_is_quick():
    """torch is imported at first use only."""
    code = "import sys, sd2_family; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT.parent, check=False).returncode == 0


def test_a_small_hole_in_a_large_image_is_painted_at_the_models_size():
    painter = sd2.load(DEMO.format("inpaint"))
    large = Image.effect_noise((500, 400), 60).convert("RGB")
    mask = Image.new("L", large.size)
    mask.paste(255, (300, 200, 340, 240))
    result = painter.inpaint(large, mask, "a red house", seed=1, steps=2, context=1.5).image
    changed = np.any(np.asarray(result) != np.asarray(large), axis=-1)
    assert changed.any()
    assert not (changed & (np.asarray(mask) == 0)).any()
