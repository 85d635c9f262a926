"""A table with a row for each evaluated example: its label and its prediction.

Shapes: n examples.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

from input_pipeline.sources.class_names import in_words
from vitjax.tools.predictions import Predictions


def columns(
    evaluator: str, predictions: Predictions, index: Int[np.ndarray, " n"], data: Any
) -> dict[str, list[Any]]:
    """Return the table's columns by name.

    `index` is the examples' place in the data set of `data`, an evaluator's batches.
    `file` is empty unless the data set is a folder. The probability is that of the
    predicted class; of several labels, `Predictions.true` chooses one.
    """
    names = in_words(predictions.names)
    path_of = getattr(data.host_batches.source, "path", None)
    predicted, true = predictions.predicted, predictions.true
    count = len(index)
    return {
        "evaluator": [evaluator] * count,
        "index": index.tolist(),
        "file": [path_of(i) if path_of else "" for i in index.tolist()],
        "label": true.tolist(),
        "label_name": [names[k] for k in true],
        "prediction": predicted.tolist(),
        "prediction_name": [names[k] for k in predicted],
        "probability": predictions.probabilities().max(axis=1).tolist(),
        "correct": predictions.hits(1).tolist(),
    }


def joined(tables: Sequence[dict[str, list[Any]]]) -> dict[str, list[Any]]:
    """Return tables of the same columns one below the other."""
    return {name: [x for t in tables for x in t[name]] for name in tables[0]}
