"""Our description of the nodes beside the one that a ComfyUI server gives."""

import pytest
from sd2_family import NODE_CLASS_MAPPINGS
from sd2_family.backends import folders
from sd2_family.headless.library import LIBRARY

pytestmark = pytest.mark.comfyui


@pytest.fixture(scope="module")
def described(server):
    with folders.using(folders.Folders(models=server.base / "models", input=server.base / "input")):
        return server.get("/object_info"), LIBRARY.object_info


@pytest.mark.parametrize("name", sorted(NODE_CLASS_MAPPINGS))
def test_a_node_of_ours_is_described_as_the_server_does(name, described):
    theirs, ours = (every[name] for every in described)
    same = theirs.keys() & ours.keys() - {"python_module"}
    assert same >= {"input", "input_order", "output", "output_name", "display_name", "category", "description"}
    assert {key: ours[key] for key in same} == {key: theirs[key] for key in same}


@pytest.mark.parametrize("name", sorted(set(LIBRARY.classes) - set(NODE_CLASS_MAPPINGS)))
def test_a_stand_in_has_the_inputs_of_its_original_in_their_order(name, described):
    """A later ComfyUI may have added inputs after them, with values of which a saved canvas says the order alone."""
    theirs, ours = (every[name]["input_order"] for every in described)
    for section in ("required", "optional"):
        names = ours.get(section, [])
        assert theirs.get(section, [])[: len(names)] == names
