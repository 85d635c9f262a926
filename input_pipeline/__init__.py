"""Reading, ordering and augmenting images; knows nothing of vitjax."""

from input_pipeline import environment

environment.prepare()
