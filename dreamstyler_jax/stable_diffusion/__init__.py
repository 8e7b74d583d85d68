"""The networks of Stable Diffusion 1.x and 2.x as ``flax.nnx`` modules, used functionally, and what a checkpoint holds.

Every network is built as ``Model(config, rngs=rngs)`` from a frozen config read from its checkpoint's ``config.json``.
Its attribute paths are the checkpoint's tensor names, so `weights` maps one to the other by rule. Pictures and feature
maps are NHWC. The dtype of the parameters decides the dtype of the computation; the statistics of normalisation layers
and of the softmax are always taken in float32.
"""
