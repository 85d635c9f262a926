"""vitjax: plain Vision Transformers for image classification in JAX."""

__version__ = "0.1.0"
