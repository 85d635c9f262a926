"""The text of every config key, by group and path; `--help` and docs/config.md show it.

The first sentence of a text is the key's line in lists. Types and defaults are not in the
texts, because `vitjax.config.sections` reads them from the signatures.

In a path, "[KIND]" restricts a text to one kind of data, evaluator, model or transform,
NAME stands for any name of an evaluator, and "*" for the units of a duration: steps,
examples, epochs and percent.
"""

from collections.abc import Mapping

from vitjax.config.keys import data, learning, model, running

# Group -> path -> text.
KEYS: Mapping[str, Mapping[str, str]] = {
    "Run": running.RUN,
    "Data": data.DATA,
    "Model": model.MODEL,
    "Loss and step": learning.STEP,
    "Optimizer": learning.OPTIMIZER,
    "Schedule": learning.SCHEDULE,
    "Evaluation": running.EVALUATION,
    "Checkpoints and records": running.RECORDS,
    "Devices": running.DEVICES,
}
