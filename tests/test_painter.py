"""The embedded model's world: scenes, painters, captions, and the training pictures on disk."""

import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compilations import optimised

from dreamstyler_jax.mini.world import captions, data, manners, painters, scenes
from dreamstyler_jax.prompts import context_only, style_only

COUNT = 12  # pictures in each batch below, so that they share one compiled program
GRAMMAR = list(itertools.product(range(len(scenes.SUBJECTS)), (None, *range(8)), (None, *range(7)), (None, *range(3))))


def scene_of(colour: str) -> scenes.Scene:
    """``COUNT`` scenes that differ only in the subject: each in turn, in one colour, in the snow by day."""
    place, time = list(scenes.PLACES).index("in the snow"), list(scenes.TIMES).index("by day")
    values = {"colour": list(scenes.COLOURS).index(colour), "place": place, "time": time}
    values |= {"size": 0.35, "horizon": 0.45, "phase": 0.3}
    batch = {name: jnp.full(COUNT, value) for name, value in values.items()}
    return scenes.Scene(subject=jnp.arange(COUNT) % 10, position=jnp.full((COUNT, 2), 0.45), **batch)


@pytest.fixture(scope="module")
def all_painters():
    """The parameters of all painters: trained, held-out, and the camera."""
    return data.all_painters().painter


@pytest.fixture(scope="module")
def twelve():
    """The parameters of the first painters: one of each technique, and two more."""
    return data.by_number(np.arange(COUNT)).painter


@pytest.fixture(scope="module")
def keys():
    return jax.random.split(jax.random.key(1), COUNT)


@pytest.fixture(scope="module")
def painted(twelve, keys):
    with optimised():
        return np.asarray(painters.paint_scenes(twelve, keys, scene_of("red")))


# Scenes


@pytest.fixture(scope="module")
def rasters():
    """Colour and depth of many scenes, at 32 pixels."""
    scene = scenes.sample(jax.random.key(2), (200,))
    return scene, *map(np.asarray, jax.jit(jax.vmap(lambda scene: scenes.raster(scene, 32)))(scene))


def test_scenes_are_drawn_from_the_whole_grammar(rasters):
    scene, words = rasters[0], (scenes.SUBJECTS, scenes.COLOURS, scenes.PLACES, scenes.TIMES)
    for drawn, known in zip((scene.subject, scene.colour, scene.place, scene.time), words, strict=True):
        assert set(drawn.tolist()) == set(range(len(known)))


def test_every_subject_is_seen_and_leaves_room_for_the_rest(rasters):
    scene, _, depth = rasters
    share = (depth == np.float32(0.1)).mean((1, 2))
    for subject in range(len(scenes.SUBJECTS)):
        seen = share[scene.subject == subject]
        assert seen.min() > 0.05 and seen.max() < 0.5, (scenes.SUBJECTS[subject], seen.min(), seen.max())


def test_depth_is_near_far_and_in_between(rasters):
    _, _, depth = rasters
    assert depth.min() == np.float32(0.1) and depth.max() == 1
    assert ((depth == 1).mean((1, 2)) > 0.1).all()  # there is sky in every scene
    assert ((depth > 0.3) & (depth < 0.8)).any((1, 2)).all()  # and ground


def test_colours_are_in_range_and_subjects_have_theirs(rasters):
    scene, colour, depth = rasters
    assert colour.min() >= 0 and colour.max() <= 1
    red, blue = (list(scenes.COLOURS).index(name) for name in ("red", "blue"))
    of_subject = depth[..., None] == np.float32(0.1)
    mean = np.where(of_subject, colour, 0).sum((1, 2)) / of_subject.sum((1, 2))
    assert (mean[scene.colour == red] @ [1, 0, -1] > 0.1).all()
    assert (mean[scene.colour == blue] @ [-1, 0, 1] > 0.1).all()


def test_night_is_darker_than_day(rasters):
    scene, colour, _ = rasters
    by_time = [colour[scene.time == time].mean() for time in range(3)]
    assert by_time[2] < 0.6 * by_time[0]


# Painters


def test_pictures_are_in_range_and_not_empty(painted):
    assert painted.shape == (COUNT, painters.SIZE, painters.SIZE, 3) and painted.dtype == np.float32
    assert painted.min() >= 0 and painted.max() <= 1
    assert (painted.std((1, 2)).max(-1) > 0.05).all()


def test_a_picture_depends_on_its_key(twelve, keys, painted):
    scene = scene_of("red")
    np.testing.assert_array_equal(painters.paint_scenes(twelve, keys, scene), painted)
    change = np.abs(np.asarray(painters.paint_scenes(twelve, keys[::-1], scene)) - painted).max((1, 2, 3))
    random = np.arange(COUNT) != list(manners.TECHNIQUES).index("cartoon")  # flat colours, nothing random in them
    assert (change[random] > 0.02).all()


def test_a_picture_does_not_depend_on_its_batch(twelve, keys, painted):
    scene = scene_of("red")
    back = lambda tree: jax.tree.map(lambda a: a[::-1], tree)  # noqa: E731
    np.testing.assert_array_equal(painters.paint_scenes(back(twelve), back(keys), back(scene))[::-1], painted)
    one = lambda tree: jax.tree.map(lambda a: a[2:3], tree)  # noqa: E731
    alone = np.asarray(painters.paint_scenes(one(twelve), one(keys), one(scene)))[0]
    assert np.mean(np.abs(alone - painted[2]) > 1 / 255) < 0.005  # rounding may hand a pixel to another stroke


def test_every_technique_shows_the_subject_in_its_colour(twelve, keys, painted):
    blue = np.asarray(painters.paint_scenes(twelve, keys, scene_of("blue")))
    _, depth = jax.jit(jax.vmap(lambda scene: scenes.raster(scene, painters.SIZE)))(scene_of("red"))
    change, subject = np.abs(blue - painted).mean(-1), np.asarray(depth) == np.float32(0.1)
    inside = (change * subject).sum((1, 2)) / subject.sum((1, 2))
    outside = (change * ~subject).sum((1, 2)) / (~subject).sum((1, 2))
    assert (inside > 0.02).all() and (inside > 4 * outside).all(), (inside, outside)  # ink shows it as shades


def test_painters_lie_in_the_region_of_their_words(all_painters):
    manner = data.all_painters().manner
    touch = np.array(list(manners.TOUCHES.values()))[manner.touch[:-1]]
    for words, chosen in ((manners.TECHNIQUES, manner.technique), (manners.PALETTES, manner.palette)):
        for number, ranges in enumerate(words.values()):
            of_word = np.asarray(chosen)[:-1] == number
            for parameter in ranges.keys() & all_painters._asdict().keys():
                low, high = ranges[parameter]
                values = np.asarray(getattr(all_painters, parameter))[:-1][of_word]
                least, most = touch[of_word].T if parameter in ("cell", "pitch", "outline_width") else (1, 1)
                assert (low * least - 1e-5 <= values).all() and (values <= high * most + 1e-5).all(), parameter
                assert low == high or np.ptp(values) > (high - low) / 2
    luminance = np.asarray(all_painters.ground)[:-1].mean(-1)
    by_ground = [luminance[np.asarray(manner.ground)[:-1] == ground] for ground in range(3)]
    assert by_ground[0].min() > 0.85 > by_ground[1].max() > by_ground[1].min() > 0.3 > by_ground[2].max()
    for colour in (all_painters.dark, all_painters.light, all_painters.ground):
        assert colour.min() >= 0 and colour.max() <= 1


def test_all_painters_are_different_and_always_the_same(all_painters):
    data.all_painters.cache_clear()
    jax.tree.map(np.testing.assert_array_equal, all_painters, data.all_painters().painter)
    assert all_painters.cell.shape == (captions.PAINTERS + captions.HELD_OUT + 1,) == (240 + 32 + 1,)
    assert len(np.unique(np.concatenate([all_painters.dark, all_painters.light], 1), axis=0)) == 273


# Captions

LABEL = [2, 1, 0, 2, 13, 3, 0, 2, 2]  # an orange boat by the sea at night by painter 13; a mosaic in warm colours, ...
MANNER = r"(?! *$)( in the style of (mosaic|tiles))?( in warm colours)?( with broad strokes)?( on dark canvas)?"


def test_painters_have_names_that_mean_nothing_else():
    names = captions.PAINTER_NAMES
    assert len(names) == len(set(names)) == 272
    texts = [*scenes.SUBJECTS, *scenes.COLOURS, *scenes.PLACES, *scenes.TIMES]
    texts += itertools.chain(*captions.TECHNIQUE_WORDS.values())
    texts += itertools.chain(manners.PALETTES, manners.TOUCHES, manners.GROUNDS)
    words = {word for text in texts for word in text.split()}
    assert not words & set(names)
    assert all(re.fullmatch("[a-z]{4,14}", name) for name in names)


def test_every_technique_has_two_words_that_no_other_has():
    assert list(captions.TECHNIQUE_WORDS) == list(manners.TECHNIQUES)
    assert len({word for pair in captions.TECHNIQUE_WORDS.values() for word in pair}) == 2 * len(manners.TECHNIQUES)


def test_descriptions_are_grammatical_and_all_different():
    texts = [captions.describe(*attributes) for attributes in GRAMMAR]
    assert len(set(texts)) == len(texts)
    assert all((text.split()[0] == "an") == (text.split()[1][0] in "aeiou") for text in texts)
    assert {"an orange house", "a red cat by the sea at night", "a tree"} <= set(texts)


def test_full_prompts_split_into_context_and_style():
    prompt = captions.full_prompt(0, 1, 0, 2)
    assert prompt == "A painting of an orange house by the sea at night in the style of {}"
    assert context_only(prompt) == "A painting of an orange house by the sea at night"
    assert style_only(prompt) == "A painting in the style of {}"


def test_captions_name_attributes_and_styles_with_the_documented_frequencies():
    rng = np.random.default_rng(0)
    texts = [captions.caption(rng, LABEL) for _ in range(4000)]
    name = captions.PAINTER_NAMES[13]
    form = r"a (painting|picture|drawing)( of an? (orange )?boat( by the sea)?( at night)?)?"
    form += rf"( in the style of {name}|{MANNER})?"
    assert all(re.fullmatch(form, text) for text in texts)

    def share(pattern, captions=texts):
        return np.mean([bool(re.search(pattern, text)) for text in captions])

    with_context = [text for text in texts if " of a" in text]
    tolerance = 0.03  # four standard deviations of the largest
    assert share("^a painting") == pytest.approx(0.6, abs=tolerance)
    assert 1 - len(with_context) / len(texts) == pytest.approx(0.06, abs=tolerance)
    assert share(f"{name}$", with_context) == pytest.approx(0.55, abs=tolerance)
    words = "mosaic|tiles|warm|broad|canvas"
    assert share(words, with_context) == pytest.approx(0.3, abs=tolerance)
    in_words = [text for text in with_context if re.search(words, text)]
    assert share("mosaic|tiles", in_words) == pytest.approx(0.765, abs=tolerance)  # the fallback included
    said = {"warm": 0.6, "broad": 0.4, "canvas": 0.4}
    assert {word: share(word, in_words) for word in said} == pytest.approx(said, abs=2 * tolerance)
    absent = {"orange": 0.15, "by the sea": 0.2, "at night": 0.25}
    assert {word: 1 - share(word, with_context) for word in absent} == pytest.approx(absent, abs=tolerance)
    assert all(text.endswith(name) for text in texts if text not in with_context)


def test_captions_are_deterministic_in_their_generator():
    first, second = ([captions.caption(np.random.default_rng(5), LABEL) for _ in range(5)] for _ in range(2))
    assert first == second


def test_a_painter_without_a_name_is_described():
    rng, nameless = np.random.default_rng(0), [*LABEL[:4], captions.NAMELESS, *LABEL[5:]]
    texts = [captions.caption(rng, nameless) for _ in range(400)]
    assert not any(name in text.split() for text in texts for name in captions.PAINTER_NAMES)
    assert np.mean([bool(re.search(MANNER + "$", text)) for text in texts]) > 0.75


# Pictures on disk


def fake_paint(_, keys, scene):
    """Stands in for the renderer where only the labels matter: flat pictures of a random grey for each key."""
    return jnp.broadcast_to(
        jax.vmap(jax.random.uniform)(keys)[:, None, None, None], (len(keys), painters.SIZE, painters.SIZE, 3)
    )


def test_a_photograph_is_the_plain_raster_and_its_caption_says_so():
    scene = scene_of("red")
    photo = jax.tree.map(lambda a: jnp.stack([a] * COUNT), manners.photograph())
    pictures = painters.paint_scenes(photo, jax.random.split(jax.random.key(0), COUNT), scene)
    plain = jax.jit(jax.vmap(lambda one: scenes.raster(one, 2 * painters.SIZE)[0]))(scene)
    small = plain.reshape(COUNT, painters.SIZE, 2, painters.SIZE, 2, 3).mean((2, 4))
    np.testing.assert_allclose(pictures, small, atol=1e-5)
    caption = captions.caption(np.random.default_rng(0), [0, 0, 0, 0, captions.PHOTOGRAPH, *[data.NO_MANNER] * 4])
    assert caption.startswith("a photo of a") and "style" not in caption


def test_held_out_painters_are_not_in_the_training_set():
    labels = np.concatenate([data.render_chunk(0, chunk, 1000, fake_paint).labels for chunk in range(4)])
    photograph, nameless = (labels[:, 4] == number for number in (captions.PHOTOGRAPH, captions.NAMELESS))
    assert set(labels[:, 4]) == {*range(captions.PAINTERS), captions.PHOTOGRAPH, captions.NAMELESS}
    assert 0.03 < photograph.mean() < 0.05 and 0.37 < nameless.mean() < 0.43
    assert [labels[:, i].max() + 1 for i in (0, 1, 2, 3, 5, 6, 7, 8)] == [14, 8, 7, 3, 10, 10, 3, 3]
    assert labels[:, :5].min() == 0 and (labels[photograph, 5:] == data.NO_MANNER).all()
    assert labels[~photograph].min() == 0
    named = ~photograph & ~nameless
    manner = np.stack(data.all_painters().manner, 1)
    np.testing.assert_array_equal(labels[named, 5:], manner[labels[named, 4]])


def test_chunks_are_deterministic_and_all_different():
    first, again, second, other = (
        data.render_chunk(seed, chunk, COUNT, fake_paint) for seed, chunk in ((0, 0), (0, 0), (0, 1), (1, 0))
    )
    jax.tree.map(np.testing.assert_array_equal, first, again)
    assert (first.pixels != second.pixels).any() and (first.pixels != other.pixels).any()
    assert (first.labels != second.labels).any() and (first.labels != other.labels).any()


def test_labels_say_what_is_painted(painted):
    numbers = np.arange(COUNT)
    scene = scene_of("red")
    pixels, labels = data.render(jax.random.key(1), data.by_number(numbers), scene)
    assert pixels.dtype == np.uint8 and labels.dtype == np.int32
    assert np.abs(pixels / 255 - painted).max() <= 0.5 / 255 + 1e-6
    np.testing.assert_array_equal(labels[:, 0], np.arange(COUNT) % 10)
    assert set(labels[:, 1]) == {list(scenes.COLOURS).index("red")}
    np.testing.assert_array_equal(labels[:, 4], numbers)
    np.testing.assert_array_equal(labels[:, 5], numbers % len(manners.TECHNIQUES))


def test_the_scenes_of_a_chunk_are_those_of_its_labels():
    labels = data.render_chunk(3, 2, COUNT, fake_paint).labels
    scene = data.chunk_scenes(3, 2, COUNT)
    np.testing.assert_array_equal(labels[:, :4], np.stack([scene.subject, scene.colour, scene.place, scene.time], 1))


def test_an_interrupted_rendering_goes_on_where_it_stopped(tmp_path):
    rendered, interrupt = [], False

    def render_chunk(seed, chunk, size):
        if interrupt and rendered:
            raise KeyboardInterrupt
        rendered.append(chunk)
        return data.render_chunk(seed, chunk, size, fake_paint)

    def prepare(name):
        return data.prepare(tmp_path / name, 30, chunk_size=COUNT, render_chunk=render_chunk)

    whole = prepare("whole")
    assert whole.pixels.shape == (30, 128, 128, 3) and whole.labels.shape == (30, 9)
    rendered.clear()
    interrupt = True
    with pytest.raises(KeyboardInterrupt):
        prepare("halves")
    interrupt = False
    jax.tree.map(np.testing.assert_array_equal, prepare("halves"), whole)
    assert rendered == [0, 1, 2]
