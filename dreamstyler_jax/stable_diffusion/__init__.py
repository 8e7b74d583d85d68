"""Stable Diffusion 1.x and 2.x: the networks as ``flax.nnx`` modules, used functionally, and their checkpoints.

Every network is built as ``Model(config, rngs=rngs)`` from the frozen config in its checkpoint's ``config.json``. Its
attribute paths are the checkpoint's tensor names, so a rule maps one to the other (`tensor_names`; for single files
`single_files.names`). Pictures and feature maps are NHWC. The dtype of the parameters is the dtype of the computation;
the statistics of normalisation layers and the softmax are always computed in float32.
"""
