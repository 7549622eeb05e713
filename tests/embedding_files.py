"""Textual-inversion files of every format with random vectors, and prompts that use them."""

import torch
from safetensors.torch import save_file

OWN_KEYS = {"v1": "clip_l", "v2-base": "clip_h"}
PROMPTS = {
    "alone": "embedding:pickled",
    "in words": "a photo of embedding:pickled in the snow",
    "its suffix": "a cat, embedding:pickled.pt",
    "a comma after it": "a cat, embedding:token, in the snow, embedding:plain,",
    "weighted": "a (cat and embedding:token snow:1.3) and (embedding:plain:0.7), (embedding:half)",
    "a folder": "a cat embedding:deep/nested and embedding:nested",
    "lines": "a cat\nembedding:plain\nembedding:token in snow",
    "for two encoders": "embedding:two a cat",
    "an absent one": "a cat, embedding:absent, in the snow",
    "an absent one alone": "embedding:absent",
    "inside a word": "a cat,embedding:plain and embedding: plain",
    "the start of a chunk": "cat " * 73 + "embedding:pickled dog",
    "the end of a chunk": "cat " * 72 + "embedding:pickled dog",
    "over the end of a chunk": "cat " * 70 + "(embedding:long:1.2) dog",
    "longer than a chunk": "embedding:longest dog",
}


def write_embeddings(folder, width, own_key):
    """Write the files. own_key: the text encoder's name in a file for two."""
    generator = torch.Generator().manual_seed(7)

    def random(*size):
        return torch.randn(*size, generator=generator) / 5

    (folder / "deep").mkdir(parents=True)
    pickled = {
        "string_to_token": {"*": 265},
        "string_to_param": {"*": torch.nn.Parameter(random(3, width))},
        "name": "pickled",
        "step": 5000,
        "sd_checkpoint": None,
        "sd_checkpoint_name": None,
    }
    torch.save(pickled, folder / "pickled.pt")
    torch.save({"<style>": random(width)}, folder / "token.bin")
    torch.save({"string_to_param": {"*": random(9, width)}}, folder / "long.pt")
    torch.save({"string_to_param": {"*": random(80, width)}}, folder / "longest.pt")
    save_file({"emb_params": random(2, width)}, folder / "plain.safetensors")
    save_file({"emb_params": random(2, width).half()}, folder / "half.safetensors")
    save_file({"anything": random(2, width)}, folder / "deep" / "nested.safetensors")
    save_file({"clip_g": random(2, 40), own_key: random(2, width)}, folder / "two.safetensors")
    save_file({"emb_params": random(2, width + 8)}, folder / "wide.safetensors")
    return folder
