"""A picture's parameters in the words of AUTOMATIC1111's web UI, which many programs and sites read.

The prompt, a line with the negative prompt, and a line of ``Name: value`` pairs. Values with a comma, a colon or a line
break are in double quotes, as in JSON.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dreamstyler_jax import __version__, prompts
from dreamstyler_jax.stable_diffusion.emphasis import escaped
from dreamstyler_jax.stable_diffusion.placeholders import Placeholder, parse_prompt

if TYPE_CHECKING:
    from dreamstyler_jax.grids.cells import Cell

_SAMPLERS = {
    "ddim": "DDIM", "euler": "Euler", "euler_a": "Euler a", "dpmpp_2m": "DPM++ 2M", "unipc": "UniPC", "lcm": "LCM",
    "tcd": "TCD",
}  # fmt: skip
_SCHEDULES = {"karras": "Karras", "exponential": "Exponential", "beta": "Beta", "ays": "Align Your Steps"}


def infotext(cell: "Cell") -> str:
    """The parameters of a cell. Styles are called by their names, as embeddings are.

    There is no ``Model hash``: that of the web UI is another one, by which sites look for models.
    """
    values = {
        "Steps": cell.steps,
        "Sampler": _SAMPLERS.get(cell.solver, cell.solver),
        "Schedule type": _SCHEDULES.get(cell.sigmas),
        "CFG scale": cell.scales.get("guidance_scale"),
        "Seed": cell.seed,
        "Size": f"{cell.width}x{cell.height}",
        "Model": Path(cell.model).name.removesuffix(".safetensors"),
        "Denoising strength": cell.repaint.strength if cell.repaint else None,
        "Clip skip": cell.clip_skip + 1 if cell.clip_skip else None,  # which counts the last layer
        "Guidance": cell.guidance,
        **{_in_words(name): scale for name, scale in cell.scales.items() if name != "guidance_scale"},
        "Version": f"dreamstyler_jax {__version__}",
    }
    lines = [_plain(cell, cell.prompt)]
    if cell.negative_prompt:
        lines.append(f"Negative prompt: {_plain(cell, cell.negative_prompt)}")
    lines.append(", ".join(f"{name}: {_quoted(value)}" for name, value in values.items() if value is not None))
    return "\n".join(lines)


def _plain(cell: "Cell", prompt: str) -> str:
    """A prompt with the names of its styles in place of their placeholders."""
    if not cell.prompt_weights:
        prompt = escaped(prompt)  # as in the web UI brackets would be weights
    parts = parse_prompt(prompts.name_placeholder(prompt, cell.style, cell.checkpoint))
    return "".join(part.name if isinstance(part, Placeholder) else part for part in parts)


def _in_words(name: str) -> str:
    return name.replace("_", " ").capitalize()


def _quoted(value: Any) -> str:
    text = f"{value:.15g}" if isinstance(value, float) else str(value)
    return json.dumps(text, ensure_ascii=False) if any(mark in text for mark in ',:\n"') else text
