"""Nodes on lists of values, as ComfyUI runs them."""

import pytest
from sd2_family.headless.lists import call


class Plain:
    RETURN_TYPES = ("INT", "STRING")

    def run(self, a, b="x", extra=None):
        return a + 1, f"{b}{extra}"


class Split:
    RETURN_TYPES = ("INT", "INT")
    OUTPUT_IS_LIST = (True, False)

    def run(self, a):
        return list(range(a)), a


class Gather:
    INPUT_IS_LIST = True
    RETURN_TYPES = ("INT",)

    def run(self, a, b, extra=None):
        return (sum(a) * b[0] + (extra or [0])[0],)


class Show:
    RETURN_TYPES = ()

    def run(self, a):
        return {"ui": {"text": (str(a),)}}


@pytest.mark.parametrize(
    ("node", "inputs", "hidden", "expected"),
    [
        (Plain, {"a": [1]}, {"extra": "!"}, ([2], ["x!"])),
        (Plain, {"a": [1, 2, 3], "b": ["p", "q"]}, {}, ([2, 3, 4], ["pNone", "qNone", "qNone"])),
        (Split, {"a": [2, 3]}, {}, ([0, 1, 0, 1, 2], [2, 3])),
        (Gather, {"a": [1, 2, 3], "b": [10]}, {"extra": 4}, ([64],)),
        (Plain, {"a": []}, {}, ([], [])),
    ],
)
def test_calls_and_results(node, inputs, hidden, expected):
    assert call(node, node().run, inputs, hidden) == ({}, expected)


def test_what_is_shown_is_joined():
    assert call(Show, Show().run, {"a": [1, 2]}, {}) == ({"text": ["1", "2"]}, ())
