"""Saved canvases (UI format), drawn node by node."""

from uuid import UUID

TYPES = {"image": "IMAGE", "images": "IMAGE", "width": "INT", "height": "INT", "filename_prefix": "STRING"}
TYPES |= {"seed": "INT", "offset": "INT", "a": "NUMBER", "b": "NUMBER", "value": "NUMBER,STRING", "text": "STRING"}
WIDGETS = {"width", "height", "filename_prefix", "seed", "offset", "text"}
OUTPUTS = {"LoadImage": ["IMAGE", "MASK"], "ImageScale": ["IMAGE"], "PrimitiveNode": ["INT"], "Reroute": ["*"]}
OUTPUTS |= {"Number": ["NUMBER", "STRING"], "Add": ["NUMBER"]}
SEARCHED = "Node name for S&R"
INSIDE, OUTSIDE = -10, -20  # the ids that a subgraph's own inputs and outputs have as ends of links


class Canvas:
    def __init__(self):
        self.nodes, self.links, self.definitions, self.groups = [], [], [], {}

    def add(self, kind, values=None, *, described=None, outputs=None, inputs=(), **more):
        """Add a node; `inputs` are pairs of a name and the (node id, slot) that feeds it, or None. Returns its id."""
        node_id = len(self.nodes) + 1
        slots = []
        for at, (name, source) in enumerate(dict(inputs).items()):
            slot = {"name": name, "type": TYPES.get(name, "*"), "link": source and self.link(source, (node_id, at))}
            slots.append(slot | ({"widget": {"name": name}} if name in WIDGETS else {}))
        kinds = OUTPUTS.get(kind, []) if outputs is None else outputs
        drawn = kind in ("PrimitiveNode", "Reroute", "Note") or "-" in kind if described is None else not described
        node = {"id": node_id, "type": kind, "mode": 0, "inputs": slots, "widgets_values": values}
        node["outputs"] = [{"name": kind, "type": kind, "links": []} for kind in kinds]
        self.nodes.append(node | {"properties": {} if drawn else {SEARCHED: kind}} | more)
        return node_id

    def link(self, source, target, kind="*"):
        self.links.append([len(self.links) + 1, *source, *target, kind])
        return len(self.links)

    def define(self, inner, inputs, outputs):
        """Make a canvas a subgraph of this one; returns its type.

        inputs: name -> the (node id, input name) inside that it feeds; outputs: name -> (node id, slot) inside.
        """
        for name, (node_id, fed) in inputs.items():
            node = inner.nodes[node_id - 1]
            at = [slot["name"] for slot in node["inputs"]].index(fed)
            slot = list(inputs).index(name)
            node["inputs"][at]["link"] = inner.link((INSIDE, slot), (node_id, at))
        ends = {name: inner.link(source, (OUTSIDE, at)) for at, (name, source) in enumerate(outputs.items())}
        starts = [[link[0] for link in inner.links if link[1:3] == [INSIDE, at]] for at in range(len(inputs))]
        keys = ("id", "origin_id", "origin_slot", "target_id", "target_slot", "type")
        kind = str(UUID(int=len(self.definitions) + 1))
        self.definitions.append(
            {
                "id": kind,
                "name": "Sub",
                "nodes": inner.nodes,
                "links": [dict(zip(keys, link, strict=True)) for link in inner.links],
                "inputs": [
                    {"name": name, "type": TYPES.get(name, "*"), "linkIds": starts[at]}
                    for at, name in enumerate(inputs)
                ],
                "outputs": [{"name": name, "type": name, "linkIds": [ends[name]]} for name in outputs],
            }
        )
        return kind

    def json(self):
        return {
            "nodes": self.nodes,
            "links": self.links,
            "definitions": {"subgraphs": self.definitions},
            "extra": {"groupNodes": self.groups},
            "version": 0.4,
        }


def scaling(width=16, *, image="in.png", prefix="big", **more):
    """Load Image -> Upscale Image -> Save Image, to `width` x 8; returns the canvas and the ids of the three."""
    drawn = Canvas()
    load = drawn.add("LoadImage", [image, "image"])
    scale = drawn.add(
        "ImageScale", ["nearest-exact", width, 8, "disabled"], inputs={"image": (load, 0), "width": None}, **more
    )
    save = drawn.add("SaveImage", [prefix], described=False, inputs={"images": (scale, 0)})
    return drawn, (load, scale, save)


def feed(drawn, node_id, name, source):
    """Link an input that a node has."""
    node = drawn.nodes[node_id - 1]
    at = [slot["name"] for slot in node["inputs"]].index(name)
    node["inputs"][at]["link"] = drawn.link(source, (node_id, at))
