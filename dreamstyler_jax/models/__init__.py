"""The networks of Stable Diffusion 1.x and 2.x as ``flax.nnx`` modules, used functionally.

Every model is built as ``Model(config, rngs=rngs)`` from a frozen config read from its checkpoint's ``config.json``,
and its attribute paths are the checkpoint's tensor names, so :mod:`dreamstyler_jax.weights` maps one to the other by
rule.
Pictures and feature maps are NHWC. The dtype of the parameters decides the dtype of the computation; norms and softmax
statistics are always taken in float32.
"""
