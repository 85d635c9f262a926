"""Fixtures and the marker of the tests of whole runs."""

from pathlib import Path

import pytest

from tests.helpers.runs import run


def pytest_collection_modifyitems(items):
    here = Path(__file__).parent
    for item in items:
        if item.path.is_relative_to(here):
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """The workdir of one run of twelve steps; a test that changes it copies it first."""
    workdir = tmp_path_factory.mktemp("finished")
    assert run(workdir) == 0
    return workdir
