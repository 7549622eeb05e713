"""One ComfyUI for all tests of this folder."""

import pytest
from embedding_files import OWN_KEYS, write_embeddings
from live import LORA_NAMES, Server, lora, missing
from safetensors.torch import save_file
from tiny import tiny_state, write_checkpoint


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    if reason := missing():
        pytest.skip(reason)
    server = Server(tmp_path_factory.mktemp("comfyui"))
    models = server.base / "models"
    for kind in ("v2-base", "v2-v", "v2-inpaint", "v2-depth", "v1", "unclip-h", "unclip-l"):
        write_checkpoint(models / "checkpoints" / f"{kind}.safetensors", kind)
    shapes = {key: tensor.shape for key, tensor in tiny_state("v2-base").items()}
    for kind, key in OWN_KEYS.items():
        write_embeddings(models / "embeddings" / kind, 64, key)
    for style, names in LORA_NAMES.items():
        save_file(lora(names, shapes), models / "loras" / f"{style}.safetensors")
    server.start()
    yield server
    server.stop()
