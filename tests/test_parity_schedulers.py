"""The ``scheduler_config.json`` of every scheduler that diffusers has for Stable Diffusion, as it writes them."""

import json
import warnings

import diffusers
import numpy as np
import pytest

from dreamstyler_jax.runtime.errors import UserError
from dreamstyler_jax.solvers import SOLVERS
from dreamstyler_jax.stable_diffusion.model_files import find_model
from dreamstyler_jax.stable_diffusion.schedule import NoiseSchedule
from dreamstyler_jax.stable_diffusion.scheduler_config import solver_of

pytestmark = pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")  # diffusers' own

SAME = {
    "DDIMScheduler": "ddim", "EulerDiscreteScheduler": "euler", "EulerAncestralDiscreteScheduler": "euler_a",
    "DPMSolverMultistepScheduler": "dpmpp_2m", "UniPCMultistepScheduler": "unipc", "LCMScheduler": "lcm",
    "TCDScheduler": "tcd",
}  # fmt: skip
DETERMINISTIC = (
    "PNDMScheduler", "HeunDiscreteScheduler", "KDPM2DiscreteScheduler", "LMSDiscreteScheduler",
    "DEISMultistepScheduler", "DPMSolverSinglestepScheduler",
)  # fmt: skip
STOCHASTIC = ("DDPMScheduler", "KDPM2AncestralDiscreteScheduler", "SASolverScheduler", "DPMSolverSDEScheduler")
OTHER_NOISE = ("EDMEulerScheduler", "EDMDPMSolverMultistepScheduler", "FlowMatchEulerDiscreteScheduler")
STABLE_DIFFUSION = dict(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)


def saved(name, folder, **settings):
    """What diffusers writes for one of its schedulers."""
    getattr(diffusers, name)(**settings).save_pretrained(folder)
    return json.loads((folder / "scheduler_config.json").read_text())


@pytest.mark.parametrize("beta_schedule", ["linear", "scaled_linear"])
@pytest.mark.parametrize("name", [*SAME, *DETERMINISTIC, "DDPMScheduler", "KDPM2AncestralDiscreteScheduler"])
def test_every_scheduler_says_the_noise_of_its_model(name, beta_schedule, tmp_path):
    settings = STABLE_DIFFUSION | {"beta_schedule": beta_schedule}
    if "clip_sample" in getattr(diffusers, name)._get_init_keys(getattr(diffusers, name)):
        settings["clip_sample"] = False
    config = saved(name, tmp_path, **settings)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # nothing that diffusers writes by itself is worth a warning
        schedule = NoiseSchedule.from_config(config)
    theirs = diffusers.DDIMScheduler.from_config(config).alphas_cumprod.numpy()
    np.testing.assert_allclose(schedule.alphas_cumprod, theirs, rtol=1e-4)
    assert schedule.timestep_spacing == config.get("timestep_spacing")
    assert solver_of(config["_class_name"])[0] in SOLVERS


def test_each_scheduler_has_a_solver_the_same_or_the_nearest():
    assert {name: solver_of(name) for name in SAME} == {name: (solver, True) for name, solver in SAME.items()}
    assert {solver_of(name) for name in DETERMINISTIC} == {("dpmpp_2m", False)}
    assert {solver_of(name) for name in STOCHASTIC} == {("euler_a", False)}


@pytest.mark.parametrize("name", OTHER_NOISE)
def test_schedulers_of_other_kinds_of_noise_are_named(name, tmp_path):
    with pytest.raises(UserError, match=f"scheduler_config.json is of {name}: its model was trained on"):
        NoiseSchedule.from_config(saved(name, tmp_path))


@pytest.mark.parametrize("offset", [None, 0, 1])
@pytest.mark.parametrize("name", ["DDIMScheduler", "PNDMScheduler"])
@pytest.mark.filterwarnings("ignore")
def test_the_offset_of_the_timesteps_is_that_of_diffusers_pipeline(name, offset, tiny_folder, tmp_path):
    """The first release of 1.4 does not say it: the pipeline then takes 1, and so it does where a file says 0."""
    folder = tmp_path / "model"
    folder.mkdir()
    for part in tiny_folder.iterdir():
        (folder / part.name).symlink_to(part)
    (folder / "scheduler").unlink()
    config = saved(name, folder / "scheduler", **STABLE_DIFFUSION)
    config = {key: value for key, value in config.items() if key != "steps_offset"}
    config |= {} if offset is None else {"steps_offset": offset}
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(config))
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
    assert NoiseSchedule.from_config(find_model(folder).scheduler).steps_offset == pipe.scheduler.config.steps_offset
