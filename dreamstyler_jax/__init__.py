"""DreamStyler in JAX: learn a painting's style as a few token vectors per stage of denoising, and paint with it.

The names below are the public API; they are loaded when they are first used, so that importing the package is quick.
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.2.0"

if TYPE_CHECKING:
    from dreamstyler_jax.api import Picture, contact_sheet, paint, train_style
    from dreamstyler_jax.guidance import Guidance, cfg_guidance, paper_guidance, release_guidance
    from dreamstyler_jax.mixing import mix
    from dreamstyler_jax.runtime.errors import UserError
    from dreamstyler_jax.stable_diffusion.pipeline import StableDiffusion
    from dreamstyler_jax.style import Style, load_styles
    from dreamstyler_jax.transfer import Net

_HOMES = {
    "Picture": "api",
    "contact_sheet": "api",
    "paint": "api",
    "train_style": "api",
    "Guidance": "guidance",
    "cfg_guidance": "guidance",
    "paper_guidance": "guidance",
    "release_guidance": "guidance",
    "mix": "mixing",
    "UserError": "runtime.errors",
    "StableDiffusion": "stable_diffusion.pipeline",
    "Style": "style",
    "load_styles": "style",
    "Net": "transfer",
}

__all__ = [
    "Guidance",
    "Net",
    "Picture",
    "StableDiffusion",
    "Style",
    "UserError",
    "__version__",
    "cfg_guidance",
    "contact_sheet",
    "load_styles",
    "mix",
    "paint",
    "paper_guidance",
    "release_guidance",
    "train_style",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
