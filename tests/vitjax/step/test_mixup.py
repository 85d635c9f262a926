"""mixup against its definition in numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers.steps import submesh
from vitjax.devices.sharding import batch_sharding, make_mesh
from vitjax.step import mixup


@pytest.mark.parametrize("count", [1, 4])
def test_global_partners_are_the_rolled_batch_on_any_number_of_devices(count):
    mesh = submesh(count)
    image = np.random.default_rng(0).integers(0, 256, (16, 3, 2), np.uint8)
    batch = {"image": image, "label": np.arange(16, dtype=np.int32)}
    placed = jax.device_put(batch, batch_sharding(mesh))
    got = jax.jit(lambda b: mixup.partners(b, mesh, "global"))(placed)
    for name, value in batch.items():
        np.testing.assert_array_equal(got[name], np.roll(value, 1, axis=0))
        assert got[name].dtype == value.dtype


def test_global_partners_move_one_row_between_devices(mesh):
    x = jax.ShapeDtypeStruct((64, 7), jnp.uint8, sharding=batch_sharding(mesh))
    text = jax.jit(lambda b: mixup.partners(b, mesh)).lower(x).compile().as_text()
    assert "all-gather" not in text
    moved = [line for line in text.splitlines() if " collective-permute(" in line]
    assert len(moved) == 1
    assert "u8[1,7]" in moved[0]


def test_device_scope_pairs_inside_each_device_as_big_vision():
    """mixup of the identity over four devices is block-diagonal, 2 x 2 each."""
    mesh = submesh(4)
    eye = jax.device_put(jnp.eye(8), batch_sharding(mesh))
    lam = jnp.float32(0.75)
    mixed = np.asarray(mixup.mix(eye, mixup.partners(eye, mesh, "device"), lam))
    block = np.array([[0.75, 0.25], [0.25, 0.75]])
    np.testing.assert_array_equal(mixed, np.kron(np.eye(4), block))


def test_partners_over_a_mesh_of_two_axes():
    mesh = make_mesh([("replica", 2), ("data", -1)])
    x = jax.device_put(np.arange(16), batch_sharding(mesh))
    got = jax.jit(lambda b: mixup.partners(b, mesh))(x)
    np.testing.assert_array_equal(got, np.roll(np.arange(16), 1))


def test_lambda_has_the_law_of_a_folded_beta():
    """For p = 0.2: mean 0.897, 41 % above 0.99 (numpy's Beta agrees)."""
    keys = jax.random.split(jax.random.key(0), 20_000)
    lam = np.asarray(jax.vmap(lambda k: mixup.sample_lambda(k, 0.2))(keys))
    reference = np.random.default_rng(0).beta(0.2, 0.2, 20_000)
    reference = np.maximum(reference, 1 - reference)
    assert lam.min() >= 0.5
    # Four standard errors of a mean and of a share over 20,000 draws.
    assert abs(lam.mean() - 0.897) < 4 * reference.std() / 20_000**0.5 + 0.0005
    assert abs((lam > 0.99).mean() - 0.41) < 4 * (0.41 * 0.59 / 20_000) ** 0.5 + 0.005


@pytest.mark.parametrize(
    ("section", "words"),
    [({"p": 0.0}, "mixup=None"), ({"p": 0.2, "scope": "devise"}, "'device'")],
)
def test_wrong_sections_say_what_to_do(section, words):
    with pytest.raises(ValueError, match=words):
        mixup.check(**section)
