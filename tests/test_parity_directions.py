"""Learning directions against the published formula in PyTorch (Kim et al. 2026, arXiv 2512.13672)."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch

from dreamstyler_jax.directions import descend_on_sphere

STEPS, RATE = 20, 0.1
SHAPES = {"clip_l": (3, 2, 16), "clip_g": (3, 2, 24)}


def gradients(seed=0):
    """The gradient of each step, for each text encoder."""
    rng = np.random.default_rng(seed)
    return [{name: rng.normal(0, 3, shape).astype(np.float32) for name, shape in SHAPES.items()} for _ in range(STEPS)]


def reference(table, gradient_of_step, prior, beta):
    """The vectors after all steps, one after another, in float64."""
    vectors = []
    for index in np.ndindex(table.shape[:-1]):
        e = torch.from_numpy(table[index]).double()
        m = e.norm()
        mu = v = e / m
        s = torch.zeros((), dtype=torch.float64)
        for k, gradient in enumerate(gradient_of_step, 1):
            g = m * torch.from_numpy(gradient[index]).double() - prior * mu
            g = g - torch.dot(g, v) * v
            s = beta * s + (1 - beta) * g.norm() ** 2
            v = v - RATE * g / ((s / (1 - beta**k)).sqrt() + 1e-8)
            v = v / v.norm()
        vectors.append(m * v)
    return torch.stack(vectors).reshape(table.shape).numpy()


@pytest.mark.parametrize(("prior", "beta"), [(0.0, 0.0), (1e-4, 0.0), (0.5, 0.9)])
def test_twenty_steps_are_the_published_formula(prior, beta):
    rng = np.random.default_rng(1)
    tables = {name: rng.normal(0, 0.2, shape).astype(np.float32) for name, shape in SHAPES.items()}
    optimizer = descend_on_sphere(optax.constant_schedule(RATE), prior, beta)
    state, learned, update = optimizer.init(tables), tables, jax.jit(optimizer.update)
    for gradient in gradients():
        updates, state = update(gradient, state, learned)
        learned = optax.apply_updates(learned, updates)
    for name, table in tables.items():
        expected = reference(table, [gradient[name] for gradient in gradients()], prior, beta)
        assert np.abs(jnp.asarray(learned[name]) - expected).max() <= 1e-6
