"""What the tests of whole runs share."""

import pytest

from tests.helpers.runs import run


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """The workdir of one run of twelve steps; a test that changes it copies it first."""
    workdir = tmp_path_factory.mktemp("finished")
    assert run(workdir) == 0
    return workdir
