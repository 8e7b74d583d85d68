"""Short texts for several numbers: the seeds of a grid, and the part of it that a process paints."""

import re

from dreamstyler_jax.runtime.errors import UserError

HOSTS = "hosts"  # the shard that stands for this host of a TPU pod or a cluster job
MAX_SEED = 2**32 - 1
MAX_SEEDS = 100_000


def parse_seeds(text: str) -> list[int]:
    """The seeds that ``text`` lists: numbers and ranges ``start:end`` (without ``end``), separated by commas.

    ``"0:3,7"`` is ``[0, 1, 2, 7]``. Seeds are from 0 to 2**32 - 1.

    Raises:
        UserError: the text has another form, or lists no seed, more than 100 000 seeds, or a seed twice.
    """
    seeds: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*([0-9]{1,10})\s*(?::\s*([0-9]{1,10})\s*)?", part)
        if not match:
            raise UserError(f"seeds: {text!r} should read like 0:8 or 1,5,9")
        start = int(match[1])
        end = start + 1 if match[2] is None else int(match[2])
        if not start < end <= MAX_SEED + 1:
            raise UserError(f"seeds: {part.strip()!r} in {text!r} holds no seed from 0 to {MAX_SEED}")
        if len(seeds) + end - start > MAX_SEEDS:
            raise UserError(f"seeds: {text!r} lists more than {MAX_SEEDS}")
        seeds.extend(range(start, end))
    if len(set(seeds)) < len(seeds):
        raise UserError(f"seeds: {text!r} lists a seed twice")
    return seeds


def parse_shard(text: str) -> tuple[int, int]:
    """``"1/4"`` is (1, 4): the second of four parts.

    Raises:
        UserError: the text has another form, or there is no such part.
    """
    match = re.fullmatch(r"\s*(\d{1,6})\s*/\s*(\d{1,6})\s*", text)
    if not match or int(match[1]) >= int(match[2]):
        raise UserError(f"shard: {text!r} should read like 0/4, 1/4, 2/4 or 3/4")
    return int(match[1]), int(match[2])
