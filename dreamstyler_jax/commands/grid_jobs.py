"""A grid that is ready to be painted: its model, its styles, the pictures that it repaints, and its cells."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from dreamstyler_jax import transfer
from dreamstyler_jax.commands.config import SampleConfig
from dreamstyler_jax.commands.models import load_model
from dreamstyler_jax.commands.prompt_lists import Part
from dreamstyler_jax.commands.sample_inputs import (
    axes_of,
    check_prompts,
    load_contents,
    warn_of_another_clip_skip,
    warn_of_distillation,
    warn_of_earlier_weights,
    warn_of_settings_without_effect,
    with_default_controlnet,
)
from dreamstyler_jax.grids.axes import make_cells
from dreamstyler_jax.grids.cells import Cell, warn_of_equal_cells
from dreamstyler_jax.grids.painting import shape_of
from dreamstyler_jax.stable_diffusion.loras.merging import LoraStack, read_loras
from dreamstyler_jax.stable_diffusion.pipeline import StableDiffusion
from dreamstyler_jax.style import Style


class Job(NamedTuple):
    """A grid that is ready to be painted.

    Attributes:
        config: the settings that its pictures share.
        model: with its ControlNets, and without the LoRAs, which are an axis.
        styles: all that prompts may name, by ``str(StyleRef)``.
        contents: the pictures that it repaints.
        encoder: encodes them.
        loras: those of its cells.
        cells: the whole grid.
    """

    config: SampleConfig
    model: StableDiffusion
    styles: Mapping[str, Style]
    contents: Sequence[transfer.Content]
    encoder: transfer.ContentEncoder
    loras: Sequence[LoraStack]
    cells: Sequence[Cell]


def model_for(config: SampleConfig) -> StableDiffusion:
    """The model as the settings say, without ControlNets and LoRAs."""
    model = load_model(config.model, config, dtype=config.dtype, clip_skip=config.clip_skip)
    return model.with_size_conditions(config.original_size, config.crop_top_left)


def prepare(config: SampleConfig, parts: Sequence[Part], styles: Mapping[str, Style], model: StableDiffusion) -> Job:
    """Loads all that a grid needs besides its styles and the bare model, and refuses what cannot be painted.

    Args:
        config: the settings that all parts share.
        parts: the grid.
        styles: all that its prompts may name, by ``str(StyleRef)``.
        model: from `model_for`.

    Raises:
        UserError: a file cannot be read, does not fit the model, or a prompt cannot be encoded.
    """
    warn_of_another_clip_skip(config, styles)
    warn_of_earlier_weights(model, styles)  # the bare model's: ControlNets change the hash
    config = with_default_controlnet(config, model)
    parts = [part._replace(config=with_default_controlnet(part.config, model)) for part in parts]
    nets = [transfer.parse_net(net) for net in config.controlnets]
    model = transfer.with_nets(
        model,
        nets,
        depth_model=config.depth_model,
        variant=config.control_variant or config.variant,
        allow_pickle=config.allow_pickle,
        guess_mode=config.guess_mode,
    )
    loras = read_loras(config.loras, model.params, model.name)
    for settings in {id(part.config): part.config for part in parts}.values():
        warn_of_settings_without_effect(settings)
        warn_of_distillation(settings, model, loras)
    contents = load_contents(parts, model)
    encoder = transfer.ContentEncoder(model, nets, config.depth_model)
    for content in contents[:1]:
        encoder.control_maps(content)  # a problem with one is a problem with all; find it before painting
    cells = cells_of(parts, model, styles, contents, loras)
    warn_of_equal_cells(cells)
    check_prompts(model, cells, styles, shape_of(cells, config.batch_size).rows)
    return Job(config, model, styles, contents, encoder, loras, cells)


def cells_of(
    parts: Sequence[Part],
    model: StableDiffusion,
    styles: Mapping[str, Style],
    contents: Sequence[transfer.Content],
    loras: Sequence[LoraStack],
) -> list[Cell]:
    """The cells of all parts of a grid, each of them once."""
    cells: dict[str, Cell] = {}
    for part in parts:
        size = model.size(part.config.height, part.config.width)
        for cell in make_cells(axes_of(part, styles, contents, loras), model, styles, size):
            cells.setdefault(cell.id, cell)
    return list(cells.values())
