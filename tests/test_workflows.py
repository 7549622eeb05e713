"""The shipped workflows: as the canvas saves them, tidy to look at, and run from file to picture."""

import json
import re

import numpy as np
import pytest
import torch
from canvases import Canvas
from PIL import Image
from sd2_family.backends.folders import BUNDLED
from sd2_family.headless import graph
from sd2_family.headless.check import check
from sd2_family.headless.cli import main
from sd2_family.headless.image_files import image_text
from sd2_family.headless.inputs import inputs_of
from sd2_family.headless.library import LIBRARY
from sd2_family.nodes.sample_image import SAMPLES
from sd2_family.pipeline.blend import composite
from sd2_family.pipeline.pil import load
from shipped import FOLDER, OFFICIAL, WORKFLOWS, checkpoint, classed, executable, named, note, quick, saved
from torch.nn import functional

ROOT = FOLDER.parent
BYPASSED = 4  # a node's mode
TITLE_BAR = 30  # the canvas draws a node's title above its position
SIZE = (40, 56)  # height and width of the pictures here
CROP = 64  # width and height of a crop here
SMALL = {"steps": 2, "width": SIZE[1], "height": SIZE[0], "target_width": CROP, "target_height": CROP}
SIDE = 256  # of a thumbnail


@pytest.fixture
def bundle(tiny_models, tmp_path, monkeypatch, use_folders):
    """Writes tiny stand-ins for what a workflow names: its official checkpoint, and pictures [H, W, 3] with masks."""
    names = [path.name for path in SAMPLES.glob("*.png") if not path.stem.endswith("_mask")]

    def make(path):
        (tmp_path / "checkpoints").mkdir()
        (tmp_path / "samples").mkdir()
        (tmp_path / "checkpoints" / checkpoint(path)).symlink_to(tiny_models.file(OFFICIAL[path.stem].kind))
        mask = np.zeros(SIZE, np.uint8)
        mask[8:24, 16:40] = 255
        pictures = {}
        for seed, name in enumerate(names):
            pixels = np.random.default_rng(seed).integers(0, 256, (*SIZE, 3), np.uint8)
            picture = tmp_path / "samples" / name
            Image.fromarray(pixels).save(picture)
            Image.fromarray(mask).save(picture.with_stem(f"{picture.stem}_mask"))
            pictures[name] = torch.from_numpy(pixels).float() / 255
        return pictures, torch.from_numpy(mask).float() / 255

    use_folders(models=tmp_path)
    monkeypatch.setattr("sd2_family.nodes.sample_image.SAMPLES", tmp_path / "samples")
    monkeypatch.chdir(tmp_path)
    return make


@pytest.fixture
def run(tmp_path, capsys):
    """Runs a workflow in two steps at a small size, with settings: the file of the picture that it saves."""

    def run(path, *settings):
        settings = [*quick(path, **SMALL), *settings]
        assert main(["run", str(path), *(word for setting in settings for word in ("--set", setting))]) == 0
        said = capsys.readouterr()
        assert "Sampler: 100%" in said.err
        (picture,) = (line for line in said.out.splitlines() if "preview" not in line)
        return tmp_path / picture

    return run


def shown(file):
    """The picture [H, W, 3] of a file."""
    return load(file)[0][0]


def sampled(path):
    """The name of the picture that a workflow reads."""
    (name,) = [node["widgets_values"][0] for node in saved(path)["nodes"] if node["type"] == "SD2SampleImage"]
    return name


def test_there_are_workflows():
    assert {path.stem for path in WORKFLOWS} == set(OFFICIAL)


@pytest.mark.parametrize("path", WORKFLOWS, ids=named)
def test_links_agree_at_both_ends(path):
    data = saved(path)
    nodes = {node["id"]: node for node in data["nodes"]}
    assert data["version"] == 0.4
    assert len(nodes) == len(data["nodes"])
    assert data["last_node_id"] >= max(nodes)
    assert data["last_link_id"] >= max(link[0] for link in data["links"])
    for link, source, output, target, entry, kind in data["links"]:
        assert link in nodes[source]["outputs"][output]["links"]
        assert nodes[target]["inputs"][entry]["link"] == link
        assert nodes[source]["outputs"][output]["type"] == kind
        assert nodes[source]["order"] < nodes[target]["order"]
    ends = [entry["link"] for node in data["nodes"] for entry in node["inputs"] if entry["link"] is not None]
    assert sorted(ends) == sorted(link[0] for link in data["links"])
    assert sorted(node["order"] for node in data["nodes"]) == list(range(len(nodes)))


@pytest.mark.parametrize("path", WORKFLOWS, ids=named)
def test_slots_and_values_are_those_of_the_classes(path):
    for node in classed(saved(path)):
        node_class = LIBRARY.classes[node["type"]]
        declared = inputs_of(node_class)
        sockets = [entry.name for entry in declared.values() if not entry.widget]
        widgets = [entry.name for entry in declared.values() if entry.widget]
        assert [entry["name"] for entry in node["inputs"]] == sockets + widgets
        assert [entry["type"] for entry in node["inputs"]] == [declared[name].type for name in sockets + widgets]
        assert [output["type"] for output in node["outputs"]] == list(node_class.RETURN_TYPES)
        controls = sum(entry.seed_control for entry in declared.values())
        assert len(node["widgets_values"]) == len(widgets) + controls


@pytest.mark.parametrize("path", WORKFLOWS, ids=named)
def test_titles_name_one_node_each(path):
    titles = [node["title"] for node in saved(path)["nodes"]]
    assert len(set(titles)) == len(titles)  # --set finds nodes by title


@pytest.mark.cosmetics
@pytest.mark.parametrize("path", WORKFLOWS, ids=named)
def test_nodes_are_coloured_and_apart(path):
    data = saved(path)
    boxes = []
    for node in data["nodes"]:
        (x, y), (width, height) = node["pos"], node["size"]
        boxes.append((x, y - TITLE_BAR, x + width, y + height))
        assert node["color"]
        assert node["bgcolor"]
        around = [
            group
            for group in data["groups"]
            if group["bounding"][0] < x
            and group["bounding"][1] + TITLE_BAR <= y - TITLE_BAR  # clear of the group's own title
            and group["bounding"][0] + group["bounding"][2] > x + width
            and group["bounding"][1] + group["bounding"][3] > y + height
        ]
        assert len(around) == 1, node["title"]
    for group in data["groups"]:
        x, y, width, height = group["bounding"]
        others = [other["bounding"] for other in data["groups"] if other is not group]
        assert not any(overlap((x, y, x + width, y + height), (a, b, a + c, b + d)) for a, b, c, d in others)
    assert not any(overlap(one, two) for i, one in enumerate(boxes) for two in boxes[:i])


def overlap(one, two):
    return one[0] < two[2] and two[0] < one[2] and one[1] < two[3] and two[1] < one[3]


@pytest.mark.cosmetics
@pytest.mark.parametrize("path", WORKFLOWS, ids=named)
def test_columns_begin_and_end_on_the_same_lines(path):
    data = saved(path)
    boxes = [group["bounding"] for group in data["groups"]]
    assert boxes[0][:2] == [10, 10]
    assert all(value % 10 == 0 for box in boxes for value in box)
    columns = {x: [box for box in boxes if box[0] == x] for x in {box[0] for box in boxes}}
    assert len({max(y + height for _, y, _, height in column) for column in columns.values()}) == 1
    assert data["groups"][0]["title"] == "Load"
    assert data["groups"][-1]["title"] == "Result"
    assert set(data["extra"]) <= {"ds", "reroutes", "linkExtensions", "linearData", "linearMode"}
    assert set(data["extra"]["ds"]) == {"scale", "offset"}


@pytest.mark.cosmetics
@pytest.mark.parametrize("path", WORKFLOWS, ids=named)
def test_ids_are_counted_without_gaps_at_the_end(path):
    data = saved(path)
    assert data["last_node_id"] == max(node["id"] for node in data["nodes"])
    assert data["last_link_id"] == max(link[0] for link in data["links"])


@pytest.mark.cosmetics
@pytest.mark.parametrize("path", WORKFLOWS, ids=named)
def test_note_says_where_the_official_checkpoint_goes(path):
    official = OFFICIAL[path.stem]
    for words in (f"[{official.file}](", " ComfyUI/models/checkpoints.", official.draws):
        assert words in note(path)
    assert "This workflow runs as is" in note(path)
    assert "`" not in note(path)  # Nodes 2.0 draws code blue on blue in its dark theme


@pytest.mark.cosmetics
@pytest.mark.parametrize("path", WORKFLOWS, ids=named)
def test_note_speaks_of_nodes_and_values_that_are_there(path):
    nodes = classed(saved(path))
    names = {node["title"] for node in nodes} | {entry["name"] for node in nodes for entry in node["inputs"]}
    bold = re.findall(r"\*\*(.+?)\*\*(?!\n)", note(path))  # else it is a heading
    assert bold
    assert set(bold) <= names


@pytest.mark.cosmetics
@pytest.mark.parametrize("path", WORKFLOWS, ids=named)
def test_readme_names_the_workflow_with_its_file(path):
    rows = [line for line in (ROOT / "README.md").read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    (row,) = [row for row in rows if f"(workflows/{path.name})" in row]
    assert f"`{OFFICIAL[path.stem].file}`" in row


@pytest.mark.parametrize("path", WORKFLOWS, ids=named)
def test_it_has_a_thumbnail(path):
    with Image.open(path.with_suffix(".jpg")) as thumbnail:
        assert thumbnail.size == (SIDE, SIDE)
        assert thumbnail.format == "JPEG"


@pytest.mark.parametrize("path", WORKFLOWS, ids=named)
def test_both_formats_check_and_give_the_same_calls(path, bundle):
    bundle(path)
    from_canvas = graph.read(path, LIBRARY)
    check(from_canvas, LIBRARY)
    from_api = graph.from_json(json.loads(json.dumps(from_canvas.prompt)), LIBRARY)
    check(from_api, LIBRARY)
    assert from_api.prompt == from_canvas.prompt
    named_inputs = {key: set(node["inputs"]) for key, node in from_canvas.prompt.items()}
    data = saved(path)
    bypassed = {node["id"] for node in data["nodes"] if node["mode"] == BYPASSED}
    dropped = {link[0] for link in data["links"] if link[1] in bypassed}
    assert named_inputs == {
        str(node["id"]): {
            entry["name"] for entry in node["inputs"] if "widget" in entry or entry["link"] not in {None, *dropped}
        }
        for node in executable(data)
        if node["id"] not in bypassed
    }


@pytest.mark.parametrize("path", WORKFLOWS, ids=named)
def test_workflow_runs_to_a_picture_and_again_to_the_same(path, bundle, run):
    bundle(path)
    files = [run(path), run(path), run(path, "Sampler.seed=77")]
    first, again, other = map(shown, files)
    factor = 4 if path.stem == "upscale_x4" else 1
    assert first.shape == (factor * SIZE[0], factor * SIZE[1] + sum(padding(path)[:2]), 3)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)

    embedded, drawn = json.loads(image_text(files[0])["workflow"]), saved(path)
    (sampler,) = [node for node in embedded["nodes"] if node["title"] == "Sampler"]
    assert sampler["widgets_values"][2] == 2
    for node, before in zip(embedded["nodes"], drawn["nodes"], strict=True):
        if set(SMALL) & {entry["name"] for entry in node["inputs"]}:
            node["widgets_values"] = before["widgets_values"]  # what `run` has set
    assert embedded == drawn


INPAINTING = [path for path in WORKFLOWS if path.stem.startswith("inpaint")]


def padding(path):
    """How much a workflow adds at left, right, top and bottom, in pixels."""
    values = [node["widgets_values"] for node in saved(path)["nodes"] if node["type"] == "ImagePadForOutpaint"]
    left, top, right, bottom = values[0][:4] if values else (0, 0, 0, 0)
    return left, right, top, bottom


def drawn(path, picture, mask):
    """What a workflow repaints: its input [H, W, 3] in the size of the result, and the mask [H, W] before any grow."""
    sides = padding(path)
    if any(sides):
        return functional.pad(picture, (0, 0, *sides)), functional.pad(torch.zeros_like(mask), sides, value=1)
    (values,) = [node["widgets_values"] for node in saved(path)["nodes"] if node["type"] == "SD2MaskPreprocess"]
    invert = values[4]
    return picture, 1 - mask if invert else mask


@pytest.mark.parametrize("path", INPAINTING, ids=named)
def test_inpainting_repaints_the_mask_as_drawn_and_changes_no_pixel_outside(path, bundle, run):
    pictures, mask = bundle(path)
    original, mask = drawn(path, pictures[sampled(path)], mask)
    result = shown(run(path))
    assert torch.equal(result[mask == 0], original[mask == 0])
    assert not torch.equal(result[mask == 1], original[mask == 1])


def test_a_composite_saved_without_the_last_widget_blends_by_its_default(tmp_path, monkeypatch):
    """As canvases and queues saved it before there was `blend`."""
    monkeypatch.chdir(tmp_path)
    canvas = Canvas()
    before, after = (
        canvas.add("SD2SampleImage", [name], outputs=["IMAGE", "MASK"]) for name in ("snow.png", "night.png")
    )
    links = {"original": (before, 0), "generated": (after, 0), "mask": (after, 1)}
    old = canvas.add("SD2Composite", [False], outputs=["IMAGE"], inputs=links)
    canvas.add("SaveImage", ["old"], inputs={"images": (old, 0)})
    path = tmp_path / "old.json"
    path.write_text(json.dumps(canvas.json()))
    check(graph.from_json(graph.read(path, LIBRARY).prompt, LIBRARY), LIBRARY)
    assert main(["run", str(path)]) == 0
    snow, night = (load(SAMPLES / f"{name}.png")[0] for name in ("snow", "night"))
    where = load(SAMPLES / "night_mask.png")[0][..., 0]
    for blend in ("membrane", "none"):
        expected = composite(snow, night, where, color_match=False, blend=blend)[0]
        gap = (shown(tmp_path / "output" / "old_00001_.png") - expected).abs().max()
        same = gap <= 1.01 / 255  # a file drops fractions
        assert same == (blend == "membrane")


@pytest.mark.parametrize(
    ("name", "setting"),
    [
        ("txt2img", "Prompt.text=a house"),
        ("txt2img", "Negative prompt.text=a house"),
        ("txt2img_v", "Prompt.text=a house"),
        ("txt2img_v", "Checkpoint.prediction=epsilon"),
        ("img2img", "Prompt.text=a house"),
        ("img2img", "Picture.name=snow.png"),
        ("inpaint", "Crop.context=1"),
        ("inpaint", "Stitch.blend=none"),
        ("inpaint_v1", "Mask.grow=12"),
        ("inpaint_depth", "Prompt.text=a house"),
        ("inpaint_outpaint", "Pad.top=8"),
        ("inpaint_refine", "Sampler.denoise=1"),
        ("inpaint_remove_object", "Encode for inpainting.fill=grey"),
        ("inpaint_replace_background", "Mask.invert=false"),
        ("inpaint_variation", "Add picture.noise_level=700"),
        ("inpaint_v1", "Sampler.sampler_name=ddim"),
        ("unclip_variations", "Picture.name=snow.png"),
        ("unclip_variations", "Add picture.noise_level=700"),
        ("unclip_mix", "Add picture 1.weight=0"),
        ("unclip_mix", "Add picture 2.weight=0"),
        ("unclip_mix", "Picture 1.name=snow.png"),
        ("unclip_mix", "Picture 2.name=snow.png"),
        ("unclip_mix", "Prompt.text=in the snow"),
        ("depth2img", "Picture.name=snow.png"),
        ("depth2img", "Prompt.text=a house"),
        ("upscale_x4", "Picture.name=snow.png"),
        ("upscale_x4", "Picture to enlarge.noise_level=200"),
        ("upscale_x4", "Prompt.text=a house"),
    ],
)
def test_what_the_canvas_offers_has_an_effect(name, setting, bundle, run):
    path = FOLDER / f"{name}.json"
    bundle(path)
    assert not torch.equal(shown(run(path)), shown(run(path, setting)))


def test_v_is_what_the_v_workflow_finds_out(bundle, run):
    path = FOLDER / "txt2img_v.json"
    bundle(path)
    assert torch.equal(shown(run(path)), shown(run(path, "Checkpoint.prediction=v_prediction")))


@pytest.mark.parametrize(("name", "guided"), [("img2img", False), ("depth2img", True)])
def test_from_pure_noise_only_a_depth_map_tells_of_the_picture(name, guided, bundle, run):
    path = FOLDER / f"{name}.json"
    bundle(path)
    forgetful = "Sampler.denoise=1"
    here, there = shown(run(path, forgetful)), shown(run(path, forgetful, "Picture.name=snow.png"))
    assert torch.equal(here, there) != guided


def test_an_enlarged_picture_keeps_its_mean_colour(bundle, run):
    path = FOLDER / "upscale_x4.json"
    pictures, _ = bundle(path)

    def gap(*settings):
        return (shown(run(path, *settings)).mean((0, 1)) - pictures[sampled(path)].mean((0, 1))).abs().max()

    assert gap() <= 1 / 255
    assert gap("Keep the colors.enabled=false") > 1 / 255


@pytest.mark.parametrize("path", WORKFLOWS, ids=named)
def test_what_a_workflow_names_comes_with_the_pack(path, monkeypatch):
    monkeypatch.delenv("SD2_MODELS_DIR", raising=False)
    check(graph.read(path, LIBRARY), LIBRARY)
    assert (BUNDLED / checkpoint(path)).is_file()
