"""From prompts and styles to pictures: the one place that encodes prompts and calls the sampler.

A picture depends on its request, its styles and the model alone, not on the batch that it is painted in.
"""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple, TypeVar

import jax
import numpy as np
from jax import Array

from dreamstyler_jax.encoding import encode, layers_of, stage_starts
from dreamstyler_jax.guidance import FULL, NULL, ROWS, rows_needed
from dreamstyler_jax.guidance_variants import NUMBERS
from dreamstyler_jax.runtime.devices import padded_batch_size
from dreamstyler_jax.runtime.interruption import told_to_stop, until_told
from dreamstyler_jax.sampling import Batch, ContentBatch, StepPlan, sample_batch
from dreamstyler_jax.stable_diffusion.conditioning import Conditioning
from dreamstyler_jax.stable_diffusion.pipeline import StableDiffusion
from dreamstyler_jax.stable_diffusion.placeholders import PLAIN, Reading
from dreamstyler_jax.stable_diffusion.schedule import stage_of
from dreamstyler_jax.style import Style
from dreamstyler_jax.transfer import Content, ContentEncoder

T = TypeVar("T")
# Both are divided by the number of layers for which each prompt is encoded.
_BATCHES_PER_BLOCK = 16  # their prompts are encoded together, each distinct prompt once
_PROMPTS_PER_CALL = 32  # always as many at once: one program, and results that do not depend on the other prompts


class Request(NamedTuple):
    """One picture to paint.

    Attributes:
        prompts: the prompt of each of `guidance.ROWS`, with a named placeholder for each style.
        weights: float32[5], the weight of each row.
        seed: 0 to 2**32 - 1.
        content: the picture to repaint, if any.
        control_scales: float32[N, K], the scale of each ControlNet in each step; None without ControlNets.
        variants: all of `guidance_variants.NUMBERS`, as of `Guidance.variants`; empty for none.
    """

    prompts: tuple[str, ...]
    weights: np.ndarray
    seed: int
    content: Content | None = None
    control_scales: np.ndarray | None = None
    variants: Mapping[str, float] = MappingProxyType({})


def needed_rows(weights: Sequence[np.ndarray], *, partly_guided: bool, varied: bool = False) -> list[int]:
    """The rows of guidance that pictures with these weights need, as indices of `guidance.ROWS`.

    Args:
        weights: float32[5] each.
        partly_guided: `StepPlan.partly_guided`; it needs the full prompt's row.
        varied: whether there are variants of guidance, which need the full and the null prompt's.
    """
    return rows_needed(np.stack(weights), [NULL, FULL] if varied else [FULL] if partly_guided else [])


def paint_requests(
    model: StableDiffusion,
    requests: Sequence[Request],
    styles: Mapping[str, Style],
    plan: StepPlan,
    *,
    size: tuple[int, int],
    batch_size: int,
    rows: Sequence[int] | None = None,
    varied: bool | None = None,
    reading: Reading = PLAIN,
    encoder: ContentEncoder | None = None,
    sample: Callable[..., Array] = sample_batch,
) -> Iterator[np.ndarray]:
    """Paints pictures of one size and one plan, and yields them in order.

    While a picture is taken, the next batch is already being computed.

    Args:
        model: the model.
        requests: the pictures.
        styles: all styles that prompts may name, by that name.
        plan: the sampling steps.
        size: height and width in pixels.
        batch_size: pictures computed at once; it is rounded up to a multiple of the number of devices, and the last
            batch is filled up with copies.
        rows: the rows of guidance to compute; by default those that the requests need. A model that embeds the scale of
            guidance computes the full prompt's alone.
        varied: whether the program has variants of guidance; by default whether a request has.
        reading: how prompts are read; with several windows of tokens it is another program.
        encoder: encodes the pictures to repaint; by default one without ControlNets.
        sample: paints a batch as `sample_batch` does.

    Yields:
        float32[height, width, 3], about in [-1, 1].

    Raises:
        UserError: a prompt or a style cannot be encoded, see `encoding.encode`.
        KeyboardInterrupt: the process was told to stop; all batches that were begun are yielded before.
    """
    if varied is None:
        varied = any(request.variants for request in requests)
    if rows is None:
        weights = [request.weights for request in requests]
        rows = needed_rows(weights, partly_guided=plan.partly_guided, varied=varied)
    if model.networks.embeds_guidance:
        rows = [FULL]
    encoder, plan = encoder or ContentEncoder(model), with_stages_of(plan, styles)
    batches = prepare_batches(
        model, requests, styles, batch_size=batch_size, rows=rows, varied=varied, reading=reading, encoder=encoder
    )

    def start(count: int, batch: Batch) -> tuple[int, Array]:
        return count, sample(model.networks, model.replicated_params, plan, batch, size=size, full_row=_full_row(rows))

    for count, images in _one_ahead(itertools.starmap(start, until_told(batches))):
        yield from np.asarray(images)[:count]
    if told_to_stop():
        raise KeyboardInterrupt


def with_stages_of(plan: StepPlan, styles: Mapping[str, Style]) -> StepPlan:
    """The plan for prompts encoded with these styles, whose numbers of stages may differ."""
    starts = stage_starts(styles)
    if len(starts) == max((style.stages for style in styles.values()), default=0):
        return plan
    begun = [stage_of(plan.solver.timesteps, start.denominator) >= start.numerator for start in starts]
    return plan._replace(stages=np.sum(begun, axis=0, dtype=np.int32) - np.int32(1))


def prepare_batches(
    model: StableDiffusion,
    requests: Sequence[Request],
    styles: Mapping[str, Style],
    *,
    batch_size: int,
    rows: Sequence[int],
    encoder: ContentEncoder,
    varied: bool = False,
    reading: Reading = PLAIN,
) -> Iterator[tuple[int, Batch]]:
    """What the sampler takes for these requests, batch by batch; arguments as of `paint_requests`.

    Yields:
        The number of pictures in the batch that count, and the batch.
    """
    batch_size = padded_batch_size(batch_size)
    for block in _cut(requests, max(1, _BATCHES_PER_BLOCK // layers_of(styles)) * batch_size):
        prompts = [[request.prompts[row] for row in rows] for request in block]
        distinct = list(dict.fromkeys(itertools.chain.from_iterable(prompts)))
        position = {prompt: i for i, prompt in enumerate(distinct)}
        conditioning = _encode_in_chunks(model, distinct, styles, reading)
        for group in _cut(block, batch_size):
            filled = [*group, *[group[-1]] * (batch_size - len(group))]
            chosen = np.array([[position[request.prompts[row]] for request in filled] for row in rows])
            weights = np.stack([request.weights[list(rows)] for request in filled], 1)
            scales = None
            if model.networks.embeds_guidance:  # the weight of the full prompt is the scale, and then there is no other
                scales, weights = weights[list(rows).index(FULL)], np.ones_like(weights)
            seeds = np.array([request.seed for request in filled], np.uint32)
            content = _content_batch(filled, rows, encoder, model.networks.guess_mode)
            variants = _variants(filled) if varied else None
            yield len(group), Batch(conditioning.take(chosen), weights, seeds, content, scales, variants)


def _encode_in_chunks(
    model: StableDiffusion, prompts: Sequence[str], styles: Mapping[str, Style], reading: Reading
) -> Conditioning:
    at_once = max(1, _PROMPTS_PER_CALL // (layers_of(styles) * reading.windows))
    filled = [*prompts, *[""] * (-len(prompts) % at_once)]
    return Conditioning.concatenate([encode(model, chunk, styles, reading) for chunk in _cut(filled, at_once)])


def _variants(requests: Sequence[Request]) -> dict[str, np.ndarray]:
    """The numbers of the variants of guidance, float32[B] each; those of pictures without are their defaults."""
    return {
        name: np.array([request.variants.get(name, number.default) for request in requests], np.float32)
        for name, number in NUMBERS.items()
    }


def _content_batch(
    requests: Sequence[Request], rows: Sequence[int], encoder: ContentEncoder, guess_mode: bool
) -> ContentBatch | None:
    """The pictures that requests repaint. In guess mode the ControlNets leave the row of the null prompt alone."""
    contents = [encoder.encode(request.content) for request in requests if request.content]
    if not contents:
        return None
    latents, maps = jax.tree.map(lambda *arrays: np.stack(arrays), *contents)
    if not maps:
        return ContentBatch(latents)
    acts = np.array([not (guess_mode and ROWS[row] == "null") for row in rows], np.float32)
    scales = np.stack([np.asarray(request.control_scales) for request in requests])
    return ContentBatch(latents, maps, scales[:, :, None] * acts[:, None])


def _full_row(rows: Sequence[int]) -> int:
    """Where the full prompt's row is among the computed ones; 0 where it is not computed, and so not asked for."""
    return list(rows).index(FULL) if FULL in rows else 0


def _cut(items: Sequence[T], length: int) -> list[list[T]]:
    return [list(items[start : start + length]) for start in range(0, len(items), length)]


def _one_ahead(items: Iterator[T]) -> Iterator[T]:
    """The same items, each yielded when the next has been started."""
    waiting = list(itertools.islice(items, 1))
    for item in items:
        yield waiting.pop()
        waiting.append(item)
    yield from waiting
