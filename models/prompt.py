"""Encode prompts by ComfyUI's rules: weights, 77-token chunks, interpolation from the empty prompt.

`(word:1.3)` sets a weight, `(word)` multiplies it by 1.1, groups nest, and `\\(` `\\)` are literal parentheses.
`embedding:name` stands for the vectors of a textual-inversion file, each in the place of one token.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import cast

import torch
from open_clip import SimpleTokenizer
from torch import Tensor

from .clip_text import CONTEXT_LENGTH, TextTower
from .textual_inversion import Embeddings, warn

START, END = 49406, 49407
_SPLITTABLE = 8  # tokens: a shorter group moves to the next chunk instead of being split
_EMBEDDING = "embedding:"
_HIDE = {"\\(": "\ufdd0", "\\)": "\ufdd1"}  # escaped parentheses, as Unicode noncharacters while parsing


@dataclass(frozen=True)
class Chunk:
    """One input of the text tower: 77 tokens, each an id or the vector [D] of an embedding, and their weights."""

    tokens: tuple[int | Tensor, ...]
    weights: tuple[float, ...]


def parse_weights(text: str) -> list[tuple[str, float]]:
    """Split a prompt into pieces of one weight each; unmatched parentheses stay text."""
    for escaped, hidden in _HIDE.items():
        text = text.replace(escaped, hidden)
    pieces: list[tuple[str, float]] = []
    pending = [(text, 1.0)]
    while pending:
        text, weight = pending.pop()
        groups = [group for group in _outermost_groups(text) if group]
        if groups == [text] and not _is_group(text):
            pieces.append((text.replace(_HIDE["\\("], "(").replace(_HIDE["\\)"], ")"), weight))
        else:
            pending += [_open(group, weight) if _is_group(group) else (group, weight) for group in reversed(groups)]
    return pieces


def _outermost_groups(text: str) -> Iterator[str]:
    start = depth = 0
    for position, character in enumerate(text):
        if character == "(":
            if depth == 0:
                yield text[start:position]
                start = position
            depth += 1
        elif character == ")":
            depth -= 1
            if depth == 0:
                yield text[start : position + 1]
                start = position + 1
    yield text[start:]


def _is_group(text: str) -> bool:
    return len(text) >= 2 and text[0] == "(" and text[-1] == ")"


def _open(group: str, weight: float) -> tuple[str, float]:
    """Parse a group: `(word:1.3)` -> word, 1.3 (replacing the outer weight); `(word)` -> word, 1.1 * outer weight."""
    inner = group[1:-1]
    word, _, number = inner.rpartition(":")
    try:
        given = float(number) if word else math.nan
    except ValueError:
        given = math.nan
    return (word, given) if math.isfinite(given) else (inner, weight * 1.1)


@lru_cache(maxsize=1)
def tokenizer() -> SimpleTokenizer:
    """Return CLIP's byte-pair encoding with the text normalization of Hugging Face's CLIPTokenizer, as in ComfyUI."""
    encoding = SimpleTokenizer()
    encoding.clean_fn = _normalize
    return encoding


def _normalize(text: str) -> str:
    return "".join(map(str.lower, " ".join(unicodedata.normalize("NFC", text).split())))


def tokenize(text: str, pad_token: int, embeddings: Embeddings | None = None) -> list[Chunk]:
    """Split a prompt of any length into chunks of 77: start token, at most 75 tokens, end token, padding.

    embeddings: where `embedding:name` is looked up; None leaves it as text.
    """
    chunks: list[list[tuple[int | Tensor, float]]] = [[]]
    room = CONTEXT_LENGTH - 2
    for tokens, weight in _groups(text, embeddings):
        group = [(token, weight) for token in tokens]
        splittable = len(group) >= _SPLITTABLE
        while len(group) > room - len(chunks[-1]):
            cut = room - len(chunks[-1]) if splittable else 0
            chunks[-1] += group[:cut]
            chunks.append([])
            group = group[cut:]
        chunks[-1] += group
    return [_finish(chunk, pad_token) for chunk in chunks]


def _groups(text: str, embeddings: Embeddings | None) -> Iterator[tuple[list[int | Tensor], float]]:
    """Yield the tokens that stay in one chunk if they are few, and their weight."""
    for piece, weight in parse_weights(text):
        # an embedding starts at the piece's start or after a space, and ends at the next space
        for words in re.split(rf"\s(?={_EMBEDDING})", piece) if embeddings else [piece]:
            rest = words
            if embeddings and words.startswith(_EMBEDDING):
                vectors, rest = _embedding(words.removeprefix(_EMBEDDING), embeddings)
                yield vectors, weight
            if embeddings and _EMBEDDING in rest:
                warn(f"{rest.strip()!r} in the prompt is read as text; write a space before {_EMBEDDING}")
            yield list(cast("list[int]", tokenizer().encode(rest))), weight


def _embedding(words: str, embeddings: Embeddings) -> tuple[list[int | Tensor], str]:
    """Return the vectors of the embedding that the words start with, and the rest of the words."""
    name, rest = [*words.split(maxsplit=1), "", ""][:2]
    found = embeddings.vectors(name)
    if found is None and name != (stem := name.rstrip(",")):  # a comma after it, unless it is part of the name
        name, rest = stem, f"{name[len(stem) :]} {rest}"
        found = embeddings.vectors(name)
    if found is None:
        embeddings.missing(name)
        return [], rest
    return list(found), rest


def _finish(body: list[tuple[int | Tensor, float]], pad_token: int) -> Chunk:
    padding = [(pad_token, 1.0)] * (CONTEXT_LENGTH - 2 - len(body))
    tokens, weights = zip(*[(START, 1.0), *body, (END, 1.0), *padding], strict=True)
    return Chunk(tokens, weights)


def encode(tower: TextTower, chunks: list[Chunk], stop: int | None = None) -> Tensor:
    """Encode chunks: float32 [1, 77 * chunks, D]; weight w moves a token's vector to empty + w * (vector - empty).

    stop: the layer that is read, as `TextTower.forward` has it.
    """
    device = next(tower.parameters()).device
    weights = torch.tensor([chunk.weights for chunk in chunks], device=device).unsqueeze(-1)  # [chunks, 77, 1]
    weighted = bool((weights != 1).any())
    batch = [*chunks, *tokenize("", tower.spec.pad_token)] if weighted else chunks
    z = tower.transform(_embedded(tower, batch), stop).float()
    if weighted:
        z, empty = z[:-1], z[-1:]
        z = torch.where(weights == 1, z, empty + weights * (z - empty))
    return z.reshape(1, -1, z.shape[-1])


def _embedded(tower: TextTower, chunks: list[Chunk]) -> Tensor:
    """Return the vectors of the tokens: [chunks, 77, D]."""
    ids = [[END if isinstance(token, Tensor) else token for token in chunk.tokens] for chunk in chunks]
    vectors = tower.embed(torch.tensor(ids, device=next(tower.parameters()).device))
    for row, chunk in zip(vectors, chunks, strict=True):
        for position, token in enumerate(chunk.tokens):
            if isinstance(token, Tensor):
                row[position] = token
    return vectors
