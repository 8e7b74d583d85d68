"""The forward process: noise schedule, stages of the timesteps, noising and training targets.

Symbols follow the DPM-Solver papers: a latent at timestep t is ``x_t = alpha_t x_0 + sigma_t eps`` with
``alpha_t^2 = alpha-bar_t`` (``alphas_cumprod``) and ``alpha_t^2 + sigma_t^2 = 1`` (variance preserving).
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from dreamstyler_jax.runtime import documents
from dreamstyler_jax.runtime.errors import UserError, listing, shortened
from dreamstyler_jax.stable_diffusion.scheduler_config import SchedulerFile, check_kind, not_followed

if TYPE_CHECKING:  # commands read the names of solvers and spacings before they import JAX
    import jax

TRAIN_TIMESTEPS = 1000
BETA_SCHEDULES = ("linear", "scaled_linear", "squaredcos_cap_v2")
PREDICTION_TYPES = ("epsilon", "v_prediction")
SPACINGS = ("leading", "linspace", "trailing")
NORMAL_SIGMAS = "normal"  # the noise levels of the timesteps
CONFIG_SIGMAS = ("karras", "exponential", "beta")  # spacings of noise levels that scheduler_config.json can ask for

# Settings of scheduler_config.json that change the forward process, with the values implemented here.
_IMPLEMENTED: dict[str, tuple[Any, ...]] = {
    "num_train_timesteps": (TRAIN_TIMESTEPS,),
    "trained_betas": (None,),
    "use_flow_sigmas": (False,),
}


@dataclass(frozen=True)
class NoiseSchedule:
    """The noise levels of the 1000 training timesteps, and how solvers space their steps over them.

    It is hashable and compares by value, so it can be a static argument of a jitted function. The defaults are those
    of Stable Diffusion 1.x.

    Attributes:
        beta_schedule: ``"linear"``, ``"scaled_linear"`` (linear in sqrt(beta), the latent-diffusion one) or
            ``"squaredcos_cap_v2"`` (the cosine schedule of Nichol & Dhariwal 2021, Eq. 17, beta capped at 0.999).
        beta_start, beta_end: the first and last beta, in (0, 1); the cosine schedule does not use them.
        prediction_type: what the model predicts: ``"epsilon"`` (the noise) or ``"v_prediction"`` (the velocity).
        timestep_spacing: ``"leading"``, ``"linspace"`` or ``"trailing"`` (Lin et al. 2023, Table 2); None for
            each solver's default, as in diffusers.
        steps_offset: added to the timesteps under ``"leading"`` spacing.
        set_alpha_to_one: whether DDIM's last step goes to alpha-bar = 1, or only to that of timestep 0.
        rescale_betas_zero_snr: whether the schedule is shifted so that the last timestep is pure noise (Lin et al.
            2023, Algorithm 1); for v-prediction only.
        sigmas: how solvers space their noise levels: ``"normal"``, by their timesteps, or one of `CONFIG_SIGMAS`.

    Raises:
        UserError: a value is none of these.
    """

    beta_schedule: str = "scaled_linear"
    beta_start: float = 0.00085
    beta_end: float = 0.012
    prediction_type: str = "epsilon"
    timestep_spacing: str | None = None
    steps_offset: int = 1
    set_alpha_to_one: bool = False
    rescale_betas_zero_snr: bool = False
    sigmas: str = NORMAL_SIGMAS

    def __post_init__(self) -> None:
        _require("beta_schedule", self.beta_schedule, BETA_SCHEDULES)
        _require("prediction_type", self.prediction_type, PREDICTION_TYPES)
        _require("timestep_spacing", self.timestep_spacing, (*SPACINGS, None))
        _require("sigmas", self.sigmas, (NORMAL_SIGMAS, *CONFIG_SIGMAS))
        if not 0 < self.beta_start <= self.beta_end < 1:
            betas = (self.beta_start, self.beta_end)
            raise UserError(f"noise schedule: need 0 < beta_start <= beta_end < 1, not {betas}")
        if not 0 <= self.steps_offset < TRAIN_TIMESTEPS:
            raise UserError(f"noise schedule: steps_offset must be in 0..999, not {self.steps_offset!r}")
        if self.rescale_betas_zero_snr and self.prediction_type == "epsilon":
            raise UserError("noise schedule: rescale_betas_zero_snr needs prediction_type 'v_prediction'")

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> NoiseSchedule:
        """Reads the contents of the ``scheduler_config.json`` of any of diffusers' schedulers.

        Keys that are missing or null take the defaults of diffusers' DDIMScheduler, except that ``timestep_spacing`` is
        None. A warning names settings of solvers that the solvers here do not have, and the nearest that they have.

        Raises:
            UserError: a required key is missing, or a setting is not supported; the message names it.
        """
        config = {key: value for key, value in config.items() if value is not None}
        documents.check(config, SchedulerFile, "scheduler_config.json")
        check_kind(config)
        missing = [key for key in ("beta_schedule", "beta_start", "beta_end") if key not in config]
        if missing:
            raise UserError(f"scheduler_config.json lacks {', '.join(missing)}: it is not of a Stable Diffusion model")
        for key, values in _IMPLEMENTED.items():
            if key in config:
                _require(key, config[key], values)
        if ignored := not_followed(config):
            settings = listing(ignored)
            warnings.warn(f"scheduler_config.json: {settings}: the solvers here sample without", stacklevel=2)
        return cls(
            beta_schedule=config["beta_schedule"],
            beta_start=config["beta_start"],
            beta_end=config["beta_end"],
            prediction_type=config.get("prediction_type", "epsilon"),
            timestep_spacing=config.get("timestep_spacing"),
            steps_offset=config.get("steps_offset", 0),
            set_alpha_to_one=config.get("set_alpha_to_one", True),
            rescale_betas_zero_snr=config.get("rescale_betas_zero_snr", False),
            sigmas=next((name for name in CONFIG_SIGMAS if config.get(f"use_{name}_sigmas")), NORMAL_SIGMAS),
        )

    def to_config(self) -> dict[str, Any]:
        """The contents of a ``scheduler_config.json`` that every scheduler of diffusers can read."""
        fields = {key: value for key, value in asdict(self).items() if value is not None}
        sigmas = fields.pop("sigmas")
        return {
            "_class_name": "DDIMScheduler",
            "num_train_timesteps": TRAIN_TIMESTEPS,
            "trained_betas": None,
            "clip_sample": False,
            **fields,
            **({} if sigmas == NORMAL_SIGMAS else {f"use_{sigmas}_sigmas": True}),
        }

    @cached_property
    def alphas_cumprod(self) -> np.ndarray:
        """alpha-bar_t, the signal's share of the variance of x_t: float64[1000], read-only, falling with t."""
        alpha_bar = np.cumprod(1.0 - self._betas())
        if self.rescale_betas_zero_snr:
            alpha = np.sqrt(alpha_bar)
            alpha_bar = ((alpha - alpha[-1]) * alpha[0] / (alpha[0] - alpha[-1])) ** 2
        alpha_bar.flags.writeable = False
        return alpha_bar

    def _betas(self) -> np.ndarray:
        if self.beta_schedule == "linear":
            return np.linspace(self.beta_start, self.beta_end, TRAIN_TIMESTEPS)
        if self.beta_schedule == "scaled_linear":
            return np.linspace(self.beta_start**0.5, self.beta_end**0.5, TRAIN_TIMESTEPS) ** 2
        time = np.arange(TRAIN_TIMESTEPS + 1) / TRAIN_TIMESTEPS
        alpha_bar = np.cos((time + 0.008) / 1.008 * np.pi / 2) ** 2
        return np.minimum(1.0 - alpha_bar[1:] / alpha_bar[:-1], 0.999)


def _require(key: str, value: Any, values: tuple[Any, ...]) -> None:
    if value not in values:
        supported = ", ".join(repr(v) for v in values if v is not None) or "null"
        raise UserError(f"noise schedule: {key} = {shortened(repr(value))} is not supported, use {supported}")


def stage_of(t: jax.Array | np.ndarray | int, stages: int) -> jax.Array | np.ndarray:
    """The stage of a timestep, ``floor(t / 1000 * stages)`` (DreamStyler, section "Multi-Stage Textual Inversion").

    Computed without a fraction of 1000, so it is exact at every boundary. Stage 0 has the least noise.

    Args:
        t: timesteps of any shape, in [0, 1000), integers or not; traced or not.
        stages: T >= 1.

    Returns:
        Stages in 0..T-1 in the shape of ``t``; a JAX array if ``t`` is one, otherwise a NumPy array.
    """
    stage = t * stages // TRAIN_TIMESTEPS
    if isinstance(stage, int):
        return np.clip(stage, 0, stages - 1)
    return (stage.astype(np.int32) if stage.dtype.kind == "f" else stage).clip(0, stages - 1)


def add_noise(
    schedule: NoiseSchedule, x0: jax.Array | np.ndarray, noise: jax.Array, t: jax.Array | np.ndarray
) -> jax.Array:
    """A sample of q(x_t | x_0): ``x_t = alpha_t x0 + sigma_t noise`` (DDPM, Eq. 4).

    Args:
        schedule: the noise schedule.
        x0: clean latents [B, H, W, C], or any shape that begins with the shape of ``t``.
        noise: standard normal, in the shape of ``x0``.
        t: int32 timesteps in 0..999, [] (one for all) or [B]; traced or not.

    Returns:
        x_t in float32, in the shape of ``x0``.
    """
    alpha, sigma = _rates(schedule, t, np.ndim(x0))
    return alpha * x0 + sigma * noise


def target(schedule: NoiseSchedule, x0: jax.Array, noise: jax.Array, t: jax.Array) -> jax.Array:
    """What the model learns to predict at ``add_noise(schedule, x0, noise, t)``, with the same arguments.

    The noise itself, or the velocity ``v = alpha_t noise - sigma_t x0`` (Salimans & Ho 2022, appendix D).
    """
    if schedule.prediction_type == "epsilon":
        return noise
    alpha, sigma = _rates(schedule, t, np.ndim(x0))
    return alpha * noise - sigma * x0


def x0_coefficients(prediction_type: str, alpha: np.ndarray, sigma: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Factors (a, b) such that ``x_0 = a x_t + b output`` for a model's output: the inverse of `target`.

    Args:
        prediction_type: one of `PREDICTION_TYPES`.
        alpha, sigma: the signal and noise rates of x_t, of one shape; alpha > 0 for ``"epsilon"``.
    """
    if prediction_type == "epsilon":
        return 1.0 / alpha, -sigma / alpha
    return alpha, -sigma


def _rates(schedule: NoiseSchedule, t: jax.Array | np.ndarray, ndim: int) -> tuple[jax.Array, jax.Array]:
    """alpha_t and sigma_t in float32, in the shape of ``t`` with axes of length 1 added up to ``ndim`` axes."""
    import jax.numpy as jnp

    alpha_bar = schedule.alphas_cumprod
    shape = jnp.shape(t) + (1,) * (ndim - jnp.ndim(t))
    alpha, sigma = (jnp.asarray(rate, jnp.float32) for rate in (np.sqrt(alpha_bar), np.sqrt(1.0 - alpha_bar)))
    return alpha[t].reshape(shape), sigma[t].reshape(shape)
