"""vitjax: plain Vision Transformers for image classification in JAX."""

# Prepares the process for TensorFlow, torch and triton in any order.
import input_pipeline  # noqa: F401

__version__ = "0.1.0"
