"""Makes the example pictures, each with its prompt beside it: ``python -m dreamstyler_jax.mini.studies.example``.

One to learn a style from, which the package carries: by a held-out painter, so that its style is new to the embedded
model; the painter's number is in its text chunks. One to repaint, ``examples/city.png``: an unpainted scene, larger and
wider than the embedded model's pictures. One of an object, ``examples/my_cat.png``, which no prompt describes.
"""

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from dreamstyler_jax.mini.shipped import EXAMPLE_PICTURE
from dreamstyler_jax.mini.world import captions, data, scenes
from dreamstyler_jax.runtime.files import write_atomic
from dreamstyler_jax.runtime.images import save_png

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


CITY = scenes.Scene(
    subject=jnp.array(scenes.SUBJECTS.index("car")),
    colour=jnp.array(list(scenes.COLOURS).index("red")),
    place=jnp.array(list(scenes.PLACES).index("in the city")),
    time=jnp.array(list(scenes.TIMES).index("by day")),
    position=jnp.array([0.5, 0.45]),
    size=jnp.array(0.36),
    horizon=jnp.array(0.42),
    phase=jnp.array(0.4),
)
CAT = SCENE._replace(
    subject=jnp.array([scenes.SUBJECTS.index("cat")]),
    colour=jnp.array([list(scenes.COLOURS).index("orange")]),
    place=jnp.array([list(scenes.PLACES).index("in a field")]),
    time=jnp.array([list(scenes.TIMES).index("by day")]),
)
FOLDER = Path(__file__).parents[3] / "examples"


def write(path: Path, pixels: np.ndarray, scene: scenes.Scene, text: dict[str, str]) -> None:
    """A picture uint8[H, W, 3] and the prompt that says what it shows."""
    shown = (scene.subject, scene.colour, scene.place, scene.time)
    save_png(path, Image.fromarray(pixels), text)
    prompt = captions.full_prompt(*(int(attribute.squeeze()) for attribute in shown))
    write_atomic(path.with_suffix(".txt"), f"{prompt}\n".encode())


def main() -> None:
    """Writes all of them."""
    render = functools.partial(data.render, jax.random.key(0), data.all_painters())
    write(EXAMPLE_PICTURE, render(np.array([PAINTER]), SCENE).pixels[0], SCENE, {"painter": str(PAINTER)})
    colour, _ = scenes.raster(CITY, 480)
    write(FOLDER / "city.png", np.asarray(jnp.round(colour[60:460] * 255)).astype(np.uint8), CITY, {})
    save_png(FOLDER / "my_cat.png", Image.fromarray(render(np.array([captions.PHOTOGRAPH]), CAT).pixels[0]))


if __name__ == "__main__":
    main()
