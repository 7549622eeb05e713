"""Who may import whom."""

import ast
import graphlib
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ALLOWED = {
    "": {"nodes", "backends", "pipeline"},
    "models": {"models"},
    "samplers": {"samplers"},
    "pipeline": {"pipeline", "models", "samplers"},
    "backends": {"backends", "pipeline", "models", "samplers"},
    "nodes": {"nodes", "backends", "pipeline", "models", "samplers"},
    "headless": {"headless", "nodes", "backends", "pipeline", "models", "samplers"},
    "training": {"training", "pipeline", "models", "samplers"},
    "benchmarks": {"benchmarks", "headless", "training", "backends", "pipeline", "models", "samplers"},
}
COMFYUI = {
    "comfy",
    "comfy_api",
    "comfy_extras",
    "folder_paths",
    "server",
    "execution",
    "latent_preview",
    "node_helpers",
}
# inside ComfyUI these names are ComfyUI's own, or nobody's
OURS = {"sd2_family", *ALLOWED}
FILES = [
    path
    for room in ALLOWED
    for path in sorted((ROOT / room).glob("**/*.py" if room else "*.py"))
    if not path.name.startswith("test_")
]


def imports(path):
    """(level, dotted name) of every module a file imports, each name of `from . import a, b` by itself."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((0, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.level, node.module
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.level, alias.name) for alias in node.names)


def name(path):
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", FILES, ids=name)
def test_arrows(path):
    folder = path.relative_to(ROOT).parts[:-1]
    room = folder[0] if folder else ""
    for level, module in imports(path):
        if level:
            target = [*folder[: len(folder) - level + 1], *module.split(".")]
            assert level <= len(folder) + 1, f"{name(path)} imports from above the pack"
            assert target[0] in ALLOWED[room], f"{name(path)} imports {'.'.join(target)}"
        else:
            assert module.split(".")[0] not in OURS, f"{name(path)} imports {module} by an absolute name"


@pytest.mark.parametrize("path", FILES, ids=name)
def test_comfyui_is_imported_by_its_backend_only(path):
    if not name(path).startswith("backends/comfyui/"):
        assert not {module.split(".")[0] for level, module in imports(path) if level == 0} & COMFYUI


def module_of(path):
    """A file as a module's dotted name: models/specs.py -> models.specs, models/__init__.py -> models."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported_modules(path, known):
    """Which of our modules a file imports, at module level, inside functions, or for typing only."""
    folder = path.relative_to(ROOT).parts[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = [*folder[: len(folder) - node.level + 1], *filter(None, (node.module or "").split("."))]
            for alias in node.names:
                yield next((m for m in (".".join([*base, alias.name]), ".".join(base)) if m in known), None)


def test_no_circle():
    """No module imports itself through others, whether at module level, inside a function or for typing."""
    modules = {module_of(path): path for path in FILES}
    imported = {name: set(imported_modules(path, modules)) - {None, ""} for name, path in modules.items()}
    assert len([pair for targets in imported.values() for pair in targets]) > 200  # the walk sees the imports
    order = graphlib.TopologicalSorter({name: targets for name, targets in imported.items() if name})
    order.prepare()  # CycleError names the circle


def test_no_two_files_of_one_name():
    names = [path.name for path in FILES if path.name != "__init__.py"]
    assert sorted(name for name, count in Counter(names).items() if count > 1) == []


def test_files_and_functions_are_short():
    long = [f"{name(path)}: {lines}" for path in FILES if (lines := len(path.read_text().splitlines())) > 400]
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef) and node.end_lineno - node.lineno + 1 > 60:
                long.append(f"{name(path)}: {node.name}")
    assert long == []


def test_the_walk_sees_the_rooms():
    assert {name(path).split("/")[0] for path in FILES} >= {*ALLOWED, "__init__.py"} - {""}
