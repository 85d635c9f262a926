"""Evaluators: `EVALUATORS[type](predict, make_data, mesh, **config.evals.NAME)`."""

from vitjax.evaluators.classification import Classification

EVALUATORS = {"classification": Classification}
