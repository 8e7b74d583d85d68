"""The methods that `experiments` compares: the rows of the tables in ``docs/results.md``."""

import itertools
from typing import NamedTuple

from dreamstyler_jax.guidance import CONSTANT, Guidance, cfg_guidance, paper_guidance
from dreamstyler_jax.mini.studies.exam import SCALE, Learning
from dreamstyler_jax.mini.studies.mixes import MIXES
from dreamstyler_jax.mini.studies.training_captions import TRAINING_CAPTIONS
from dreamstyler_jax.starting_words import NEUTRAL
from dreamstyler_jax.timestep_sampling import CHOICES as TIMESTEPS
from dreamstyler_jax.train_settings import AUTO_STEPS, AUTO_WORD, NORMS

NULL_SCALE = 2.0  # of the sweep over style and context scale
STYLE_AND_CONTEXT_SCALES = (0.0, 0.5, 1.0, 2.0, 3.0)
STRENGTHS, CONTROL_SCALES = (0.4, 0.6, 0.8, 1.0), (0.0, 0.4, 0.8)  # of repainted photos
PAINTERS_OWN = "painter's own"  # the row of the painter's own pictures
BARE_PROMPT = "A painting in the style of {style}"


class Method(NamedTuple):
    """A row of a table.

    Attributes:
        name: its label; results are kept under it.
        learning: how the style is learned; None for no learning at all.
        guidance: how prompts are guided.
        prompt: with {context} for the question and {style} for the style. Without {context} it names nothing to be
            seen, and the scores say how much of the training picture is seen all the same.
        trained: ask trained painters, whose own names then stand for the style.
        strength, control_scale: how photos of the questions are repainted; strength 0 paints from the prompt alone.
        guidance_span: the part of the sampling, from 0 to 1, that is guided.
        guidance_schedule: how guidance changes over the sampling.
        steps: solver steps; 0 for as many as configured.
        cache_interval: steps that share deep features.
        asked: how many things prompts ask for, see `requests`; 0 for the scenes of the questions.
        mix: with the style of a second painter, see `mixes`; empty for none.
    """

    name: str
    learning: Learning | None
    guidance: Guidance = cfg_guidance(SCALE)
    prompt: str = "A painting of {context} in the style of {style}"
    trained: bool = False
    strength: float = 0.0
    control_scale: float = 0.0
    guidance_span: tuple[float, float] = (0.0, 1.0)
    guidance_schedule: str = CONSTANT
    steps: int = 0
    cache_interval: int = 1
    asked: int = 0
    mix: str = ""

    @property
    def names_nothing(self) -> bool:
        """Whether the prompt asks for nothing to be seen."""
        return "{context}" not in self.prompt


class Experiment(NamedTuple):
    """A table.

    Attributes:
        methods: its rows.
        pairs: names of methods whose scores are compared painter by painter: the first minus the second.
    """

    methods: list[Method]
    pairs: list[tuple[str, str]]


def _bounds() -> Experiment:
    return Experiment([NO_INVERSION, Method("own word", None, trained=True)], [(PAINTERS_OWN, NO_INVERSION.name)])


def _stages() -> Experiment:
    methods = [Method(f"T = {stages}", Learning(stages=stages)) for stages in (1, 2, 4, 6, 8, 12)]
    methods += [Method(f"T = 1, V = {vectors}", Learning(stages=1, vectors=vectors)) for vectors in (2, 6)]
    pairs = [(method.name, methods[0].name) for method in methods[1:]]
    pairs += [("T = 6", other) for other in ("T = 12", "T = 1, V = 2", "T = 1, V = 6")]
    return Experiment(methods, pairs)


def _starting_words() -> Experiment:
    """A style that starts from one word in all stages, or from the word that suits each stage best."""
    methods = [
        Method(
            f"T = {stages}, from {'the best words' if word == AUTO_WORD else word}", Learning(stages, init_word=word)
        )
        for stages in (1, 6)
        for word in (NEUTRAL, AUTO_WORD)
    ]
    one, one_best, six, six_best = (method.name for method in methods)
    return Experiment(methods, [(one_best, one), (six_best, six), (six_best, one_best)])


def _mirrors() -> Experiment:
    methods = [Method("the picture alone", Learning()), Method("mirror images, too", Learning(flip=True))]
    return Experiment(methods, [(methods[0].name, methods[1].name)])


def _layers() -> Experiment:
    methods = [
        Method(f"T = {stages}" + (", each layer" if layers == "each" else ""), Learning(stages=stages, layers=layers))
        for layers in ("shared", "each")
        for stages in (1, 6)
    ]
    one, six, one_each, six_each = (method.name for method in methods)
    return Experiment(methods, [(one_each, one), (six_each, six), (six, one_each)])


def _directions() -> Experiment:
    """Free vectors against directions of a fixed norm (Kim et al. 2026)."""
    methods = [
        Method(f"{norm} norms, T = {stages}", Learning(stages=stages, norm=norm)) for norm in NORMS for stages in (1, 6)
    ]
    methods += [
        Method(f"fixed norms, T = 6, prior {prior:g}", Learning(norm="fixed", prior=prior)) for prior in (1e-4, 1e-3)
    ]
    free_one, free_six, fixed_one, fixed_six, *with_prior = (method.name for method in methods)
    pairs = [(fixed_six, free_six), (fixed_one, free_one), (fixed_six, fixed_one), (free_six, free_one)]
    return Experiment(methods, pairs + [(name, fixed_six) for name in with_prior])


def _durations() -> Experiment:
    """How long to train, with and without automatic stopping."""
    steps = {**{f"{count} steps": count for count in (50, 100, 200, 400)}, "automatic": AUTO_STEPS}
    methods = [
        Method(f"{norm} norms, {name}", Learning(norm=norm, steps=count))
        for norm in NORMS
        for name, count in steps.items()
    ]
    return Experiment(methods, [(method.name, "free norms, 200 steps") for method in methods])


def _requests() -> Experiment:
    """Prompts that ask for more and more things."""
    methods = [
        Method(f"{norm} norms, {count} asked for", Learning(norm=norm), asked=count)
        for norm in NORMS
        for count in range(1, 7)
    ]
    return Experiment(methods, [(f"fixed norms, {n} asked for", f"free norms, {n} asked for") for n in range(1, 7)])


def _ablation() -> Experiment:
    methods = [
        Method("textual inversion", Learning(stages=1, context=False)),
        Method("+ stages", Learning(context=False)),
        Method("+ context prompt", Learning()),
        Method("+ guidance", Learning(), paper_guidance(NULL_SCALE, 1.0, 0.5)),
    ]
    return Experiment(methods, [(method.name, before.name) for before, method in itertools.pairwise(methods)])


def _guidance() -> Experiment:
    scales = STYLE_AND_CONTEXT_SCALES
    methods = [
        Method(f"ls = {ls}, lc = {lc}", Learning(), paper_guidance(NULL_SCALE, ls, lc))
        for ls in scales
        for lc in scales
    ]
    pairs = [(f"ls = {ls}, lc = {lc}", f"ls = 0.0, lc = {lc}") for lc in scales for ls in (1.0, 3.0)]
    pairs += [(f"ls = {ls}, lc = {lc}", f"ls = {ls}, lc = 0.0") for ls in scales for lc in (1.0, 3.0)]
    return Experiment(methods, pairs)


def _limits() -> Experiment:
    methods = [
        Method(f"guided from {start:g} to {end:g}", Learning(), guidance_span=(start, end))
        for start, end in ((0.0, 1.0), (0.0, 0.8), (0.0, 0.5), (0.2, 1.0), (0.2, 0.8))
    ]
    return Experiment(methods, [(method.name, methods[0].name) for method in methods[1:]])


def _variants() -> Experiment:
    numbers = {"plain": {}, "rescaled 0.7": {"guidance_rescale": 0.7}, "APG": {"apg_eta": 0.0}}
    numbers |= {"CFG-Zero*": {"cfg_zero_star": 1.0}}
    methods = [
        Method(f"{name}, scale {scale:g}", Learning(), cfg_guidance(scale, **optional))
        for scale in (SCALE, 2 * SCALE)
        for name, optional in numbers.items()
    ]
    methods += [
        Method(f"{schedule}, scale {scale:g}", Learning(), cfg_guidance(scale), guidance_schedule=schedule)
        for schedule in ("linear", "cosine")
        for scale in (SCALE, 2 * SCALE)
    ]
    plain = {scale: f"plain, scale {scale:g}" for scale in (SCALE, 2 * SCALE)}
    scales = [method.guidance.scales["guidance_scale"] for method in methods]
    pairs = [(method.name, plain[scale]) for method, scale in zip(methods, scales, strict=True)]
    return Experiment(methods, [(name, other) for name, other in pairs if name != other])


def _caching() -> Experiment:
    methods = [
        Method(
            f"{steps} steps" + (f", each {interval} share" if interval > 1 else ""),
            Learning(),
            steps=steps,
            cache_interval=interval,
        )
        for steps, interval in ((20, 1), (20, 2), (20, 3), (12, 1), (10, 1))
    ]
    pairs = [(method.name, methods[0].name) for method in methods[1:]]
    return Experiment(methods, [*pairs, ("20 steps, each 2 share", "12 steps")])


def _leakage() -> Experiment:
    methods = [
        Method("own word, nothing named", None, prompt=BARE_PROMPT, trained=True),
        Method("learned without context prompt", Learning(context=False), prompt=BARE_PROMPT),
        Method("learned with context prompt", Learning(), prompt=BARE_PROMPT),
    ]
    return Experiment(methods, [(methods[2].name, methods[1].name)])


def _captions(prompt: str, suffix: str) -> Experiment:
    """What a true caption of the training picture is worth, and what a poor one costs."""
    methods = [Method(f"{name} caption{suffix}", Learning(caption=name), prompt=prompt) for name in TRAINING_CAPTIONS]
    methods.append(Method(f"no caption{suffix}", Learning(context=False), prompt=prompt))
    true, *others = (method.name for method in methods)
    return Experiment(methods, [(name, true) for name in others])


def _transfer() -> Experiment:
    methods = [
        Method(f"control {scale}, strength {strength}", Learning(), strength=strength, control_scale=scale)
        for scale in CONTROL_SCALES
        for strength in STRENGTHS
    ]
    pairs = [
        (f"control {scale}, strength {strength}", f"control {CONTROL_SCALES[0]}, strength {strength}")
        for scale in CONTROL_SCALES[1:]
        for strength in STRENGTHS
    ]
    return Experiment(methods, pairs)


def _masks() -> Experiment:
    """A painted-over corner must not return, least of all where it is masked."""
    methods = [
        Method("whole picture", Learning()),
        Method("corner painted over", Learning(corner="covered")),
        Method("corner painted over and masked", Learning(corner="masked")),
    ]
    return Experiment(methods, [(methods[2].name, methods[1].name), (methods[2].name, methods[0].name)])


def _crops() -> Experiment:
    methods = [Method("whole picture", Learning()), Method("random crops", Learning(framing="random"))]
    return Experiment(methods, [(methods[1].name, methods[0].name)])


def _timesteps() -> Experiment:
    methods = [Method(choice, Learning(timesteps=choice)) for choice in TIMESTEPS]
    return Experiment(methods, [(method.name, methods[0].name) for method in methods[1:]])


def _mixes() -> Experiment:
    """Half-way between two painters, along a line or a great circle."""
    learning = {norm: Learning(norm=norm) for norm in NORMS}
    methods = [
        Method(f"{norm} norms, {way}", learning[norm], mix=way)
        for norm, ways in (("free", ("first", "linear")), ("fixed", MIXES))
        for way in ways
    ]
    _, free_line, fixed_one, fixed_line, sphere = (method.name for method in methods)
    return Experiment(methods, [(sphere, fixed_line), (sphere, free_line), (sphere, fixed_one)])


NO_INVERSION = Method("no inversion", None, prompt="A painting of {context}")
EXPERIMENTS = {
    "bounds": _bounds(),
    "stages": _stages(),
    "starting_words": _starting_words(),
    "mirrors": _mirrors(),
    "layers": _layers(),
    "directions": _directions(),
    "durations": _durations(),
    "requests": _requests(),
    "ablation": _ablation(),
    "guidance": _guidance(),
    "limits": _limits(),
    "variants": _variants(),
    "caching": _caching(),
    "leakage": _leakage(),
    "captions": _captions(BARE_PROMPT, ", nothing named"),
    "captions_named": _captions(NO_INVERSION.prompt + " in the style of {style}", ""),
    "transfer": _transfer(),
    "masks": _masks(),
    "crops": _crops(),
    "timesteps": _timesteps(),
    "mixes": _mixes(),
}
