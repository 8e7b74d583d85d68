"""``python train.py ...`` is ``dreamstyler train ...`` from a checkout."""

from dreamstyler_jax.__main__ import main

main("train")
