"""Prompt syntax, tokens and weighting against ComfyUI's documented rules and Hugging Face's CLIPTokenizer."""

import gzip
import json
from pathlib import Path

import open_clip.tokenizer
import pytest
import torch
from sd2_family.models.clip_text import OpenCLIPText
from sd2_family.models.prompt import encode, parse_weights, tokenize, tokenizer
from sd2_family.models.specs import TextSpec
from tiny import randomise
from transformers import CLIPTokenizer

# the right-hand sides are what ComfyUI 0.3.64 makes of the left
PARSED = {
    "": [],
    "a cat": [("a cat", 1.0)],
    "(cat)": [("cat", 1.1)],
    "((cat))": [("cat", 1.1 * 1.1)],
    "a (red:1.3) cat": [("a ", 1.0), ("red", 1.3), (" cat", 1.0)],
    "(a (red:0.5) cat:1.5)": [("a ", 1.5), ("red", 0.5), (" cat", 1.5)],
    "(a (red) cat:1.5)": [("a ", 1.5), ("red", 1.5 * 1.1), (" cat", 1.5)],
    "(cat:-0.5)": [("cat", -0.5)],
    "(cat: 1.2 )": [("cat", 1.2)],
    "(ratio 3:4:1.2)": [("ratio 3:4", 1.2)],
    "(cat:dog)": [("cat:dog", 1.1)],
    "(:1.2)": [(":1.2", 1.1)],
    r"\(cat\)": [("(cat)", 1.0)],
    r"(\(cat\):1.2)": [("(cat)", 1.2)],
    "(cat": [("(cat", 1.0)],
    "((cat)": [("(cat", 1.1)],
    "((cat": [("((cat", 1.0)],
    "cat)": [("cat)", 1.0)],
    "cat) (dog:1.2)": [("cat) (dog:1.2)", 1.0)],
    "()": [],
    "embedding:style": [("embedding:style", 1.0)],
}


@pytest.mark.parametrize("prompt", PARSED)
def test_parse_weights(prompt):
    assert parse_weights(prompt) == [(text, pytest.approx(weight)) for text, weight in PARSED[prompt]]


def test_parse_weights_ignores_what_is_no_usable_number():
    assert parse_weights("(cat:nan)") == [("cat:nan", pytest.approx(1.1))]
    assert parse_weights("(to:infinity)") == [("to:infinity", pytest.approx(1.1))]


def test_parse_weights_of_very_deep_nesting():
    assert parse_weights("(" * 1200 + "cat" + ":0.5)" * 1200) == [("cat", 0.5)]


@pytest.fixture(scope="module")
def hugging_face(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clip")
    merges = gzip.decompress(Path(open_clip.tokenizer.default_bpe()).read_bytes()).decode().split("\n")
    merges = merges[1 : 49152 - 256 - 2 + 1]
    letters = list(open_clip.tokenizer.bytes_to_unicode().values())
    vocabulary = [*letters, *(letter + "</w>" for letter in letters), *(merge.replace(" ", "") for merge in merges)]
    vocabulary += ["<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(vocabulary)}))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]))
    return CLIPTokenizer.from_pretrained(folder)


@pytest.mark.parametrize(
    "text",
    [
        "a photograph of an astronaut riding a horse",
        "Portrait, 85mm f/1.4,  HIGHLY   detailed\n\tby Greg",
        "don't they've we'll I'm it's",
        "3000 dollars & 50% off!!! <lora> [x] {y} ...",
        "Caf\u00e9 Cafe\u0301 \u00dcn\u00efc\u00f6d\u00e9 \u0391\u03a3",
        "\u6771\u4eac \u30bf\u30ef\u30fc \u041c\u043e\u0441\u043a\u0432\u0430 \U0001f600\U0001f44d",
        "&amp; \u201cquoted\u201d \u00bd",
        "pneumonoultramicroscopicsilicovolcanoconiosis",
        "embedding:style, masterpiece",
    ],
)
def test_tokens_are_those_of_hugging_face(hugging_face, text):
    assert [49406, *tokenizer().encode(text), 49407] == hugging_face(text)["input_ids"]


@pytest.mark.parametrize("pad", [0, 49407])
def test_a_short_prompt_is_one_padded_chunk(pad):
    (chunk,) = tokenize("a (cat:1.3)", pad)
    assert chunk.tokens == (49406, 320, 2368, 49407, *[pad] * 73)
    assert chunk.weights == (1.0, 1.0, 1.3, *[1.0] * 74)


def test_an_empty_prompt_is_one_chunk():
    (chunk,) = tokenize("", 0)
    assert chunk.tokens == (49406, 49407, *[0] * 75)


def test_75_tokens_fill_one_chunk_and_one_more_needs_a_second():
    assert len(tokenize("cat " * 75, 0)) == 1
    first, second = tokenize("cat " * 76, 0)
    assert first.tokens == (49406, *[2368] * 75, 49407)
    assert second.tokens == (49406, 2368, 49407, *[0] * 74)


def test_a_group_of_under_eight_tokens_moves_whole_to_the_next_chunk():
    first, second = tokenize("cat " * 70 + "(dog dog dog dog dog dog dog:1.2)", 0)
    assert first.tokens == (49406, *[2368] * 70, 49407, *[0] * 5)
    assert second.tokens[:9] == (49406, *[1929] * 7, 49407)
    assert second.weights[:9] == (1.0, *[1.2] * 7, 1.0)


def test_a_group_of_eight_tokens_is_cut_at_the_end_of_the_chunk():
    first, second = tokenize("cat " * 70 + "(dog dog dog dog dog dog dog dog:1.2)", 0)
    assert first.tokens == (49406, *[2368] * 70, *[1929] * 5, 49407)
    assert second.tokens[:5] == (49406, *[1929] * 3, 49407)


@pytest.fixture(scope="module")
def tower():
    return randomise(OpenCLIPText(TextSpec(width=64, layers=2, heads=1)), seed=3)


def tokens_of(*chunks):
    return torch.tensor([chunk.tokens for chunk in chunks])


def test_encode_without_weights_is_the_tower(tower):
    (chunk,) = tokenize("a red cat", 0)
    assert torch.equal(encode(tower, [chunk]), tower(tokens_of(chunk)))


def test_encode_joins_chunks_along_the_tokens(tower):
    chunks = tokenize("cat " * 100, 0)
    expected = torch.cat([tower(tokens_of(chunk)) for chunk in chunks], dim=1)
    assert encode(tower, chunks).shape == (1, 154, 64)
    # the same rows in another batch size differ by rounding only
    torch.testing.assert_close(encode(tower, chunks), expected, atol=1e-5, rtol=1e-5)


def test_encode_moves_weighted_tokens_away_from_the_empty_prompt(tower):
    chunks = tokenize("a (red:1.5) cat (dog:0.25)", 0)
    plain, empty = tower(tokens_of(*chunks))[0], tower(tokens_of(*tokenize("", 0)))[0]
    expected = plain.clone()
    for position, weight in ((2, 1.5), (4, 0.25)):
        expected[position] = (plain[position] - empty[position]) * weight + empty[position]
    torch.testing.assert_close(encode(tower, chunks)[0], expected, atol=1e-5, rtol=1e-5)


def test_encode_is_float32_from_a_half_precision_tower():
    tower = randomise(OpenCLIPText(TextSpec(width=64, layers=2, heads=1)), seed=3).to(torch.bfloat16)
    assert encode(tower, tokenize("a cat", 0)).dtype == torch.float32
