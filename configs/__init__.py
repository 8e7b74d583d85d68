"""Config files: one for each model, and examples of grids. Installed as the package ``dreamstyler_jax.configs``."""
