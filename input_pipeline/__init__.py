"""Read, order and augment images, without any dependence on vitjax."""

from input_pipeline import environment

environment.prepare()
