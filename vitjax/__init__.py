"""vitjax: plain Vision Transformers for image classification in JAX.

The library, see `vitjax.library`, is imported at the first use of one of its names.
"""

from typing import TYPE_CHECKING, Any

# Lets TensorFlow, torch and triton be imported in any order.
import input_pipeline  # noqa: F401

if TYPE_CHECKING:
    from vitjax.library import (
        Classifier,
        Prediction,
        Training,
        create_model,
        load,
        make_training,
    )

__version__ = "0.1.0"
__all__ = [
    "Classifier",
    "Prediction",
    "Training",
    "create_model",
    "load",
    "make_training",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'vitjax' has no attribute {name!r}")
    from vitjax import library

    return getattr(library, name)
