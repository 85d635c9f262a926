"""Data and a model for evaluators, whose results numpy can compute too."""

import jax
import numpy as np

from vitjax.devices.sharding import batch_sharding

CLASSES = 12


def rows_of(size, seed=0, multi=False):
    """Images (2, 2, 3) and labels, one-hot or of several classes or none."""
    rng = np.random.default_rng(seed)
    image = rng.normal(size=(size, 2, 2, 3)).astype(np.float32)
    labels = np.eye(CLASSES, dtype=np.float32)[rng.integers(0, CLASSES, size)]
    if multi:
        labels = (rng.random((size, CLASSES)) < 0.15).astype(np.float32)
    return {"image": image, "labels": labels}


def clouds(size, seed, apart):
    """Gaussian clouds around twelve centres."""
    rows = rows_of(size, seed)
    centres = np.random.default_rng(9).normal(size=(12, 2, 2, 3))
    rows["image"] += (apart * centres[rows["labels"].argmax(1)]).astype(np.float32)
    return rows


def predict(state, image):
    """Logits and features: the first pixels."""
    flat = state * image.reshape(len(image), -1)
    return flat[:, :CLASSES], {"code": flat}


class _Batches:
    def __init__(self, rows, batch_size, mesh):
        self.rows, self.batch_size, self.mesh = rows, batch_size, mesh
        self.steps = -(-len(rows["image"]) // batch_size)

    def __iter__(self):
        for i in range(self.steps):
            start = i * self.batch_size
            cut = {k: v[start:][: self.batch_size] for k, v in self.rows.items()}
            cut["_mask"] = np.ones(len(cut["image"]), np.float32)
            pad = self.batch_size - len(cut["image"])
            padded = {
                k: np.pad(v, [(0, pad)] + [(0, 0)] * (v.ndim - 1))
                for k, v in cut.items()
            }
            yield jax.device_put(padded, batch_sharding(self.mesh))


def make_data(rows, mesh):
    """A make_data of the rows of each data set by name, padded as the pipeline does."""

    def function(*, data, pp_fn, batch_size):
        del pp_fn
        batches = _Batches(rows[data["name"]], batch_size, mesh)
        return batches, batches.steps

    return function
