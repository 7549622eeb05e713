"""Embeddings in prompts: vectors in place of tokens, from files of every format."""

import logging
import pickle
import re

import pytest
import torch
from embedding_files import OWN_KEYS, PROMPTS, write_embeddings
from safetensors.torch import save_file
from sd2_family.headless.stock import NODE_CLASS_MAPPINGS as STOCK
from sd2_family.models.prompt import END, START, tokenize, tokenizer
from sd2_family.models.textual_inversion import Embeddings
from tiny import tiny_spec

WIDTH = 64
SPEC = tiny_spec("v2-base").text


@pytest.fixture
def folder(tmp_path):
    return write_embeddings(tmp_path / "embeddings", WIDTH, OWN_KEYS["v2-base"])


@pytest.fixture
def embeddings(folder):
    return Embeddings((folder,), SPEC)


def vectors_in(folder, name):
    """What a file holds, read without our code."""
    from safetensors.torch import load_file

    if name.endswith(".safetensors"):
        content = load_file(folder / name)
        return content.get("clip_h", next(iter(content.values()))).float()
    content = torch.load(folder / name, weights_only=True)
    return next(iter(content.get("string_to_param", content).values())).detach()


@pytest.mark.parametrize(
    "name",
    ["pickled.pt", "token.bin", "long.pt", "plain.safetensors", "half.safetensors", "deep/nested.safetensors",
     "two.safetensors"],
)  # fmt: skip
def test_every_format(folder, embeddings, name):
    expected = vectors_in(folder, name).reshape(-1, WIDTH)
    for given in (name, name.rpartition(".")[0], name.rpartition("/")[2], name.replace("/", "\\")):
        assert torch.equal(embeddings.vectors(given), expected)


def test_a_file_of_the_authors(folder, embeddings):
    """Their code pickles a ParameterDict, as old versions of torch built it."""
    table = torch.nn.ParameterDict({"*": torch.nn.Parameter(torch.rand(2, WIDTH))})
    torch.save({"string_to_token": {"*": torch.tensor(265)}, "string_to_param": table}, folder / "authors.pt")
    assert torch.equal(embeddings.vectors("authors"), table["*"])


def shown(chunk):
    """Tokens of a chunk up to its end: ids, and "v" for a vector."""
    tokens = ["v" if isinstance(token, torch.Tensor) else token for token in chunk.tokens]
    return tokens[: tokens.index(END) + 1]


def ids(text):
    return tokenizer().encode(text)


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("embedding:pickled", ["v"] * 3),
        ("a photo of embedding:pickled in the snow", [*ids("a photo of"), "v", "v", "v", *ids("in the snow")]),
        ("a cat, embedding:token, in snow", [*ids("a cat,"), "v", *ids(", in snow")]),
        ("a cat\nembedding:token\nsnow", [*ids("a cat"), "v", *ids("snow")]),
        ("embedding:plain embedding:token", ["v", "v", "v"]),
        ("(embedding:token:1.2) cat", ["v", *ids("cat")]),
        ("a embedding:absent, cat", [*ids("a"), *ids(", cat")]),
        ("a embedding:wide cat", [*ids("a"), *ids("cat")]),
        ("embedding:", []),
        ("embedding:../embeddings/token", []),
        ("embedding:/etc/hostname cat", ids("cat")),
    ],
)
def test_where_the_vectors_stand(embeddings, prompt, expected):
    (chunk,) = tokenize(prompt, 0, embeddings)
    assert shown(chunk) == [START, *expected, END]


def test_weights_of_the_vectors(embeddings):
    (chunk,) = tokenize("(cat embedding:plain:1.3) dog", 0, embeddings)
    assert chunk.weights[:6] == (1.0, 1.3, 1.3, 1.3, 1.0, 1.0)


def test_few_vectors_move_to_the_next_chunk_and_many_are_cut(embeddings):
    first, second = tokenize("cat " * 73 + "embedding:pickled dog", 0, embeddings)
    assert shown(first).count("v") == 0
    assert shown(second)[:4] == [START, "v", "v", "v"]
    first, second = tokenize("cat " * 70 + "embedding:long dog", 0, embeddings)
    assert (shown(first).count("v"), shown(second).count("v")) == (5, 4)


def test_without_embeddings_it_is_text():
    (chunk,) = tokenize("embedding:pickled", 0)
    assert shown(chunk) == [START, *ids("embedding:pickled"), END]


def encode(clip, text):
    return STOCK["CLIPTextEncode"]().encode(clip, text)[0][0][0]


@pytest.mark.parametrize("kind", OWN_KEYS)
def test_the_vectors_of_words_are_the_words(load, tiny_models, kind):
    """An embedding that holds a word's own vectors encodes as the word."""
    clip = load(kind).clip
    table = clip.tower.model.token_embedding.weight
    folder = tiny_models.root / "embeddings"
    folder.mkdir(exist_ok=True)
    save_file({"emb_params": table[ids("red cat")].clone()}, folder / "words.safetensors")
    words = "a (red cat:1.3) in the snow"
    torch.testing.assert_close(
        encode(clip, "a (embedding:words:1.3) in the snow"), encode(clip, words), atol=1e-6, rtol=1e-5
    )
    assert (encode(clip, "a embedding:words in the snow") - encode(clip, words)).abs().max() > 1e-3


def test_every_prompt_that_comfyui_is_asked_too(load, tiny_models):
    clip = load("v2-base").clip
    assert all(encode(clip, text).isfinite().all() for text in PROMPTS.values())


@pytest.mark.parametrize(
    ("prompt", "sentence"),
    [
        ("embedding:absent, cat", r"^embedding 'absent' is not in .*embeddings; the prompt is encoded without it"),
        ("embedding:wide", r"^embedding wide.safetensors is left out of the prompt: its vectors have 72 numbers"),
        ("cat,embedding:plain", r"^'cat,embedding:plain' in the prompt is read as text; write a space before"),
    ],
)
def test_what_is_left_out_is_said_once(embeddings, caplog, prompt, sentence):
    with caplog.at_level(logging.WARNING, "sd2_family"):
        tokenize(prompt, 0, embeddings)
    (record,) = caplog.records
    assert re.search(sentence, record.message)


def test_no_models_folder_is_said(caplog):
    with caplog.at_level(logging.WARNING, "sd2_family"):
        tokenize("embedding:style", 0, Embeddings((), SPEC))
    assert "cannot be looked up, as no models folder is set" in caplog.text


class Evil:
    def __reduce__(self):
        return print, ("run",)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (lambda path: torch.save({"string_to_param": Evil()}, path), r"bad\.pt would run .*print while loading"),
        (lambda path: path.write_bytes(pickle.dumps(Evil(), protocol=2)), r"bad\.pt would run .*print while loading"),
        (lambda path: path.write_bytes(b"nothing"), "bad.pt cannot be read safely"),
        (lambda path: path.write_bytes(b""), "bad.pt is empty"),
        (lambda path: torch.save({"name": "style"}, path), "bad.pt has no vectors of an embedding"),
        (lambda path: torch.save({"string_to_param": {}}, path), "bad.pt has no vectors of an embedding"),
        (lambda path: torch.save([1, 2], path), "bad.pt has no vectors of an embedding"),
    ],
)
def test_a_bad_file_is_refused(folder, embeddings, capsys, content, sentence):
    content(folder / "bad.pt")
    with pytest.raises(ValueError, match=sentence):
        tokenize("embedding:bad", 0, embeddings)
    assert capsys.readouterr().out == ""
