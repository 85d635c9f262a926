"""Tests of this folder run on the CPU, and with `-m gpu` on a GPU."""

import jax
import pytest


@pytest.fixture(params=["cpu", pytest.param("gpu", marks=pytest.mark.gpu)])
def platform(request):
    """The platform of JAX's default device."""
    if jax.default_backend() != request.param:
        pytest.skip(f"needs a GPU that JAX sees, got {jax.default_backend()}")
    return request.param
