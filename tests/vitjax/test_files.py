"""Files that are whole or not there."""

import pytest
from PIL import Image

from vitjax import files


class Interrupted:
    def savefig(self, file, **_):
        file.write(b"half")
        raise KeyboardInterrupt


def test_a_picture_is_whole_or_as_it_was(tmp_path):
    from matplotlib.figure import Figure

    path = tmp_path / "a.png"
    files.write_picture(path, Figure(figsize=(2, 1)), dpi=50)
    with Image.open(path) as picture:
        assert picture.size == (100, 50)
    before = path.read_bytes()
    with pytest.raises(KeyboardInterrupt):
        files.write_picture(path, Interrupted(), dpi=50)
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]
    assert path.read_bytes() == before
