"""Makes the example pictures, with their prompts in text files of the same name: ``dreamstyler examples``.

* ``examples/boat.png``, which the package carries as well, ``house.png``, ``flower.png`` and ``bird.png`` to learn a
  style from. Their painters are held-out, so the styles are new to the embedded model; the painter's number is in the
  text chunks.
* ``examples/city.png`` to repaint: an unpainted scene, larger and wider than the embedded model's pictures.
* ``examples/my_cat.png`` of an object, without a prompt.
"""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from dreamstyler_jax.mini.shipped import EXAMPLE_PICTURE
from dreamstyler_jax.mini.world import captions, data, scenes
from dreamstyler_jax.runtime.files import write_atomic
from dreamstyler_jax.runtime.images import save_png

PAINTINGS = {  # subject, colour, place, time, and the painter's number among the held-out ones
    "boat": ("red", "by the sea", "at sunset", 13),  # a mosaic
    "house": ("yellow", "in the mountains", "at night", 7),  # thick paint, put on with a knife
    "flower": ("purple", "in a field", "by day", 8),  # a woodcut
    "bird": ("blue", "in the forest", "by day", 14),  # hatching
}
PAINTER = captions.PAINTERS + PAINTINGS["boat"][-1]  # of the example of the package
FOLDER = Path(__file__).parents[3] / "examples"


@dataclasses.dataclass(frozen=True)
class ExamplesConfig:
    """Make the example pictures of the package and of the folder examples."""


def run(config: ExamplesConfig) -> None:
    """Writes all example pictures."""
    del config  # it has no settings
    for subject, (*described, painter) in PAINTINGS.items():
        scene = _scene(subject, *described, height=0.46, phase=0.3)
        for path in (FOLDER / f"{subject}.png", *([EXAMPLE_PICTURE] if subject == "boat" else [])):
            save_png(path, _render(scene, captions.PAINTERS + painter), {"painter": str(captions.PAINTERS + painter)})
            _write_prompt(path, scene)
    city = _scene("car", "red", "in the city", "by day", height=0.45, phase=0.4)
    colour, _ = scenes.raster(jax.tree.map(lambda value: value[0], city), 480)
    middle = np.asarray(jnp.round(colour[60:460] * 255)).astype(np.uint8)
    save_png(FOLDER / "city.png", Image.fromarray(middle))
    _write_prompt(FOLDER / "city.png", city)
    cat = _scene("cat", "orange", "in a field", "by day", height=0.46, phase=0.3)
    save_png(FOLDER / "my_cat.png", _render(cat, captions.PHOTOGRAPH))


def _scene(subject: str, colour: str, place: str, time: str, *, height: float, phase: float) -> scenes.Scene:
    """A batch of one scene with the subject in the middle, ``height`` above the lower edge."""
    words = zip(scenes.ATTRIBUTES.items(), (subject, colour, place, time), strict=True)
    indices = {name: jnp.array([known.index(word)]) for (name, known), word in words}
    return scenes.Scene(
        **indices,
        position=jnp.array([[0.5, height]]),
        size=jnp.array([0.36]),
        horizon=jnp.array([0.42]),
        phase=jnp.array([phase]),
    )


def _render(scene: scenes.Scene, painter: int) -> Image.Image:
    pictures = data.render(jax.random.key(0), data.by_number(np.array([painter])), scene)
    return Image.fromarray(pictures.pixels[0])


def _write_prompt(picture: Path, scene: scenes.Scene) -> None:
    """Writes what a picture shows into its text file."""
    prompt = captions.full_prompt(*(int(attribute[0]) for attribute in scene[: len(scenes.ATTRIBUTES)]))
    write_atomic(picture.with_suffix(".txt"), f"{prompt}\n".encode())
