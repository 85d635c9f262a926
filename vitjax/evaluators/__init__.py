"""The evaluators: `EVALUATORS[type](predict, make_data, mesh, **config.evals.NAME)`."""

from vitjax.evaluators.classification import Classification
from vitjax.evaluators.fewshot import FewShot
from vitjax.evaluators.knn import Knn
from vitjax.evaluators.linear_probe import LinearProbe
from vitjax.evaluators.svc_probe import SvcProbe

EVALUATORS = {
    "classification": Classification,
    "fewshot": FewShot,
    "knn": Knn,
    "linear_probe": LinearProbe,
    "svc_probe": SvcProbe,
}
