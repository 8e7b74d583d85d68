"""What a ``scheduler_config.json`` of diffusers asks for besides a noise schedule: a solver and its settings.

Only sampling depends on them. Solvers are chosen by name here, so what is not followed is said, with the nearest that
there is, and nothing is refused, except models of another kind.
"""

import json
from collections.abc import Mapping
from typing import Annotated, Any, NamedTuple, TypedDict

from dreamstyler_jax.runtime.documents import Range
from dreamstyler_jax.runtime.errors import UserError, shortened

# The solvers of this package that are diffusers' schedulers.
_SAME = {
    "DDIMScheduler": "ddim",
    "EulerDiscreteScheduler": "euler",
    "EulerAncestralDiscreteScheduler": "euler_a",
    "DPMSolverMultistepScheduler": "dpmpp_2m",
    "UniPCMultistepScheduler": "unipc",
    "LCMScheduler": "lcm",
    "TCDScheduler": "tcd",
}
# Schedulers that add fresh noise in every step. Any other's nearest solver is `_NEAREST`.
_STOCHASTIC = ("DDPMScheduler", "KDPM2AncestralDiscreteScheduler", "DPMSolverSDEScheduler", "SASolverScheduler")
_NEAREST, _NEAREST_STOCHASTIC = "dpmpp_2m", "euler_a"
# Beginnings of the names of schedulers whose models were trained on other noise, and what that is.
_OTHER_NOISE = {"EDM": "EDM's continuous noise levels", "FlowMatch": "straight flows from noise to pictures"}


class SchedulerFile(TypedDict, total=False):
    """What the file holds, of the settings that `schedule.NoiseSchedule` follows."""

    _class_name: str
    beta_schedule: str
    beta_start: float
    beta_end: float
    prediction_type: str
    timestep_spacing: str
    steps_offset: Annotated[int, Range(0, 999)]
    set_alpha_to_one: bool
    rescale_betas_zero_snr: bool


class _Setting(NamedTuple):
    """A setting that the solvers here do not have: its values that change nothing, and what is nearest to others."""

    harmless: tuple[Any, ...]
    nearest: str = ""


_NOT_FOLLOWED = {
    "clip_sample": _Setting((False,)),
    "thresholding": _Setting((False,)),
    "use_lu_lambdas": _Setting((False,), "--sigmas exponential"),
    "final_sigmas_type": _Setting(("zero",)),
    "interpolation_type": _Setting(("linear",)),
    "sigma_min": _Setting(()),
    "sigma_max": _Setting(()),
    "rho": _Setting((7.0,)),
    "algorithm_type": _Setting(("dpmsolver++", "deis", "data_prediction"), "--solver dpmpp_2m or, with noise, euler_a"),
    "solver_order": _Setting((2,), "--solver dpmpp_2m or unipc, of order 2"),
    "solver_type": _Setting(("midpoint", "bh2", "logrho")),
    "predict_x0": _Setting((True,)),
    "disable_corrector": _Setting(([],), "--solver dpmpp_2m, which has no corrector"),
    "solver_p": _Setting(()),
    "euler_at_final": _Setting((False,)),
    "variance_type": _Setting(("fixed_small", "fixed_small_log", "fixed_large")),
    "original_inference_steps": _Setting((50,)),
    "timestep_scaling": _Setting((10.0,)),
    "use_dynamic_shifting": _Setting((False,)),
    "shift_terminal": _Setting(()),
}
# Settings that `schedule.NoiseSchedule` follows or refuses, and those that say nothing by themselves.
_KNOWN = {
    *("beta_schedule", "beta_start", "beta_end", "trained_betas", "num_train_timesteps", "prediction_type"),
    *("timestep_spacing", "timestep_type", "steps_offset", "set_alpha_to_one", "rescale_betas_zero_snr"),
    *("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "use_flow_sigmas", "flow_shift"),
    *("skip_prk_steps", "lower_order_final", "lambda_min_clipped", "noise_sampler_seed", "time_shift_type"),
    *("clip_sample_range", "sample_max_value", "dynamic_thresholding_ratio", "predictor_order", "corrector_order"),
    *("tau_func", "eta", "tensor_format"),
}


def check_kind(config: Mapping[str, Any]) -> None:
    """Refuses models that were trained on other noise than that of Stable Diffusion.

    Args:
        config: the contents of the file.

    Raises:
        UserError: it is such a model; the message names the scheduler.
    """
    name = scheduler_name(config)
    other = next((noise for beginning, noise in _OTHER_NOISE.items() if name.startswith(beginning)), "")
    if config.get("timestep_type") == "continuous":
        other = _OTHER_NOISE["EDM"]
    if other:
        raise UserError(
            f"scheduler_config.json is of {shortened(name) or 'a scheduler'}: its model was trained on {other}, "
            "which is not supported; give a model with 1000 discrete noise levels"
        )


def scheduler_name(config: Mapping[str, Any]) -> str:
    """The name of diffusers' class; empty if the file does not say it."""
    return config.get("_class_name") or ""


def not_followed(config: Mapping[str, Any]) -> list[str]:
    """The settings that no solver here has, in words, with what is nearest to them."""
    found = []
    for key, value in config.items():
        setting = _NOT_FOLLOWED.get(key)
        if setting is None and (key in _KNOWN or key.startswith("_")):
            continue
        if value is None or (setting and value in setting.harmless):
            continue
        nearest = f" (nearest: {setting.nearest})" if setting and setting.nearest else ""
        found.append(f"{key} = {shortened(json.dumps(value))}{nearest}")
    return found


def solver_of(scheduler: str) -> tuple[str, bool]:
    """The solver for one of diffusers' schedulers.

    Args:
        scheduler: its class.

    Returns:
        The name of the solver, and whether it is the same and not only the nearest.
    """
    if scheduler in _SAME:
        return _SAME[scheduler], True
    return (_NEAREST_STOCHASTIC if scheduler in _STOCHASTIC else _NEAREST), False
