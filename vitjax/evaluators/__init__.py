"""Evaluators: `EVALUATORS[type](predict, make_data, mesh, **config.evals.NAME)`."""

from vitjax.evaluators.classification import Classification
from vitjax.evaluators.svc_probe import SvcProbe

EVALUATORS = {"classification": Classification, "svc_probe": SvcProbe}
