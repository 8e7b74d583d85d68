"""Paints the example picture that the package carries: ``python -m dreamstyler_jax.mini.example``.

By a held-out painter, so that its style is new to the embedded model. Its prompt lies beside it, the painter's number
is in its text chunks.
"""

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from dreamstyler_jax.examples import EXAMPLE_PICTURE
from dreamstyler_jax.files import write_atomic
from dreamstyler_jax.images import save_png
from dreamstyler_jax.mini import captions, data, scenes

PAINTER = captions.PAINTERS + 13
SCENE = scenes.Scene(
    subject=jnp.array([scenes.SUBJECTS.index("boat")]),
    colour=jnp.array([list(scenes.COLOURS).index("red")]),
    place=jnp.array([list(scenes.PLACES).index("by the sea")]),
    time=jnp.array([list(scenes.TIMES).index("at sunset")]),
    position=jnp.array([[0.5, 0.46]]),
    size=jnp.array([0.36]),
    horizon=jnp.array([0.42]),
    phase=jnp.array([0.3]),
)


def main() -> None:
    """Writes the picture and its prompt."""
    picture = data.render(jax.random.key(0), data.all_painters(), np.array([PAINTER]), SCENE)
    save_png(EXAMPLE_PICTURE, Image.fromarray(picture.pixels[0]), {"painter": str(PAINTER)})
    write_atomic(EXAMPLE_PICTURE.with_suffix(".txt"), (captions.full_prompt(*picture.labels[0, :4]) + "\n").encode())


if __name__ == "__main__":
    main()
