"""The page of a ComfyUI server in a browser, with the few gestures that the tests make."""

import base64
import io
import json
import shutil
import urllib.parse

import numpy as np
from PIL import Image

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
# as root and in closed networks too; a page on a CPU draws without a GPU's help
OPTIONS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
OPTIONS += ["--disable-component-update", "--disable-sync"]
SETTINGS = {
    "Comfy.TutorialCompleted": True,  # no greeting
    "Comfy.PromptFilename": False,  # Export asks for no name
    "Comfy.Workflow.Persist": False,  # each page starts with a canvas of its own
    "Comfy.NodeSearchBoxImpl.FollowCursor": False,  # a chosen node lies where the search was opened
    "Comfy.Minimap.Visible": False,
    "Comfy.Graph.CanvasInfo": False,
    "Comfy.Execution.PreviewMethod": "none",  # a node that shows a preview late shows no result
    "LiteGraph.Node.TooltipDelay": 100,  # ms
}
READY = "window.LiteGraph?.registered_node_types?.SD2KSampler && window.app?.canvas?.graph"
PATIENCE = 60_000  # ms: a page of megabytes of script, drawn in software, on a machine that is busy sampling
# of the picture that a node shows: its pixels, not a copy that the server made smaller
SHOWN = """id => {
    const image = app.graph.getNodeById(id).imgs[0]
    const canvas = document.createElement('canvas')
    canvas.width = image.naturalWidth
    canvas.height = image.naturalHeight
    canvas.getContext('2d').drawImage(image, 0, 0)
    return canvas.toDataURL('image/png').split(',')[1]
}"""
# where on the page a spot of a node is, (x, y) from its top left corner, in graph units
SPOT = """([id, x, y]) => {
    const [node, scale, offset] = [app.graph.getNodeById(id), app.canvas.ds.scale, app.canvas.ds.offset]
    const box = app.canvas.canvas.getBoundingClientRect()
    return [(node.pos[0] + x + offset[0]) * scale + box.left, (node.pos[1] + y + offset[1]) * scale + box.top]
}"""
# every group and node in this box of the page: left, top, right, bottom
WHOLE = """([left, top, right, bottom]) => {
    const boxes = [...app.graph.groups, ...app.graph.nodes].map(
        box => [box.pos[0], box.pos[1] - 30, box.pos[0] + box.size[0], box.pos[1] + box.size[1]])
    const [x, y] = [0, 1].map(i => Math.min(...boxes.map(box => box[i])))
    const [z, w] = [2, 3].map(i => Math.max(...boxes.map(box => box[i])))
    const view = app.canvas.ds, page = app.canvas.canvas.getBoundingClientRect()
    view.scale = Math.min(1, (right - left) / (z - x), (bottom - top) / (w - y))
    view.offset = [(left - page.left) / view.scale - x, (top - page.top) / view.scale - y]
    app.canvas.setDirty(true, true)
}"""
VUE_BOXES = """() => [...document.querySelectorAll('[data-node-id]')].flatMap(element => {
    const node = app.graph.getNodeById(element.dataset.nodeId)
    const box = element.getBoundingClientRect(), canvas = app.canvas.canvas.getBoundingClientRect()
    const scale = app.canvas.ds.scale, [x, y] = app.canvas.ds.offset
    const across = at => (at - canvas.left) / scale - x, down = at => (at - canvas.top) / scale - y
    return node ? [[node.title, across(box.left), down(box.top), across(box.right), down(box.bottom)]] : []
})"""


class Canvas:
    """One page of `browser`; `locale` is the language of its interface, `vue` whether it draws Nodes 2.0."""

    def __init__(self, browser, server, locale="en", *, vue=False):
        self.server = server
        server.post("/settings", {**SETTINGS, "Comfy.Locale": locale, "Comfy.VueNodes.Enabled": vue})
        self.page = browser.new_page(viewport={"width": 1600, "height": 900})
        self.page.set_default_timeout(PATIENCE)
        self.page.goto(f"http://127.0.0.1:{server.port}/")
        self.page.wait_for_function(READY)

    def command(self, name):
        self.page.evaluate("name => app.extensionManager.command.execute(name)", name)

    def open_template(self, name):
        """Through the template browser; gives the size of the thumbnail seen there."""
        self.page.evaluate("app.graph.clear()")
        self.command("Comfy.BrowseTemplates")
        dialog = self.page.get_by_role("dialog").last
        dialog.get_by_text("sd2-family", exact=True).first.click()
        card = self.page.get_by_test_id(f"template-workflow-{name}")
        card.scroll_into_view_if_needed()  # pictures are loaded as they come into view
        image = card.locator("img").first
        image.wait_for()
        size = image.evaluate("async image => (await image.decode(), [image.naturalWidth, image.naturalHeight])")
        card.click()
        dialog.wait_for(state="hidden")
        self.page.wait_for_function("app.graph.nodes.length")
        return size

    def open_file(self, path):
        self.page.evaluate("app.graph.clear()")
        self.page.locator("#comfy-file-input").set_input_files(path)
        self.page.wait_for_function("app.graph.nodes.length")

    def export(self, path):
        """Save the canvas as a file, as Export of its menu does."""
        with self.page.expect_download() as download:
            self.command("Comfy.ExportWorkflow")
        download.value.save_as(path)
        return json.loads(path.read_text(encoding="utf-8"))

    def vue_nodes(self):
        """Of every node in Nodes 2.0 its title and the box it takes, in graph units: left, top, right, bottom."""
        return self.page.evaluate(VUE_BOXES)

    def groups(self):
        """The boxes of the groups."""
        return self.page.evaluate(
            "app.graph.groups.map(g => [g.pos[0], g.pos[1], g.pos[0] + g.size[0], g.pos[1] + g.size[1]])"
        )

    def fix_seeds(self):
        self.page.evaluate(
            "app.graph.nodes.forEach(n => (n.widgets ?? []).forEach(w =>"
            " { if (w.name === 'control_after_generate') w.value = 'fixed' }))"
        )

    def nodes(self):
        """Of every node its id, type, title, size, least size, and whether it is red or unknown."""
        return self.page.evaluate(
            "app.graph.nodes.map(n => ({id: n.id, type: n.type, title: n.title, size: [...n.size],"
            " least: [...n.computeSize()], red: !!n.has_errors || !(n.type in LiteGraph.registered_node_types)}))"
        )

    def hidden_lines(self):
        """By how many pixels the text of each note is longer than its node shows."""
        return self.page.locator(".comfy-markdown .tiptap").evaluate_all(
            "notes => notes.map(note => note.scrollHeight - note.clientHeight)"
        )

    def show_whole(self):
        """The whole workflow in view, clear of the bars at the left and at the top."""
        size = self.page.viewport_size
        self.page.evaluate(WHOLE, [80, 100, size["width"] - 20, size["height"] - 20])

    def run(self, timeout=300):
        """Press Run: the prompt that the page sends, and the files by the node that shows them."""
        sent = "**/prompt"
        self.show_whole()  # a node out of view does not load its image
        with self.page.expect_response(sent) as answer:
            self.page.get_by_test_id("queue-button").first.click()
        prompt = answer.value.request.post_data_json["prompt"]
        entry = self.server.wait(answer.value.json()["prompt_id"], timeout)
        assert entry["status"]["status_str"] == "success", entry["status"]
        images = {
            int(node): shown["images"][0]
            for node, shown in entry["outputs"].items()
            if node.isdecimal() and "images" in shown
        }
        for node, image in images.items():
            name = urllib.parse.urlencode({"filename": image["filename"]})
            self.page.wait_for_function(
                "([id, name]) => { const image = app.graph.getNodeById(id).imgs?.[0];"
                " return image?.src.includes(name) && image.complete && image.naturalWidth }",
                arg=[node, name],
            )
        return prompt, {
            node: self.server.base / image["type"] / image["subfolder"] / image["filename"]
            for node, image in images.items()
        }

    def shown(self, node):
        """The pixels of the picture that a node shows: uint8 [H, W, 3]."""
        png = base64.b64decode(self.page.evaluate(SHOWN, node))
        return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))

    def screenshot(self, path):
        """The page at rest after a run, with the whole workflow in view. The canvas draws no text below 58 %."""
        self.page.get_by_test_id("queue-notification-banner").wait_for(state="hidden")
        usual = self.page.viewport_size
        self.page.set_viewport_size({"width": 1920, "height": 860})
        self.show_whole()
        self.page.wait_for_timeout(1000)  # ms, for the drawing
        self.page.screenshot(path=path)
        self.page.set_viewport_size(usual)

    def search(self, words):
        """What the node search offers after a double click on the canvas, which is cleared before."""
        dialog = self.page.get_by_role("search")
        self.page.keyboard.press("Escape")  # closes an earlier search
        dialog.wait_for(state="hidden")
        self.page.evaluate("app.graph.clear(); app.canvas.ds.reset()")
        field = dialog.locator("input").first
        for _ in range(10):  # on a busy machine two clicks may come too far apart to be a double one
            self.page.mouse.dblclick(700, 250)
            self.page.wait_for_timeout(1000)  # ms
            if field.is_visible():
                break
        field.fill(words)
        return dialog.get_by_role("option")

    def add(self, words, title):
        """The node of this title, chosen from what the search offers."""
        self.search(words).filter(has_text=title).first.click()
        self.page.get_by_role("search").wait_for(state="hidden")
        (node,) = self.nodes()
        return node

    def hover(self, node, x, y):
        """The tooltip of a spot of a node."""
        across, down = self.page.evaluate(SPOT, [node, x, y])
        tooltip = self.page.locator(".node-tooltip")
        for _ in range(20):  # what is leaving the page may still be over the canvas
            self.page.mouse.move(across - 2, down)
            self.page.mouse.move(across, down)
            self.page.wait_for_timeout(400)  # ms
            if tooltip.is_visible():
                return tooltip.inner_text()
        raise AssertionError(f"no tooltip at {x}, {y}")

    def help(self, node):
        """The help page of a node, opened from the bar over a node that was clicked."""
        self.page.mouse.click(*self.page.evaluate(SPOT, [node, 60, -15]))
        self.page.get_by_test_id("info-button").first.click()
        return self.page.locator(".node-help-content .markdown-content")
