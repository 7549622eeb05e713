"""Makes `sd2_family` importable from a bare checkout: its root is loaded under that name, as ComfyUI loads a pack."""

import contextlib
import importlib.util
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
NAME = "sd2_family"

installed = importlib.util.find_spec(NAME)
if installed is None or installed.origin is None:  # absent, or a folder without its __init__
    spec = importlib.util.spec_from_file_location(NAME, ROOT / "__init__.py", submodule_search_locations=[str(ROOT)])
    module = sys.modules[NAME] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)


@pytest.fixture
def use_folders():
    """use_folders(models=..., input=..., output=...): the folders of this test."""
    from sd2_family.backends import folders

    with contextlib.ExitStack() as stack:
        yield lambda **chosen: stack.enter_context(folders.using(folders.Folders(**chosen)))
