"""Makes `sd2_family` importable from a bare checkout: its root is loaded under that name, as ComfyUI loads a pack.

And the fixtures that several files use; plain functions are in helpers.py.
"""

import contextlib
import importlib.util
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

ROOT = Path(__file__).parent.parent
NAME = "sd2_family"

installed = importlib.util.find_spec(NAME)
if installed is None or installed.origin is None:  # absent, or a folder without its __init__
    spec = importlib.util.spec_from_file_location(NAME, ROOT / "__init__.py", submodule_search_locations=[str(ROOT)])
    module = sys.modules[NAME] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

THREADS = torch.get_num_threads()


@pytest.hookimpl(tryfirst=True)  # before fixtures
def pytest_runtest_setup(item):
    """One thread for tiny networks: more save little, and cost minutes where other programs use the cores too."""
    torch.set_num_threads(THREADS if item.get_closest_marker("slow") else 1)


@pytest.fixture
def use_folders():
    """use_folders(models=..., input=..., output=...): the folders of this test."""
    from sd2_family.backends import folders

    with contextlib.ExitStack() as stack:
        yield lambda **chosen: stack.enter_context(folders.using(folders.Folders(**chosen)))


class TinyModels:
    """A models folder with tiny checkpoints, each written and loaded once for all tests; they must not change it."""

    def __init__(self, root):
        self.root = root
        self.checkpoints = root / "checkpoints"
        self.checkpoints.mkdir()
        self.loads = {}

    def file(self, kind, name=None, **options):
        """The checkpoint of a kind, by another name if it is made with options of `write_checkpoint`."""
        from tiny import write_checkpoint

        path = self.checkpoints / f"{name or kind}.safetensors"
        path.parent.mkdir(exist_ok=True)
        return path if path.exists() else write_checkpoint(path, kind, **options)

    def load(self, name, *widgets):
        """The outputs of SD2 Load Checkpoint for a kind, or for the name of a file that is here."""
        from helpers import loaded
        from sd2_family.models.specs import SPECS

        if name in SPECS:
            self.file(name)
        key = (name, *widgets)
        if key not in self.loads:
            self.loads[key] = loaded(f"{name}.safetensors", *widgets)
        return self.loads[key]


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory):
    return TinyModels(tmp_path_factory.mktemp("models"))


@pytest.fixture
def load(tiny_models, monkeypatch):
    """load(kind, *widgets): the outputs of SD2 Load Checkpoint for a tiny checkpoint; its folder is this test's."""
    monkeypatch.setenv("SD2_MODELS_DIR", str(tiny_models.root))
    return tiny_models.load


@pytest.fixture
def own_models(tiny_models, tmp_path, monkeypatch):
    """own_models(kind, ...): a checkpoints folder of this test's own, which it may change, with copies of these."""
    (tmp_path / "checkpoints").mkdir()
    monkeypatch.setenv("SD2_MODELS_DIR", str(tmp_path))

    def copy(*kinds):
        for kind in kinds:
            shutil.copy(tiny_models.file(kind), tmp_path / "checkpoints")
        return tmp_path / "checkpoints"

    return copy


@pytest.fixture
def scaling_folder(tmp_path, monkeypatch):
    """The working directory, with a picture and a workflow that scales and saves it."""
    from helpers import scaling, write

    monkeypatch.chdir(tmp_path)
    Image.fromarray(np.arange(192, dtype=np.uint8).reshape(8, 8, 3)).save("in.png")
    write(scaling())
    return tmp_path
