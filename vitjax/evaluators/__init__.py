"""The evaluators: `EVALUATORS[type](predict, make_data, mesh, **config.evals.NAME)`."""

from vitjax.evaluators.classification import Classification
from vitjax.evaluators.fewshot import FewShot
from vitjax.evaluators.svc_probe import SvcProbe

EVALUATORS = {
    "classification": Classification,
    "fewshot": FewShot,
    "svc_probe": SvcProbe,
}
