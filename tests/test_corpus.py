"""What becomes of workflows from elsewhere: `SD2_CORPUS=folder pytest -m corpus tests/test_corpus.py`."""

import os
import warnings
from pathlib import Path

import pytest
from corpus import survey
from PIL import Image

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
