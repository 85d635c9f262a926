"""vitjax: plain Vision Transformers for image classification in JAX."""

# Lets TensorFlow, torch and triton be imported in any order.
import input_pipeline  # noqa: F401

__version__ = "0.1.0"
