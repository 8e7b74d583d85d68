"""The optimizer that the settings of a training describe."""

import math

import numpy as np
import pytest

from dreamstyler_jax import optimizers
from dreamstyler_jax.train_settings import TrainSettings


def test_the_optimizer_follows_the_settings():
    """Warm-up for a step, full rate with weight decay, then a line down to 0."""
    settings = TrainSettings(steps=2, learning_rate=0.1, schedule="linear", warmup_steps=1, weight_decay=0.5)
    optimizer = optimizers.make_optimizer(settings)
    value, moves = np.float32(2), []
    state = optimizer.init(value)
    for _ in range(3):
        move, state = optimizer.update(np.float32(1), state, value)
        moves.append(float(move))
    assert moves[0] == pytest.approx(-0.1 * (1 + 0.5 * 2), rel=1e-4)
    assert math.isclose(moves[2], 0, abs_tol=1e-7)


@pytest.mark.parametrize(
    "changes",
    [
        {"learning_rate": 0.03},
        {"weight_decay": 0.0},
        {"warmup_steps": 1},
        {"schedule": "linear"},
        {"norm": "fixed"},
        {"norm": "fixed", "prior": 1e-4},
        {"norm": "fixed", "learning_rate": 0.03},
    ],
)
def test_settings_that_change_a_step_have_an_optimizer_of_their_own(changes):
    others = TrainSettings(), TrainSettings(norm="fixed")
    own = optimizers.make_optimizer(TrainSettings(**changes))
    assert [own is optimizers.make_optimizer(other) for other in others] == [False, changes == {"norm": "fixed"}]
