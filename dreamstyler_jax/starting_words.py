"""The words that a style starts from: in each stage the one with which the model denoises the pictures best.

Textual inversion starts from a word that somebody chooses (Gal et al. 2023, section 4.1), and in a few hundred steps it
does not come far from it. With ``init_word: auto`` the model chooses, stage by stage, by the loss that training lowers:
"mosaic" may be the best start for the detail of a picture, and "sombre" for its colours.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from dreamstyler_jax.encoding import initial_tables
from dreamstyler_jax.inversion import Dataset
from dreamstyler_jax.runtime.progress import progress
from dreamstyler_jax.stable_diffusion.pipeline import StableDiffusion
from dreamstyler_jax.stable_diffusion.tokenizer import Tokenizer
from dreamstyler_jax.stopping import Watch

NEUTRAL = "painting"  # where nothing suits better
_TECHNIQUES = """
    acrylic airbrush anime caricature cartoon chalk charcoal collage comic crayon cutout dabs doodle dots drawing
    embroidery engraving etching fresco glass gouache graffiti halftone hatching icon illustration impasto ink knife
    knitted lego linocut lithograph manga marble mosaic mural oil origami pastel pencil pixel pixelart poster print
    quilt render screenprint sketch stencil strokes swirls tapestry tattoo vector wash watercolor weave woodblock
    woodcut
"""
_SCHOOLS = """
    abstract baroque bauhaus cubism deco expressionism fauvism folkart futurism gothic impressionism impressionist
    medieval minimalism modernism nouveau pointillism popart psychedelic realism renaissance retro rococo romanticism
    surreal surrealism symbolism vaporwave vintage
"""
_ARTISTS = """
    banksy basquiat bosch caravaggio cezanne chagall dali degas durer escher gauguin goya hokusai hopper kandinsky klee
    klimt lichtenstein magritte manet matisse michelangelo miro modigliani mondrian monet mucha munch picasso pissarro
    pollock raphael rembrandt renoir rothko rubens seurat sorolla titian turner vangogh vermeer warhol
"""
_COLOURS_AND_TOUCH = """
    blurry bold bright broad coarse cold colorful colourful dark delicate earthy faded fine flat golden grainy grey
    monochrome mossy muted neon pale pastel rosy rough sepia shiny smooth soft sombre thick thin vivid warm
"""
WORDS = tuple(dict.fromkeys(f"{_TECHNIQUES} {_SCHOOLS} {_ARTISTS} {_COLOURS_AND_TOUCH}".split()))


def known_words(tokenizers: Mapping[str, Tokenizer]) -> list[str]:
    """`NEUTRAL`, and those of `WORDS` that are one token for every text encoder: a vector can start as that word."""
    return [NEUTRAL, *(word for word in WORDS if all(len(of.words(word)) == 1 for of in tokenizers.values()))]


def best_words(model: StableDiffusion, dataset: Dataset, stages: int, vectors: int) -> list[str]:
    """For each stage, the words with the lowest evaluation loss, one for each vector, best first.

    Args:
        model: the model to learn with; with the sizes that it is told, if it is SDXL.
        dataset: what a style is learned from.
        stages: T.
        vectors: V, vectors in a stage.

    Returns:
        T strings of V words, as `encoding.initial_tables` takes them; of fewer if the model knows fewer words.

    Raises:
        UserError: a device's memory is too small for one sample at a time.
    """
    words = known_words(model.tokenizers)
    watch = Watch(model.networks, model.params, dataset, stages)
    tables = (initial_tables(model, [word] * stages, vectors) for word in words)
    losses = [watch.measure(of_word) for of_word in progress(tables, "words to start from", len(words), "word")]
    return [" ".join(words[number] for number in order) for order in _lowest(losses, vectors)]


def _lowest(losses: Sequence[Sequence[float]], count: int) -> np.ndarray:
    """For each stage the numbers of the words with the lowest losses, from losses [words, T]: int[T, count]."""
    return np.argsort(np.asarray(losses), axis=0, kind="stable")[:count].T
