"""``python sample.py ...`` is ``dreamstyler sample ...`` from a checkout."""

from dreamstyler_jax.__main__ import main

main("sample")
