"""What is written about the pack agrees with its code: help pages, locales, the registry's entry.

`python tests/test_docs.py` writes locales/en/nodeDefs.json anew after a text in the code has changed.
"""

import ast
import json
import re
import sys
from functools import cache
from pathlib import Path

import pytest
from helpers import declared
from PIL import Image
from sd2_family import NODE_CLASS_MAPPINGS, NODE_DISPLAY_NAME_MAPPINGS, WEB_DIRECTORY

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pytest brings it there

ROOT = Path(__file__).parent.parent
PAGES = ROOT / "web" / "docs"
LANGUAGES = ("en", "zh")
WIDGETS = {"INT", "FLOAT", "BOOLEAN", "STRING"}
SECTIONS = ("Graph", "Inputs", "Outputs", "Tips", "When something goes wrong", "See also")
VALUED = re.compile(r"\*(.+?)\*<br>(.+)")  # a cell: what an input takes or an output is, then its meaning
PANEL, CELL_PADDING = 282, 16  # pixels, of the node info panel's text at its usual width
LETTER, CAPITAL, CODE_LETTER, CODE_PADDING = 7.4, 9.3, 8.5, 10  # pixels, measured there
CHINESE = re.compile("[\u4e00-\u9fff]")
# what a ComfyUI installation has already, from its requirements.txt
WITH_COMFYUI = {"torch", "safetensors", "einops", "numpy", "Pillow", "tqdm", "scipy", "spandrel"}
OUTSIDE = {"comfy-cli"}  # for the sd2 command


def english(node):
    """A node's entry in nodeDefs.json, from its class."""
    cls = NODE_CLASS_MAPPINGS[node]
    inputs = {name: {"name": name, "tooltip": options["tooltip"]} for name, (_, options) in declared(node).items()}
    if any(options.get("control_after_generate") for _, options in declared(node).values()):
        inputs["control_after_generate"] = {"name": "control after generate"}  # a widget that the canvas adds
    outputs = zip(cls.RETURN_NAMES, cls.OUTPUT_TOOLTIPS, strict=True)
    return {
        "display_name": NODE_DISPLAY_NAME_MAPPINGS[node],
        "description": cls.DESCRIPTION,
        "inputs": inputs,
        "outputs": {str(index): {"name": name, "tooltip": tooltip} for index, (name, tooltip) in enumerate(outputs)},
    }


def locale_file(language):
    return ROOT / "locales" / language / "nodeDefs.json"


def locale(language):
    return json.loads(locale_file(language).read_text(encoding="utf-8"))


def texts(entry, path=()):
    """(path, text) of every text in nested dictionaries."""
    for key, value in entry.items():
        if isinstance(value, dict):
            yield from texts(value, (*path, key))
        else:
            yield (*path, key), value


def sections(node):
    """A help page by its headings."""
    page = (PAGES / f"{node}.md").read_text(encoding="utf-8").replace("<wbr>", "")
    return dict(re.findall(r"^#+ (.*)\n((?:(?!#).*\n?)*)", page, re.MULTILINE))


def rows(node, section):
    """The cells of a section's table, without its head."""
    lines = [line for line in sections(node)[section].splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def value_cell(node, name):
    """How a help page writes what an input takes: its type, or its default and what else it may be."""
    kind, options = declared(node)[name]
    if isinstance(kind, list):
        default = options.get("default")
        if default is None:
            return "a file or a folder" if name == "ckpt_name" else "a file"
        return f"{default}; {', '.join(str(v) for v in kind if v != default)}"
    if kind == "BOOLEAN":
        return "on" if options["default"] else "off"
    if kind == "STRING":
        return "text"
    if kind in WIDGETS:
        return "{}; {} to {}".format(*(_short(options[key]) for key in ("default", "min", "max")))
    optional = name not in NODE_CLASS_MAPPINGS[node].INPUT_TYPES()["required"]
    return f"{kind}, optional" if optional else kind


def _short(number):
    if number == 2**64 - 1:
        return "2⁶⁴ - 1"
    return str(int(number)) if number == int(number) else str(number)


def widest(text):
    """The width of a text's longest word in pixels; code wraps at spaces as well, and nothing wraps at a slash."""
    code = [CODE_LETTER * len(word) + CODE_PADDING for part in re.findall("`(.*?)`", text) for word in part.split()]
    plain = re.sub(r"!?\[(.*?)\]\(.*?\)", r"\1", re.sub("`.*?`|<br>|<wbr>", " ", text))
    words = [word.strip("*") for word in re.split(r"[\s-]", plain)]
    return max([*code, *(sum(CAPITAL if c.isupper() else LETTER for c in word) for word in words)], default=0)


def numbers(text):
    return sorted(re.findall(r"\d+(?:\.\d+)?", text))


@cache
def messages():
    """Every string in the code, as it is said, with an ellipsis for what is filled in."""
    found = []
    for path in [
        path
        for room in ("models", "samplers", "pipeline", "backends", "nodes")
        for path in (ROOT / room).rglob("*.py")
    ]:
        for item in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(item, ast.JoinedStr):
                found.append("".join(part.value if isinstance(part, ast.Constant) else "…" for part in item.values))
            elif isinstance(item, ast.Constant) and isinstance(item.value, str):
                found.append(item.value)
    return "\n".join(found)


def test_every_node_has_a_help_page():
    assert {path.stem for path in PAGES.glob("SD2*.md")} == set(NODE_CLASS_MAPPINGS)


@pytest.mark.cosmetics
@pytest.mark.parametrize("node", NODE_CLASS_MAPPINGS)
def test_help_page_tells_of_every_input_and_output(node):
    cls, page = NODE_CLASS_MAPPINGS[node], sections(node)
    assert list(page) == [NODE_DISPLAY_NAME_MAPPINGS[node], *SECTIONS]
    inputs = {name: VALUED.fullmatch(text)[1] for name, text in rows(node, "Inputs")}
    assert list(inputs.items()) == [(f"`{name}`", value_cell(node, name)) for name in declared(node)]
    outputs = [(name, VALUED.fullmatch(text)[1]) for name, text in rows(node, "Outputs")]
    names = [f"`{name}`" for name in cls.RETURN_NAMES]
    assert outputs == list(zip(names, cls.RETURN_TYPES, strict=True))


@pytest.mark.cosmetics
@pytest.mark.parametrize("path", sorted(PAGES.glob("*.md")), ids=lambda path: path.stem)
def test_help_page_fits_the_narrow_panel(path):
    """Its text is 282 px wide: no code block, and in tables two columns whose longest words fit beside each other."""
    text = path.read_text(encoding="utf-8")
    assert "```" not in text
    for table in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
        assert {len(row) for row in cells} == {2}
        columns = [max(map(widest, column)) + CELL_PADDING for column in zip(*cells, strict=True)]
        assert sum(columns) <= PANEL, (columns, cells[0])
    assert widest(text.replace("|", " ")) <= PANEL


@pytest.mark.cosmetics
@pytest.mark.parametrize("node", NODE_CLASS_MAPPINGS)
def test_help_page_names_nodes_pictures_and_messages_that_exist(node):
    text = "".join(sections(node).values())
    ours = set(NODE_DISPLAY_NAME_MAPPINGS.values())
    assert set(re.findall(r"\*\*(SD2 .*?)\*\*", text)) <= ours
    assert all((PAGES / picture).is_file() for picture in re.findall(r"!\[.+\]\((.*?)\)", text))
    said = [re.findall("`(.*?)`", cell[0]) for cell in rows(node, "When something goes wrong")]
    assert [message for row in said for message in row if message not in messages()] == []


@pytest.mark.cosmetics
def test_english_is_what_the_code_says():
    assert locale("en") == {node: english(node) for node in NODE_CLASS_MAPPINGS}, "run python tests/test_docs.py"


@pytest.mark.cosmetics
@pytest.mark.parametrize("node", NODE_CLASS_MAPPINGS)
def test_chinese_translates_everything(node):
    translated = dict(texts(locale("zh")[node]))
    assert set(translated) == {path for path, _ in texts(english(node))}
    for path, text in texts(english(node)):
        if path[-1] != "name":  # many of these stay: vae, clip, cfg
            assert CHINESE.search(translated[path]), path
        # a number that changed in the code has to change here too
        assert numbers(translated[path]) == numbers(text), path


@pytest.mark.parametrize("language", LANGUAGES)
def test_locales_hold_our_nodes_and_nothing_that_the_canvas_would_interpret(language):
    assert list(locale(language)) == list(NODE_CLASS_MAPPINGS)
    for path, text in texts(locale(language)):
        assert not set(text) & set("@{}|%"), path  # the message syntax of vue-i18n
        assert text == text.strip() != "", path


def test_registry_entry_names_files_that_exist():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    comfy, repository = project["tool"]["comfy"], project["project"]["urls"]["Repository"]
    raw = repository.replace("github.com", "raw.githubusercontent.com") + "/main/"
    with Image.open(ROOT / comfy["Icon"].removeprefix(raw)) as icon:
        assert icon.size == (400, 400)  # the registry's largest square
    assert f"./{comfy['web']}" == WEB_DIRECTORY


def test_requirements_are_what_comfyui_lacks():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lacking = [item for item in project["dependencies"] if re.match(r"[\w-]+", item)[0] not in WITH_COMFYUI | OUTSIDE]
    assert (ROOT / "requirements.txt").read_text(encoding="utf-8").split() == lacking
    assert all(re.fullmatch(r"[\w-]+(>=[\d.]+)?", item) for item in lacking)  # an upper bound would fight with others


def write_english():
    content = {node: english(node) for node in NODE_CLASS_MAPPINGS}
    locale_file("en").write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    write_english()
