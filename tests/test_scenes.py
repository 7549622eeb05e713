from __future__ import annotations

import re

import numpy as np
import pytest
from PIL import Image
from sd2_family.training.world import sample_images
from sd2_family.training.world.scenes import (
    BACKGROUNDS,
    COLORS,
    HELD_OUT,
    KINDS,
    Item,
    Scene,
    caption,
    plain_caption,
    render,
)


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [render(seed) for seed in range(500)]


def repainted(color: str, kind: str, background: str, seed: int) -> tuple[Scene, np.ndarray]:
    """A scene, and the mask of what changes in it when its object takes the opposite color."""
    other = "black" if color in ("white", "yellow", "pink") else "white"
    scene = render(seed, items=[(color, kind)], background=background)
    twin = render(seed, items=[(other, kind)], background=background)
    changed = np.abs(scene.image.astype(int) - twin.image.astype(int)).sum(2) > 60
    return scene, changed


def nearest_color(pixels: np.ndarray) -> str:
    """The named color that most pixels are closest to, in an opponent space of light, red-green and yellow-blue."""

    def opponent(rgb: np.ndarray) -> np.ndarray:
        r, g, b = np.moveaxis(np.asarray(rgb, float), -1, 0)
        return np.stack([(r + g + b) / 3, r - g, (r + g) / 2 - b], -1)

    named = opponent(np.array(list(COLORS.values())))
    distance = ((opponent(pixels)[:, None] - named) ** 2).sum(-1)
    return list(COLORS)[int(np.bincount(distance.argmin(1), minlength=len(COLORS)).argmax())]


def test_same_seed_same_scene_and_other_seed_another() -> None:
    first, again, other = render(7), render(7), render(8)
    assert np.array_equal(first.image, again.image)
    assert (first.caption, first.items) == (again.caption, again.items)
    assert not np.array_equal(first.image, other.image)
    assert first.image.shape == (128, 128, 3)
    assert first.image.dtype == np.uint8


def test_size_changes_the_resolution_and_not_the_composition() -> None:
    small, large = render(3), render(3, size=256)
    assert small.caption == large.caption
    shrunk = large.image.reshape(128, 2, 128, 2, 3).mean((1, 3))
    # The blurs and the anti-aliasing differ by part of a pixel at edges: under 2 levels in the mean.
    assert np.abs(shrunk - small.image).mean() < 2


def test_held_out_pairs_are_few_and_never_drawn_at_random(scenes: list[Scene]) -> None:
    seen = {(item.color, item.kind) for scene in scenes for item in scene.items}
    assert not seen & HELD_OUT
    assert len(HELD_OUT) == 12
    for column in (0, 1):
        names = [pair[column] for pair in HELD_OUT]
        assert max(names.count(name) for name in names) <= 2
    assert {color for color, _ in seen} == set(COLORS)
    assert {kind for _, kind in seen} == set(KINDS)
    assert {scene.background for scene in scenes} == set(BACKGROUNDS)


def test_held_out_pairs_are_drawn_when_asked() -> None:
    for color, kind in HELD_OUT:
        assert [(i.color, i.kind) for i in render(1, items=[(color, kind)]).items] == [(color, kind)]


def test_most_scenes_hold_one_object_and_some_three(scenes: list[Scene]) -> None:
    counts = np.bincount([len(scene.items) for scene in scenes], minlength=4) / len(scenes)
    # Four standard errors of a share of one half among 500 scenes is 0.09.
    assert np.abs(counts - [0, 0.55, 0.3, 0.15]).max() < 0.09
    assert all(len({item.kind for item in scene.items}) == len(scene.items) for scene in scenes)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_count_is_kept(count: int) -> None:
    assert all(len(render(seed, count=count).items) == count for seed in range(5))


def test_nothing_is_cut_off_or_hidden(scenes: list[Scene]) -> None:
    for scene in scenes:
        for k, item in enumerate(scene.items):
            x0, y0, x1, y1 = item.box
            assert 0 < x0 < x1 < 128
            assert 0 < y0 < y1 < 128
            hidden = np.zeros((128, 128), bool)
            for later in scene.items[k + 1 :]:
                hidden[later.box[1] : later.box[3], later.box[0] : later.box[2]] = True
            assert hidden[y0:y1, x0:x1].mean() < 0.4


@pytest.mark.parametrize("kind", KINDS)
def test_objects_have_their_color_inside_their_box(kind: str) -> None:
    for i, color in enumerate(COLORS):
        scene, changed = repainted(color, kind, BACKGROUNDS[(i + len(kind)) % len(BACKGROUNDS)], seed=i)
        x0, y0, x1, y1 = scene.items[0].box
        inside = np.zeros_like(changed)
        inside[y0:y1, x0:x1] = True
        assert not (changed & ~inside).any()
        # A flower fills about a third of its box, a cup three quarters.
        assert changed[inside].mean() > 0.25
        assert nearest_color(scene.image[changed]) == color


def test_captions_name_every_object_with_the_right_article(scenes: list[Scene]) -> None:
    for scene in scenes:
        for item in scene.items:
            assert re.search(rf"\b{item.color} {item.kind}\b", scene.caption)
        assert not re.search(r"\ba [aeiou]|\ban [^aeiou]|  ", scene.caption)
        for word in ("small", "big"):
            named = re.findall(rf"{word} (\w+) (\w+)", scene.caption)
            true = {(item.color, item.kind) for item in scene.items if item.size_word == word}
            assert set(named) <= true


def test_caption_templates() -> None:
    items = [Item("house", "red", (0, 0, 9, 9)), Item("umbrella", "orange", (0, 0, 9, 9))]
    said = {caption(np.random.default_rng(seed), items, "in the snow") for seed in range(200)}
    assert {
        "a red house and an orange umbrella in the snow",
        "orange umbrella and red house in the snow",
        "a snowy field with an orange umbrella and a red house",
        "a red house and an orange umbrella",
    } <= said
    assert plain_caption("purple", "boat", "on a beach") == "a purple boat on a beach"
    assert plain_caption("orange", "cup", "by a lake") == "an orange cup by a lake"


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ValueError, match="on the moon"):
        render(0, background="on the moon")
    with pytest.raises(ValueError, match="dragon"):
        render(0, items=[("red", "dragon")])


@pytest.mark.parametrize("name", sample_images.SAMPLES)
def test_the_bundled_images_are_drawn_again(name: str) -> None:
    seed, background, items = sample_images.SAMPLES[name]
    stored = np.asarray(Image.open(sample_images.FOLDER / f"{name}.png"))
    again = render(seed, items=items, background=background).image
    assert np.abs(again.astype(int) - stored).mean() < 0.1  # releases of Pillow may round edges otherwise


@pytest.mark.parametrize("background", BACKGROUNDS)
def test_the_ground_comes_nearer_towards_the_lower_edge_and_the_sky_is_far(background: str) -> None:
    scene = render(3, items=[("red", "rocket")], background=background)
    depth = scene.nearness
    assert depth.shape == (128, 128)
    free = depth[max(86, scene.items[0].box[3]) : -1, 20:40]  # below the thing in the air, beside the forest's trunks
    assert (np.diff(free, axis=0) > 0).all()
    assert np.abs(free - free[:, :1]).max() < 1e-6  # level
    assert depth[-1, 20:40].min() > 0.98
    assert depth.min() == 0
    if background != "in a forest":  # whose leaves hang above
        assert depth[:6].max() == 0


def test_objects_are_as_near_as_the_ground_under_them() -> None:
    feet, near = [], []
    for seed in range(40):
        scene = render(seed, items=[("red", "cat")], background="at sunset")
        (item,) = scene.items
        x0, y0, x1, y1 = item.box
        body = scene.nearness[y0:y1, x0:x1]
        ground = scene.nearness[y1 - 1, 0]  # level: at the edge of the image it is what it is at the foot
        assert 0.03 < body[: (y1 - y0) // 2].max() - ground < 0.09  # its upper half too, and it bulges by 0.06
        feet.append(y1)
        near.append(body.max())
    assert np.corrcoef(feet, near)[0, 1] > 0.95


def test_of_two_things_in_the_air_the_bigger_is_nearer() -> None:
    heights, near = [], []
    for seed in range(40):
        scene = render(seed, items=[("blue", "balloon")], background="at sunset")
        x0, y0, x1, y1 = scene.items[0].box
        heights.append(y1 - y0)
        near.append(scene.nearness[y0:y1, x0:x1].max())
    assert np.corrcoef(heights, near)[0, 1] > 0.9


def test_color_changes_no_depth() -> None:
    red, white = (render(5, items=[(color, "cup")], background="on a beach") for color in ("red", "white"))
    assert not np.array_equal(red.image, white.image)
    assert np.array_equal(red.nearness, white.nearness)


def test_size_changes_no_depth() -> None:
    small, large = render(3).nearness, render(3, size=256).nearness
    assert np.abs(large.reshape(128, 2, 128, 2).mean((1, 3)) - small).mean() < 0.005  # of 1; edges differ
