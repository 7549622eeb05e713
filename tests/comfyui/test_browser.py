"""The pack in a browser on a real ComfyUI: templates, the queue, the node search, tooltips, help pages, Chinese.

Run by themselves, `.ci/run browser` or `pytest -m browser`: a page that is slow to draw holds nothing back.

README's picture of the canvas:
SD2_SCREENSHOT=web/docs/canvas.png pytest -m browser -k "same_after_saving and inpaint and not inpaint_"
"""

import json
import os

import pytest
from canvas import CHROMIUM, OPTIONS, Canvas
from live import ROOT, difference, picture
from sd2_family import NODE_CLASS_MAPPINGS, NODE_DISPLAY_NAME_MAPPINGS
from sd2_family.headless import graph
from sd2_family.headless.library import LIBRARY
from shipped import WORKFLOWS, named, saved

pytestmark = [pytest.mark.comfyui, pytest.mark.browser]

SIDE = 256  # of a thumbnail
FIRST_INPUT = """id => {
    const node = app.graph.getNodeById(id)
    const [x, y] = node.getConnectionPos(true, 0)
    return [node.inputs[0].name, x - node.pos[0], y - node.pos[1]]
}"""


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="the browser tests need playwright")
    if not CHROMIUM:
        pytest.skip("the browser tests need Chromium or Chrome on the PATH")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=OPTIONS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def canvas(browser, server):
    return Canvas(browser, server)


def calls(prompt):
    """What a prompt computes: titles and other remarks left out."""
    return {node_id: (node["class_type"], node["inputs"]) for node_id, node in prompt.items()}


@pytest.mark.parametrize("path", WORKFLOWS, ids=named)
def test_template_runs_and_is_the_same_after_saving(canvas, server, path, tmp_path):
    assert canvas.open_template(path.stem) == [SIDE, SIDE]
    nodes = canvas.nodes()
    assert {node["title"] for node in nodes} == {node["title"] for node in saved(path)["nodes"]}
    assert [node for node in nodes if node["red"]] == []
    assert [node for node in nodes if node["least"][0] > node["size"][0] or node["least"][1] > node["size"][1]] == []
    assert canvas.hidden_lines() == [0]  # of the one note

    canvas.fix_seeds()
    prompt, files = canvas.run()
    assert calls(prompt) == calls(graph.read(path, LIBRARY).prompt)
    bundled = {int(node["id"]) for node in nodes if node["type"] == "SD2SampleImage"}
    assert bundled < set(files)  # they show what they give
    for node, file in files.items():
        assert difference(canvas.shown(node), picture(file)) == 0
    if (where := os.environ.get("SD2_SCREENSHOT")) and path.stem == "inpaint":
        canvas.screenshot(where)

    exported = canvas.export(tmp_path / "saved.json")
    assert calls(graph.from_json(exported, LIBRARY).prompt) == calls(prompt)
    server.forget()
    canvas.open_file(tmp_path / "saved.json")
    again, files_again = canvas.run()
    assert calls(again) == calls(prompt)
    for node, file in files_again.items():
        assert node in bundled or file != files[node]  # nothing came from the cache
        assert difference(picture(file), picture(files[node])) == 0


@pytest.fixture(scope="module")
def vue(browser, server):
    canvas = Canvas(browser, server, vue=True)
    yield canvas
    canvas.page.close()


@pytest.mark.parametrize("path", WORKFLOWS, ids=named)
def test_nodes_2_stay_in_their_groups_and_apart(vue, path):
    vue.open_template(path.stem)
    vue.page.wait_for_timeout(1000)  # ms, for the sizes to settle
    boxes, groups = vue.vue_nodes(), vue.groups()
    assert {title for title, *_ in boxes} == {node["title"] for node in saved(path)["nodes"]}
    for title, left, top, right, bottom in boxes:
        inside = [a < left and b < top and right < c and bottom < d for a, b, c, d in groups]
        assert inside.count(True) == 1, title
        for other, x, y, z, w in boxes:
            assert other == title or left >= z or x >= right or top >= w or y >= bottom, (title, other)


def test_blueprint_is_found_and_added(canvas, server):
    if not any(entry["name"] == "Inpaint (SD2)" for entry in server.get("/global_subgraphs").values()):
        pytest.skip("this ComfyUI offers no blueprints of packs")
    node = canvas.add("Inpaint (SD2)", "Inpaint (SD2)")
    assert (node["title"], node["red"]) == ("Inpaint (SD2)", False)
    inside = canvas.page.evaluate("app.graph.nodes[0].subgraph.nodes.map(n => n.type)")
    assert {"SD2InpaintCrop", "SD2KSampler", "SD2InpaintStitch"} <= set(inside)
    assert canvas.page.evaluate("app.graph.nodes[0].widgets.map(w => w.name)")[0] == "text"


def test_a_wrong_checkpoint_is_marked_on_its_node_before_anything_is_queued(canvas):
    canvas.open_template("depth2img")
    chosen = "n => n.type === 'SD2CheckpointLoader'"
    canvas.page.evaluate(f"app.graph.nodes.find({chosen}).widgets[0].value = 'v2-inpaint.safetensors'")
    with canvas.page.expect_response("**/prompt") as answer:
        canvas.page.get_by_test_id("queue-button").first.click()
    assert answer.value.status == 400
    (wrong,) = answer.value.json()["node_errors"].items()
    assert wrong[1]["class_type"] == "SD2CheckpointLoader"
    assert "has no depth estimator, which Estimate depth needs" in wrong[1]["errors"][0]["details"]
    canvas.page.keyboard.press("Escape")


@pytest.mark.parametrize("name", NODE_CLASS_MAPPINGS)
def test_node_is_found_added_and_explained(canvas, server, name):
    cls, title = NODE_CLASS_MAPPINGS[name], NODE_DISPLAY_NAME_MAPPINGS[name]
    if "search_aliases" in server.get(f"/object_info/{name}")[name]:  # since 0.11
        alias = max(cls.SEARCH_ALIASES, key=len)  # the search shows 64 nodes at most: too few for a word like "text"
        canvas.search(alias).filter(has_text=title).first.wait_for()
    node = canvas.add(title, title)
    assert (node["type"], node["title"], node["red"]) == (name, title, False)

    declared = cls.INPUT_TYPES()
    inputs = {**declared["required"], **declared.get("optional", {})}
    width = node["size"][0]
    assert canvas.hover(node["id"], width / 2, -15) == cls.DESCRIPTION
    assert canvas.hover(node["id"], width - 8, 14) == cls.OUTPUT_TOOLTIPS[0]
    first, across, down = canvas.page.evaluate(FIRST_INPUT, node["id"])
    assert canvas.hover(node["id"], across, down) == inputs[first][1]["tooltip"]

    page = canvas.help(node["id"])
    page.get_by_role("heading", name=title, exact=True).wait_for()
    assert page.evaluate(
        "p => [p, ...p.querySelectorAll('*')].every(e => e.scrollWidth <= Math.max(e.clientWidth, 282))"
    )
    assert {entry.inner_text() for entry in page.locator("tr td:first-child code").all()} >= set(inputs)
    for image in page.locator("img").all():
        assert image.evaluate("async image => (await image.decode(), image.naturalWidth)")


EMPTY_MASK = {
    "1": {"class_type": "SolidMask", "inputs": {"value": 0.3, "width": 64, "height": 64}},
    "2": {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 64, "batch_size": 1, "color": 255}},
    "3": {"class_type": "SD2MaskPreprocess", "inputs": {"mask": ["1", 0], "threshold": 0.5}},
    "4": {"class_type": "SD2Composite", "inputs": {"original": ["2", 0], "generated": ["2", 0], "mask": ["3", 1]}},
    "5": {"class_type": "PreviewImage", "inputs": {"images": ["4", 0]}},
}
# of our nodes the text they show and their height, by their type
SAID = """() => Object.fromEntries(app.graph.nodes.filter(node => node.type.startsWith("SD2")).map(node =>
    [node.type, [node.widgets.find(w => w.name === "$$node-text-preview")?.value ?? "", node.size[1]]]))"""
# by how many pixels a text is longer than its node shows
CLIPPED = """[...document.querySelectorAll("*")].filter(box => box.childElementCount === 0
    && box.textContent.includes("lower threshold")).map(box => box.closest("[class*=overflow]") ?? box.parentElement)
    .map(box => box.scrollHeight - box.clientHeight)"""
NEW_NODES = "Comfy.VueNodes.Enabled"


@pytest.mark.parametrize("vue", [False, True], ids=["classic", "vue"])
def test_what_a_node_says_is_on_it_until_it_runs_again(browser, server, tmp_path, vue):
    server.forget()  # a node whose result is cached says nothing
    server.post("/settings", {NEW_NODES: vue})
    canvas = Canvas(browser, server)
    (tmp_path / "empty.json").write_text(json.dumps(EMPTY_MASK))
    canvas.open_file(tmp_path / "empty.json")
    canvas.page.wait_for_timeout(1000)  # ms, for the layout
    set_value = (
        "([type, name, value]) => app.graph.nodes.find(node => node.type === type)"
        ".widgets.find(widget => widget.name === name).value = value"
    )
    plain = canvas.page.evaluate(SAID)
    assert [text for text, _ in plain.values()] == ["", ""]

    canvas.run()
    canvas.page.wait_for_function("app.graph.nodes.some(n => n.widgets?.some(w => w.name === '$$node-text-preview'))")
    canvas.page.wait_for_timeout(1000)  # ms, for the layout
    said = canvas.page.evaluate(SAID)
    assert said["SD2MaskPreprocess"][0].startswith("nothing is left of the mask after threshold 0.5 and grow 0")
    assert said["SD2Composite"][0].startswith("the mask is empty, so the image is the original")
    assert all(said[node][1] > plain[node][1] for node in said)
    clipped = canvas.page.evaluate(CLIPPED)
    assert clipped
    assert max(clipped) <= 0

    canvas.page.evaluate(set_value, ["SD2Composite", "blend", "none"])  # the other node keeps its result and its text
    canvas.run()
    assert [text for text, _ in canvas.page.evaluate(SAID).values()] == [text for text, _ in said.values()]

    canvas.page.evaluate(set_value, ["SolidMask", "value", 1.0])
    canvas.run()
    canvas.page.wait_for_timeout(1000)  # ms, for the layout
    again = canvas.page.evaluate(SAID)
    assert [text for text, _ in again.values()] == ["", ""]
    assert vue or again == plain
    canvas.page.close()
    server.post("/settings", {NEW_NODES: False})


def test_chinese(browser, server):
    translated = json.loads((ROOT / "locales" / "zh" / "nodeDefs.json").read_text(encoding="utf-8"))["SD2KSampler"]
    canvas = Canvas(browser, server, locale="zh")
    node = canvas.add("SD2KSampler", translated["display_name"])
    assert node["title"] == translated["display_name"]
    assert canvas.hover(node["id"], node["size"][0] / 2, -15) == translated["description"]
    shown = canvas.page.evaluate(
        "id => app.graph.getNodeById(id).inputs.map(i => [i.name, i.label ?? i.localized_name])", node["id"]
    )
    assert dict(shown) == {name: entry["name"] for name, entry in translated["inputs"].items() if name in dict(shown)}
    canvas.page.close()
