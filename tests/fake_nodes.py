"""Small node classes and saved workflows for the graph tests."""

from sd2_family.headless.graph import Library

CALLS = []  # (class, arguments) of every node that ran


class Number:
    RETURN_TYPES = ("NUMBER", "STRING")
    FUNCTION = "make"

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {
                "seed": ("INT", {"default": 0, "min": 0, "max": 99}),
                "scale": ("FLOAT", {"default": 1.0, "min": 0.0, "max": 2.0}),
                "kind": (["small", "big"],),
                "exact": ("BOOLEAN", {"default": False}),
            },
            "optional": {"word": ("STRING", {"default": "plain"})},
        }

    def make(self, **arguments):
        CALLS.append(("Number", arguments))
        return arguments["seed"] * arguments["scale"], str(arguments["seed"])


class Add:
    RETURN_TYPES = ("NUMBER",)
    FUNCTION = "add"

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {"offset": ("INT", {"default": 0}), "a": ("NUMBER",), "b": ("NUMBER",)},
            "optional": {"extra": ("*",), "forced": ("INT", {"forceInput": True}), "last": ("INT", {"default": 5})},
        }

    def add(self, **arguments):
        CALLS.append(("Add", arguments))
        return (arguments["a"] + arguments["b"] + arguments["offset"],)


class Show:
    RETURN_TYPES = ()
    FUNCTION = "show"
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls):
        hidden = {"prompt": "PROMPT", "extra_pnginfo": "EXTRA_PNGINFO", "node_id": "UNIQUE_ID"}
        return {"required": {"value": ("NUMBER,STRING",)}, "hidden": hidden}

    def show(self, value, **hidden):
        CALLS.append(("Show", {"value": value, **hidden}))
        return {"ui": {"text": (str(value),)}}


class Picky:
    """Checks its own choice, whatever its list says."""

    RETURN_TYPES = ("NUMBER",)
    FUNCTION = "make"
    version = 1

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"name": (["a"],), "count": ("INT", {"default": 1, "max": 3})}}

    @classmethod
    def VALIDATE_INPUTS(cls, name):
        return name.startswith("a") or f"{name} begins with no a; use another"

    @classmethod
    def IS_CHANGED(cls, name, count):
        return cls.version

    def make(self, **arguments):
        CALLS.append(("Picky", arguments))
        if arguments["name"] == "awful":
            raise KeyError("gone")
        return (arguments["count"],)


CLASSES = {"Number": Number, "Add": Add, "Show": Show, "Picky": Picky}
LIBRARY = Library(CLASSES, {"Number": "A Number", "Show": "Show It"})


def canvas():
    """UI format: two numbers, one through reroutes, added and shown, and a note."""
    return {
        "last_node_id": 8,
        "last_link_id": 6,
        "nodes": [
            {"id": 1, "type": "Number", "mode": 0, "widgets_values": [7, "fixed", 1.5, "big", True, "hello"]},
            {"id": 2, "type": "Number", "title": "Second", "mode": 0, "widgets_values": [3, 0.5, "small", False, "x"]},
            {
                "id": 3,
                "type": "Add",
                "mode": 0,
                "inputs": [
                    {"name": "a", "type": "NUMBER", "link": 1},
                    {"name": "b", "type": "NUMBER", "link": 4},
                    {"name": "extra", "type": "*", "link": None},
                    {"name": "offset", "type": "INT", "widget": {"name": "offset"}, "link": None},
                ],
                "widgets_values": [10, 6],
            },
            {"id": 4, "type": "Reroute", "inputs": [{"name": "", "type": "*", "link": 2}]},
            {"id": 5, "type": "Reroute", "inputs": [{"name": "", "type": "*", "link": 3}]},
            {"id": 6, "type": "Show", "inputs": [{"name": "value", "type": "NUMBER,STRING", "link": 5}]},
            {"id": 7, "type": "Note", "widgets_values": ["read me"]},
            {"id": 8, "type": "MarkdownNote", "widgets_values": ["read me"]},
        ],
        "links": [
            [1, 1, 0, 3, 0, "NUMBER"],
            [2, 2, 0, 4, 0, "*"],
            [3, 4, 0, 5, 0, "*"],
            [4, 5, 0, 3, 1, "NUMBER"],
            [5, 3, 0, 6, 0, "NUMBER"],
        ],
        "groups": [],
        "version": 0.4,
    }


def prompt():
    """API format of `canvas`, written by hand as ComfyUI exports it."""
    return {
        "1": {
            "class_type": "Number",
            "inputs": {"seed": 7, "scale": 1.5, "kind": "big", "exact": True, "word": "hello"},
            "_meta": {"title": "A Number"},
        },
        "2": {
            "class_type": "Number",
            "inputs": {"seed": 3, "scale": 0.5, "kind": "small", "exact": False, "word": "x"},
            "_meta": {"title": "Second"},
        },
        "3": {
            "class_type": "Add",
            "inputs": {"offset": 10, "last": 6, "a": ["1", 0], "b": ["2", 0]},
            "_meta": {"title": "Add"},
        },
        "6": {"class_type": "Show", "inputs": {"value": ["3", 0]}, "_meta": {"title": "Show It"}},
    }
