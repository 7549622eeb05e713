"""Encode prompts by ComfyUI's rules: weights, 77-token chunks, interpolation from the empty prompt.

`(word:1.3)` sets a weight, `(word)` multiplies it by 1.1, groups nest, and `\\(` `\\)` are literal parentheses.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import cast

import torch
from open_clip import SimpleTokenizer
from torch import Tensor

from .clip_text import CONTEXT_LENGTH, TextTower

START, END = 49406, 49407
_SPLITTABLE = 8  # tokens: a shorter group moves to the next chunk instead of being split
_HIDE = {"\\(": "\ufdd0", "\\)": "\ufdd1"}  # escaped parentheses, as Unicode noncharacters while parsing


@dataclass(frozen=True)
class Chunk:
    """One input of the text tower: 77 token ids and their weights."""

    tokens: tuple[int, ...]
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


def tokenize(text: str, pad_token: int) -> list[Chunk]:
    """Split a prompt of any length into chunks of 77: start token, at most 75 tokens, end token, padding."""
    chunks: list[list[tuple[int, float]]] = [[]]
    room = CONTEXT_LENGTH - 2
    for piece, weight in parse_weights(text):
        group = [(token, weight) for token in cast("list[int]", tokenizer().encode(piece))]
        splittable = len(group) >= _SPLITTABLE
        while len(group) > room - len(chunks[-1]):
            cut = room - len(chunks[-1]) if splittable else 0
            chunks[-1] += group[:cut]
            chunks.append([])
            group = group[cut:]
        chunks[-1] += group
    return [_finish(chunk, pad_token) for chunk in chunks]


def _finish(body: list[tuple[int, float]], pad_token: int) -> Chunk:
    padding = [(pad_token, 1.0)] * (CONTEXT_LENGTH - 2 - len(body))
    tokens, weights = zip(*[(START, 1.0), *body, (END, 1.0), *padding], strict=True)
    return Chunk(tokens, weights)


def encode(tower: TextTower, chunks: list[Chunk]) -> Tensor:
    """Encode chunks: float32 [1, 77 * chunks, D]; weight w moves a token's vector to empty + w * (vector - empty)."""
    device = next(tower.parameters()).device
    weights = torch.tensor([chunk.weights for chunk in chunks], device=device).unsqueeze(-1)  # [chunks, 77, 1]
    weighted = bool((weights != 1).any())
    batch = [*chunks, *tokenize("", tower.spec.pad_token)] if weighted else chunks
    z = cast(Tensor, tower(torch.tensor([chunk.tokens for chunk in batch], device=device))).float()
    if weighted:
        z, empty = z[:-1], z[-1:]
        z = torch.where(weights == 1, z, empty + weights * (z - empty))
    return z.reshape(1, -1, z.shape[-1])
