"""Shampoo against numpy, against Adam, and on a problem that Adam finds hard."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vitjax.optim.shampoo import inverse_root, merged_shape, scale_by_shampoo


def gradients(shape, steps, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.normal(size=shape) * rng.uniform(0.1, 3, shape) for _ in range(steps)]


def updates(tx, grads):
    """The transform's update for each gradient in turn."""
    state, found = tx.init(jax.tree.map(jnp.asarray, grads[0])), []
    update = jax.jit(tx.update)
    for g in grads:
        u, state = update(jax.tree.map(jnp.asarray, g), state)
        found.append(jax.device_get(u))
    return found


class Reference:
    """One tensor in numpy, float64: the rules of the specification one by one."""

    def __init__(self, shape, b1=0.9, b2=0.999, eps=1e-12, every=1, start=1):
        self.b1, self.b2, self.eps, self.every, self.start = b1, b2, eps, every, start
        self.t, self.m, self.v = 0, np.zeros(shape), np.zeros(shape)
        self.L = [eps * np.eye(n) for n in shape]
        self.X = [np.eye(n) for n in shape]

    def __call__(self, g):
        self.t += 1
        self.before = list(self.X)  # the first roots act from the next step on
        t, k = self.t, g.ndim
        for i in range(k):
            unfolded = np.moveaxis(g, i, 0).reshape(g.shape[i], -1)
            self.L[i] = self.b2 * self.L[i] + (1 - self.b2) * unfolded @ unfolded.T
        if t >= self.start and t % self.every == 0:
            for i in range(k):
                w, q = np.linalg.eigh(self.L[i] / (1 - self.b2**t))
                w = w - min(w.min(), 0) + self.eps
                self.X[i] = q @ np.diag(w ** (-1 / (2 * k))) @ q.T
        self.m = self.b1 * self.m + (1 - self.b1) * g
        self.v = self.b2 * self.v + (1 - self.b2) * g**2
        m = self.m / (1 - self.b1**t)
        adam = m / (np.sqrt(self.v / (1 - self.b2**t)) + 1e-8)
        if all(np.array_equal(x, np.eye(len(x))) for x in self.before):
            return adam
        p = m
        for i in range(k):
            p = np.moveaxis(np.tensordot(self.X[i], p, ([1], [i])), 0, i)
        return p * np.linalg.norm(adam) / (np.linalg.norm(p) + 1e-16)


def relative(a, b):
    return np.linalg.norm(a - b) / np.linalg.norm(b)


@pytest.mark.parametrize(
    ("shape", "block_size", "every", "start", "x64"),
    [
        ((6, 4), 7, 1, 1, False),
        ((6, 4), 7, 2, 3, True),
        ((5,), 100, 2, 3, True),
        ((3, 4, 5), 10, 1, 1, True),
    ],
)
def test_five_steps_are_numpys(shape, block_size, every, start, x64):
    """Adam's until the first roots, which act from the next step on."""
    # Statistics of (6, 4) have full rank only after some steps, hence a larger eps.
    kw = dict(every=every, start=start, eps=1e-4, b2=0.9)
    with jax.enable_x64(x64):
        reference, grads = Reference(shape, **kw), gradients(shape, 5)
        found = updates(scale_by_shampoo(block_size=block_size, **kw), grads)
        for g, u in zip(grads, found, strict=True):
            assert relative(u, reference(g)) < (1e-9 if x64 else 2e-4)


def test_updates_are_as_long_as_adams_parameter_by_parameter():
    """Also after the first roots, at step 26 and on."""
    shapes = {"kernel": (24, 10), "bias": (10,), "scale": ()}
    grads = [
        {k: gradients(s, 1, 100 * i + len(s))[0] for k, s in shapes.items()}
        for i in range(28)
    ]
    shampoo = updates(scale_by_shampoo(block_size=50), grads)
    adam = updates(optax.scale_by_adam(), grads)
    for i, (ours, theirs) in enumerate(zip(shampoo, adam, strict=True), 1):
        for name in shapes:
            lengths = np.linalg.norm(ours[name]), np.linalg.norm(theirs[name])
            assert lengths[0] == pytest.approx(lengths[1], rel=1e-4)
            same = relative(ours[name], theirs[name]) < 1e-5
            assert same == (i <= 25 or name == "scale"), (i, name)


def test_a_long_axis_is_cut_into_blocks_that_stand_alone():
    kw = dict(every=1, start=1, eps=1e-4)
    grads = gradients((7, 4), 4)
    whole = updates(scale_by_shampoo(block_size=4, **kw), grads)
    top, bottom = (
        updates(scale_by_shampoo(block_size=4, **kw), [g[rows] for g in grads])
        for rows in (slice(4), slice(4, 7))
    )
    for w, t, b in zip(whole, top, bottom, strict=True):
        np.testing.assert_allclose(w, np.concatenate([t, b]), rtol=1e-5)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((4, 4, 3, 384), (48, 384)),  # a stem of 4 x 4 patches
        ((384, 1152), (384, 1152)),  # fused query, key and value
        ((384, 10), (3840,)),
        ((384, 100), (384, 100)),
        ((384,), (384,)),
        ((), (1,)),
    ],
)
def test_neighbouring_axes_are_one_while_that_is_no_longer_than_a_block(
    shape, expected
):
    assert merged_shape(shape, 8192) == expected


def test_inverse_roots():
    rng = np.random.default_rng(0)
    half = rng.normal(size=(3, 6, 6))
    a = half @ half.swapaxes(1, 2) + 0.1 * np.eye(6)
    root = np.asarray(inverse_root(jnp.asarray(a, jnp.float32), 4, 0.0), np.float64)
    for x, r in zip(a, root, strict=True):
        np.testing.assert_allclose(r @ r @ r @ r @ x, np.eye(6), atol=2e-3)
    # Rounding's negative eigenvalues, here of -1, are raised to eps.
    low = np.asarray(inverse_root(jnp.diag(jnp.array([-1.0, 3.0])), 2, 1e-2))
    np.testing.assert_allclose(low, np.diag([0.01**-0.5, 4.01**-0.5]), rtol=1e-5)


def test_the_last_good_roots_stay_when_statistics_overflow():
    tx = scale_by_shampoo(every=1, start=1)
    state = tx.init(jnp.zeros((3, 2)))
    good = gradients((3, 2), 1)[0]
    _, state = tx.update(jnp.asarray(good), state)
    _, after = tx.update(jnp.full((3, 2), jnp.inf), state)
    for old, new in zip(state.roots[0], after.roots[0], strict=True):
        np.testing.assert_array_equal(old, new)


def test_it_goes_down_a_turned_narrow_valley_faster_than_adam():
    """A quadratic whose axes are no coordinates, of condition 1e4."""
    rng = np.random.default_rng(0)
    left = np.linalg.qr(rng.normal(size=(8, 8)))[0] * np.logspace(0, -1, 8)
    right = np.linalg.qr(rng.normal(size=(8, 8)))[0] * np.logspace(0, -1, 8)
    target = jnp.asarray(rng.normal(size=(8, 8)), jnp.float32)
    left, right = (jnp.asarray(x.T, jnp.float32) for x in (left, right))

    def loss(w):
        return jnp.sum((left @ (w - target) @ right.T) ** 2)

    def final(tx):
        tx = optax.chain(tx, optax.scale_by_schedule(lambda i: -0.1 * (1 - i / 300)))

        def body(_, carry):
            w, state = carry
            u, state = tx.update(jax.grad(loss)(w), state)
            return w + u, state

        w = jnp.zeros((8, 8))
        descend = jax.jit(lambda carry: jax.lax.fori_loop(0, 300, body, carry))
        return float(loss(descend((w, tx.init(w)))[0]))

    shampoo = scale_by_shampoo(every=5, start=5, block_size=8)
    assert final(shampoo) < 0.1 * final(optax.scale_by_adam())


@pytest.mark.parametrize("name", ["every", "start", "block_size"])
def test_counts_below_one_are_refused(name):
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
        scale_by_shampoo(**{name: 0})
