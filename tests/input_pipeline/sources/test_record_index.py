"""The kept table of where records begin."""

import numpy as np

from input_pipeline.sources import record_index


def test_an_index_that_python_stumbles_over_is_read_again(monkeypatch):
    """The header's parser is not safe in several threads of Python 3.11."""
    file = record_index._file_of(7, 8, np.array([0, 20], np.int64))
    load, calls = np.load, []

    def stumbling(*args, **kwargs):
        calls.append(args)
        if len(calls) == 1:
            raise SystemError("AST constructor recursion depth mismatch")
        return load(*args, **kwargs)

    monkeypatch.setattr(record_index.np, "load", stumbling)
    found = record_index.fresh(file, 7, 8)
    assert found is not None
    np.testing.assert_array_equal(found, [0, 20])
    assert len(calls) == 2


def test_an_index_with_a_flipped_bit_or_of_another_shard_is_none():
    """Every bit of the offsets counts: each would look like a damaged record."""
    file = record_index._file_of(7, 8, np.array([0, 20, 2000], np.int64))
    np.testing.assert_array_equal(record_index.fresh(file, 7, 8), [0, 20, 2000])
    assert record_index.fresh(file, 7, 9) is None
    assert record_index.fresh(file, 6, 8) is None
    for bit in range(8 * 6 * 8):
        flipped = bytearray(file)
        flipped[-1 - bit // 8] ^= 1 << bit % 8
        assert record_index.fresh(bytes(flipped), 7, 8) is None
