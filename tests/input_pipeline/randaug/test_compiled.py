"""The ops and layers compiled by XLA give the same bits at every level of optimization.

The tests of this project run with little optimization, trainings with all of it.
"""

import json
import os
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from input_pipeline import randaug
from tests.helpers.photographs import PHOTOGRAPHS

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[3]


def sums():
    """By op and level: the checksum of what it makes of a photograph, in a dataset."""
    image = np.ascontiguousarray(PHOTOGRAPHS["china"][:96, :128])
    found = {}
    for level in (3.0, 10.0):
        for name, arguments in randaug.level_arguments(level).items():
            place = (40, 70) if name == "Cutout" else ()

            @tf.autograph.experimental.do_not_convert
            def op(image, name=name, arguments=arguments, place=place):
                image = tf.ensure_shape(image, [96, 128, 3])
                return randaug.OPS[name](image, *arguments, *place)

            data = tf.data.Dataset.from_tensors(image).map(op)
            (after,) = data.as_numpy_iterator()
            found[f"{name} {level}"] = zlib.crc32(after.tobytes())
    for level, contrast in ((3.0, "legacy"), (7.0, "fixed"), (10.0, "fixed")):
        found |= sums_of_layers(image, level, contrast)
    return found


def sums_of_layers(image, level, contrast):
    """By op, negated or not: the checksum of images after a layer of a policy."""
    rng = np.random.default_rng(0)
    dull, noise = image // 3 + 60, rng.integers(0, 256, image.shape)
    images = np.stack([image, dull, noise, image // 2 + noise // 3]).astype(np.uint8)
    layer = randaug.randaug(1, level, contrast=contrast)
    # Words with the op, the sign and a place.
    plans = np.arange(32, dtype=np.uint32)[:, None] + np.uint32(3000 << 5 | 5000 << 18)
    data = tf.data.Dataset.from_tensor_slices(plans)
    apply = tf.autograph.experimental.do_not_convert(
        lambda plan: tf.stack([layer.apply(i, plan) for i in tf.unstack(images)])
    )
    return {
        f"{word % 16} {word // 16} {level} {contrast}": zlib.crc32(after.tobytes())
        for word, after in enumerate(data.map(apply).as_numpy_iterator())
    }


def test_full_optimization_gives_the_same_bits():
    assert "optimization_level=0" in os.environ["XLA_FLAGS"]
    code = (
        "import json, os, sys\n"
        "from tests.input_pipeline.randaug.test_compiled import sums\n"
        "assert not os.environ.get('XLA_FLAGS')\n"
        "print(json.dumps(sums()))\n"
    )
    env = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    expected = sums()
    assert len(set(expected.values())) > 20
    assert json.loads(done.stdout) == expected
