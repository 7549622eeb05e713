"""ComfyUI's modules and this pack in one Python, without a server: to be imported before anything of ComfyUI.

The script's arguments: ComfyUI's folder, a folder with checkpoints.
"""

import importlib.util
import sys
from pathlib import Path

COMFYUI, FOLDER = Path(sys.argv[1]), Path(sys.argv[2])
sys.argv = [str(COMFYUI / "main.py"), "--cpu"]
sys.path[0] = str(COMFYUI)

import comfy.options  # noqa: E402

comfy.options.enable_args_parsing()

import folder_paths  # noqa: E402

folder_paths.add_model_folder_path("checkpoints", str(FOLDER), is_default=True)

ROOT = Path(__file__).parent.parent.parent
spec = importlib.util.spec_from_file_location("pack", ROOT / "__init__.py", submodule_search_locations=[str(ROOT)])
pack = sys.modules["pack"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(pack)
NODES = pack.NODE_CLASS_MAPPINGS
sys.path.append(str(ROOT / "tests"))  # behind ComfyUI's own


def node(name, *given, **inputs):
    """Run one of the pack's nodes; its outputs."""
    node_class = NODES[name]
    returned = getattr(node_class(), node_class.FUNCTION)(*given, **inputs)
    return returned["result"] if isinstance(returned, dict) else returned


def gap(a, b):
    """The largest difference of two tensors of one shape."""
    assert a.shape == b.shape
    return float((a - b).abs().max())
