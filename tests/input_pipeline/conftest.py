"""A small imagenet2012 that a test may damage."""

import shutil

import pytest


@pytest.fixture
def copied(imagenet_dir, tmp_path):
    """The data_dir of a copy without record indexes."""
    ignore = shutil.ignore_patterns(".record_index")
    return shutil.copytree(imagenet_dir, tmp_path / "copy", ignore=ignore)
