"""The shipped workflows as a person meets them on the canvas: room, wires, an image of one's own, app mode."""

import json
import math
import re
import shutil
from itertools import pairwise

import pytest
from PIL import Image, ImageChops
from sd2_family.headless import graph
from sd2_family.headless.cli import main
from sd2_family.headless.library import LIBRARY
from sd2_family.nodes.sample_image import SAMPLES
from shipped import FOLDER, NOTES, WORKFLOWS, executable, named, note, quick, saved

README = FOLDER.parent / "README.md"
TITLE_BAR = 30  # the canvas draws a node's title above its position
BYPASSED = 4
# the least height of a node's body in Nodes 2.0, measured in ComfyUI 0.33 at a width of 350, of those that show images
# with an image of 128 px; taller than in the older style, where an image adds 200 at least
LEAST = {
    "SD2CheckpointLoader": 242,
    "SD2CLIPTextEncode": 126,
    "SD2MaskPreprocess": 274,
    "SD2InpaintCrop": 306,
    "SD2VAEEncodeForInpaint": 194,
    "SD2UpscaleConditioning": 154,
    "SD2UnCLIPConditioning": 190,
    "SD2LoadImageEmbedding": 86,
    "SD2KSampler": 370,
    "SD2Sampler": 154,
    "SD2Scheduler": 142,
    "SD2VAEDecode": 106,
    "SD2Composite": 154,
    "SD2InpaintStitch": 134,
    "SD2ColorMatch": 106,
    "SD2DepthEstimate": 78,
    "SD2DepthConditioning": 154,
    "SD2SampleImage": 338,
    "SD2RandomMask": 198,
    "CLIPTextEncode": 102,
    "CLIPVisionEncode": 82,
    "EmptyLatentImage": 118,
    "GrowMask": 86,
    "ImagePadForOutpaint": 190,
    "ImageScale": 146,
    "ImageScaleBy": 90,
    "InvertMask": 34,
    "KSampler": 262,
    "LoadImage": 326,
    "LoadImageMask": 334,
    "LoraLoader": 138,
    "MaskToImage": 34,
    "PreviewAny": 138,
    "PreviewImage": 266,
    "SaveImage": 302,
    "SetLatentNoiseMask": 54,
    "ThresholdMask": 62,
    "VAEDecode": 54,
    "VAEEncode": 54,
}


@pytest.fixture(params=WORKFLOWS, ids=named)
def template(request):
    return saved(request.param)


def box(node):
    (x, y), (width, height) = node["pos"], node["size"]
    return x, y - TITLE_BAR, x + width, y + height


def ends(node, name):
    """Where the canvas draws a node's slot: an input by its name, an output by its number."""
    (x, y), (width, _) = node["pos"], node["size"]
    if isinstance(name, int):
        return x + width, y + 14 + 20 * name
    slots = [entry["name"] for entry in node["inputs"] if "widget" not in entry]
    return x, y + 14 + 20 * slots.index(name)


def wire(data, link):
    """Points along a wire: a spline from slot to slot, or nearly straight from each reroute to the next."""
    number, source, output, target, entry, _ = link
    nodes = {node["id"]: node for node in data["nodes"]}
    extra = data["extra"]
    reroutes = {reroute["id"]: reroute for reroute in extra.get("reroutes", ())}
    last = {item["id"]: item["parentId"] for item in extra.get("linkExtensions", ())}.get(number)
    way = []
    while last:
        assert number in reroutes[last]["linkIds"]
        way.insert(0, tuple(reroutes[last]["pos"]))
        last = reroutes[last].get("parentId")
    way = [ends(nodes[source], output), *way, ends(nodes[target], nodes[target]["inputs"][entry]["name"])]
    steps = [index / 60 for index in range(61)]
    if len(way) > 2:
        legs = pairwise(way)
        return [(a + t * (c - a), b + t * (d - b)) for (a, b), (c, d) in legs for t in steps]
    (a, b), (c, d) = way
    pull = math.hypot(c - a, d - b) / 4  # of the spline's control points, to the right and to the left
    return [
        (
            (1 - t) ** 3 * a + 3 * (1 - t) ** 2 * t * (a + pull) + 3 * (1 - t) * t**2 * (c - pull) + t**3 * c,
            (1 - t) ** 3 * b + 3 * (1 - t) ** 2 * t * b + 3 * (1 - t) * t**2 * d + t**3 * d,
        )
        for t in steps
    ]


@pytest.mark.cosmetics
def test_nodes_have_the_room_they_take_in_either_style(template):
    for node in executable(template):
        assert node["size"][1] >= LEAST[node["type"]], node["title"]
        assert node["size"][0] >= 350, node["title"]


@pytest.mark.cosmetics
def test_no_wire_runs_behind_a_node(template):
    for link in template["links"]:
        for x, y in wire(template, link):
            for node in template["nodes"]:
                left, top, right, bottom = box(node)
                assert not (left + 2 < x < right - 2 and top < y < bottom), (link, node["title"])


@pytest.mark.cosmetics
def test_every_seed_changes_after_a_run(template):
    for node in executable(template):
        assert "fixed" not in node.get("widgets_values", ()), node["title"]


@pytest.mark.cosmetics
def test_note_links_to_the_page_of_the_file():
    for path in WORKFLOWS:
        rows = [line for line in README.read_text(encoding="utf-8").splitlines() if f"(workflows/{path.name})" in line]
        (page,) = {re.search(r"\((https://\S+?)\)", row)[1] for row in rows}
        assert re.search(rf"Download \[\S+\]\({re.escape(page)}\)", note(path)), path.stem


@pytest.mark.cosmetics
def test_load_image_waits_beside_each_sample_image(template):
    samples = [node for node in template["nodes"] if node["type"] == "SD2SampleImage"]
    own = {node["id"]: node for node in template["nodes"] if node["type"] == "LoadImage"}
    links = {link[0]: link for link in template["links"]}
    fed = set()
    for sample in samples:
        by_name = {entry["name"]: entry["link"] for entry in sample["inputs"]}
        sources = [links[by_name[name]][1:3] for name in ("image", "mask")]
        assert [slot for _, slot in sources] == [0, 1]
        (source,) = {node for node, _ in sources}
        assert own[source]["mode"] == BYPASSED
        assert own[source]["title"] in note_of(template)
        fed.add(source)
    assert len(fed) == len(samples)


def note_of(data):
    return "".join(str(node["widgets_values"][0]) for node in data["nodes"] if node["type"] in NOTES)


def test_an_image_of_ones_own_needs_one_click(tmp_path, monkeypatch, capsys):
    """The click: the end of Load Image's bypass. The file is another sample, which the other node gives as well."""
    shutil.copy(SAMPLES / "snow.png", tmp_path / "example.png")
    monkeypatch.chdir(tmp_path)
    data = saved(FOLDER / "img2img.json")

    def run(mode, *settings):
        (own,) = [node for node in data["nodes"] if node["type"] == "LoadImage"]
        own["mode"] = mode
        path = tmp_path / "workflow.json"
        path.write_text(json.dumps(data))
        words = [word for setting in (*quick(path, steps=2), *settings) for word in ("--set", setting)]
        assert main(["run", str(path), "--input-dir", str(tmp_path), *words]) == 0
        with Image.open(tmp_path / capsys.readouterr().out.split()[-1]) as picture:
            return picture.convert("RGB")

    bundled, own, same = run(BYPASSED), run(0), run(BYPASSED, "Picture.name=snow.png")
    assert ImageChops.difference(own, same).getbbox() is None
    assert ImageChops.difference(own, bundled).getbbox() is not None


@pytest.mark.cosmetics
def test_app_mode_shows_inputs_and_the_result(template):
    nodes = {node["id"]: node for node in template["nodes"]}
    app = template["extra"]["linearData"]
    assert template["extra"]["linearMode"] is False  # opens as a graph
    assert [nodes[node]["type"] for node in app["outputs"]] == ["SaveImage"]
    shown = [(nodes[node], widget) for node, widget in app["inputs"]]
    assert {"text", "seed"} <= {widget for _, widget in shown}
    for node, widget in shown:
        assert widget in [entry["name"] for entry in node["inputs"] if "widget" in entry]
        assert node["mode"] == 0


@pytest.mark.cosmetics
def test_reroutes_change_no_wire(template):
    """They are drawn only; what runs is in the links."""
    plain = json.loads(json.dumps(template))
    for key in ("reroutes", "linkExtensions"):
        plain["extra"].pop(key, None)
    assert graph.from_json(plain, LIBRARY).prompt == graph.from_json(template, LIBRARY).prompt
    on_the_way = {number for reroute in template["extra"].get("reroutes", ()) for number in reroute["linkIds"]}
    assert on_the_way == {item["id"] for item in template["extra"].get("linkExtensions", ())}
