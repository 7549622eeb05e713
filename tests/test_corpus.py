"""What becomes of workflows from elsewhere: `SD2_CORPUS=folder pytest -m corpus tests/test_corpus.py`.

comfy-cli's own pair of a canvas and its API file is in its repository, in tests/comfy_cli/fixtures.
"""

import json
import os
import warnings
from pathlib import Path

import numpy as np
import pytest
from corpus import survey
from PIL import Image
from sd2_family.headless.cli import main
from tiny import write_checkpoint

pytestmark = pytest.mark.corpus


def test_every_workflow_of_a_folder(tmp_path, capsys, monkeypatch):
    folder = os.environ.get("SD2_CORPUS")
    if not folder:
        pytest.skip("set SD2_CORPUS to a folder of workflows")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)  # pictures made by upscalers
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        report = survey(Path(folder), tmp_path)
    with capsys.disabled():
        print(f"\n{report.text()}")
    assert report.reached["all"]["files"] > 0
    assert report.errors == []


def pictures(path, folder):
    """Run a workflow file as it is, with tiny weights under the names of its checkpoints: the pictures it saves."""
    output = folder / path.stem
    arguments = ["--models-dir", str(folder / "models"), "--output-dir", str(output)]
    assert main(["run", str(path), *arguments]) == 0
    return [np.asarray(Image.open(file)) for file in sorted(output.rglob("*.png"))]


def test_a_canvas_and_its_api_file_make_the_same_pictures(tmp_path, capsys):
    folder = Path(os.environ.get("SD2_CORPUS") or tmp_path)
    pairs = [
        (path, path.with_name(path.name.replace("_ui_workflow", "_expected_api")))
        for path in sorted(folder.rglob("*_ui_workflow.json"))
    ]
    pairs = [pair for pair in pairs if pair[1].is_file()]
    if not pairs:
        pytest.skip("set SD2_CORPUS to a folder with a pair like sd15_ui_workflow.json and sd15_expected_api.json")
    for canvas, api in pairs:
        for node in json.loads(api.read_text(encoding="utf-8")).values():
            if "ckpt_name" in node["inputs"]:
                target = tmp_path / "models" / "checkpoints" / node["inputs"]["ckpt_name"]
                target.parent.mkdir(parents=True, exist_ok=True)
                write_checkpoint(target, "v1")
        ours, expected = pictures(canvas, tmp_path), pictures(api, tmp_path)
        assert len(ours) == len(expected) > 0
        for mine, theirs in zip(ours, expected, strict=True):
            assert theirs.std() > 10
            assert np.array_equal(mine, theirs)
        with capsys.disabled():
            print(f"\n{canvas.name} and {api.name}: the same {[mine.shape for mine in ours]}")
