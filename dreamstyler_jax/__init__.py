"""DreamStyler in JAX: learn a painting's style as a few vectors per stage of denoising, and paint with it."""

__version__ = "0.1.0"
