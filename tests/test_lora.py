"""LoRA files: what they change in a model, under which names, and which files are refused."""

import dataclasses
import json
import re

import jax
import jax.numpy as jnp
import lora_tools
import numpy as np
import pytest
import safetensors.numpy
from compilations import compilations
from flax.traverse_util import flatten_dict
from lora_tools import expected_params, random_layers, tensors_of, write_lora
from tiny_model import write_controlnet

from dreamstyler_jax.api import paint
from dreamstyler_jax.runtime.errors import UserError
from dreamstyler_jax.stable_diffusion.loras.merging import merge_loras, read_loras
from dreamstyler_jax.stable_diffusion.loras.recipes import lora_labels, parse_loras
from dreamstyler_jax.stable_diffusion.pipeline import StableDiffusion


def assert_close(params, expected, tolerance=1e-6):
    for part, kernels in expected.items():
        for path, kernel in flatten_dict(params[part]).items():
            error = np.abs(np.asarray(kernel, np.float64) - kernels[path]).max()
            assert error <= tolerance * np.abs(kernels[path]).max(), (part, path)


def assert_same(params, others):
    jax.tree.map(np.testing.assert_array_equal, params, others)


@pytest.fixture(scope="module")
def file(tiny, tmp_path_factory):
    """A LoRA of all layers in kohya's names."""
    return write_lora(tmp_path_factory.mktemp("loras") / "gogh.safetensors", random_layers(tiny.params))


# What a file changes


@pytest.mark.parametrize(
    ("naming", "wanted"),
    [
        (lora_tools.kohya, None),
        (lora_tools.peft, None),
        (lora_tools.diffusers, None),
        (lora_tools.processors, lora_tools.is_attention),
    ],
)
def test_every_layer_is_changed_under_every_tools_names(tiny, naming, wanted, tmp_path):
    alpha = None if naming is lora_tools.processors else 1.5
    layers = random_layers(tiny.params, wanted or (lambda part, name: True), alpha=alpha)
    shapes = {matrices.down.shape[2:] for matrices in layers.values()}
    assert wanted or {(), (1, 1), (3, 3)} <= shapes, "matrices and convolutions of both sizes"
    merged = tiny.with_loras(f"{write_lora(tmp_path / 'a.safetensors', layers, naming)}*0.7")
    assert_close(merged.params, expected_params(tiny.params, (layers, 0.7)))
    assert flatten_dict(merged.params["unet"]).keys() == flatten_dict(tiny.params["unet"]).keys()


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("lora_te_", "lora_te1_"),
        ("text_encoder.text_model.", "text_encoder."),
        ("unet.", ""),
        ("lora_unet_down_blocks_0_attentions_0_", "lora_unet_input_blocks_1_1_"),
        ("lora_unet_down_blocks_0_downsamplers_0_conv", "lora_unet_input_blocks_2_0_op"),
        ("lora_unet_down_blocks_1_resnets_0_conv1", "lora_unet_input_blocks_3_0_in_layers_2"),
        ("lora_unet_mid_block_resnets_1_time_emb_proj", "lora_unet_middle_block_2_emb_layers_1"),
        ("lora_unet_up_blocks_0_upsamplers_0_conv", "lora_unet_output_blocks_1_1_conv"),
        ("lora_unet_up_blocks_1_attentions_1_", "lora_unet_output_blocks_3_1_"),
        ("lora_unet_up_blocks_1_resnets_1_conv_shortcut", "lora_unet_output_blocks_3_0_skip_connection"),
        ("lora_unet_conv_out", "lora_unet_out_2"),
    ],
)
def test_other_names_of_the_same_layers(tiny, ours, theirs, tmp_path):
    naming = lora_tools.kohya if ours.startswith("lora_") else lora_tools.peft
    tensors = {
        name.replace(ours, theirs, 1): array
        for name, array in tensors_of(random_layers(tiny.params), naming).items()
        if name.startswith(ours)
    }
    assert tensors
    safetensors.numpy.save_file(tensors, tmp_path / "theirs.safetensors")
    same = {name.replace(theirs, ours, 1): array for name, array in tensors.items()}
    safetensors.numpy.save_file(same, tmp_path / "ours.safetensors")
    merged = [tiny.with_loras(f"{tmp_path}/{name}.safetensors").params for name in ("theirs", "ours")]
    assert_same(*merged)
    assert any(not np.array_equal(a, b) for a, b in zip(*map(jax.tree.leaves, (merged[0], tiny.params)), strict=True))


@pytest.mark.parametrize("naming", [lora_tools.kohya, lora_tools.peft])
def test_a_second_text_encoder(tiny, naming, tmp_path):
    """As Stable Diffusion XL has it, with a projection."""
    second = {**tiny.params["text_encoder"], "text_projection": {"kernel": np.ones((16, 16), np.float32)}}
    model = dataclasses.replace(tiny, params={**tiny.params, "text_encoder_2": second})
    layers = random_layers(model.params)
    assert ("text_encoder_2", "text_projection") in layers
    merged = model.with_loras(str(write_lora(tmp_path / "a.safetensors", layers, naming)))
    assert_close(merged.params, expected_params(model.params, (layers, 1.0)))


def test_a_matrix_for_a_convolution_of_1_x_1_and_the_other_way_around(tiny, tmp_path):
    layers = random_layers(tiny.params, lambda part, name: name.endswith(("attentions.0.proj_in", "attn1.to_q")))
    other = {
        key: matrices._replace(
            down=matrices.down.squeeze((2, 3)) if matrices.down.ndim == 4 else matrices.down[..., None, None],
            up=matrices.up.squeeze((2, 3)) if matrices.up.ndim == 4 else matrices.up[..., None, None],
        )
        for key, matrices in layers.items()
    }
    assert {matrices.down.ndim for matrices in other.values()} == {2, 4}
    one, two = (write_lora(tmp_path / f"{i}.safetensors", given) for i, given in enumerate((layers, other)))
    assert_same(tiny.with_loras(str(one)).params, tiny.with_loras(str(two)).params)


def test_without_alpha_it_is_the_rank(tiny, tmp_path):
    without, with_rank = (random_layers(tiny.params, rank=3, alpha=alpha) for alpha in (None, 3.0))
    files = [write_lora(tmp_path / f"{i}.safetensors", layers) for i, layers in enumerate((without, with_rank))]
    assert_same(*(tiny.with_loras(str(file)).params for file in files))


def test_alpha_in_the_metadata_of_diffusers(tiny, tmp_path):
    """A value for each part, others for some layers, and rank-stabilised scaling."""
    layers = random_layers(tiny.params, rank=4, alpha=None)
    settings = {
        "unet.r": 4, "unet.lora_alpha": 8,
        "text_encoder.lora_alpha": 6.0, "text_encoder.use_rslora": True,
        "unet.alpha_pattern": {"attn2.to_k": 2, "^conv_in": 1, "n2.to_q": 5, "^attn2.to_v": 5, "to_k": 7},
    }  # fmt: skip
    metadata = {"lora_adapter_metadata": json.dumps(settings), "format": "pt"}
    safetensors.numpy.save_file(tensors_of(layers, lora_tools.peft), tmp_path / "a.safetensors", metadata)

    def alpha_of(part, name):
        if part == "text_encoder":
            return 6 * 4**0.5
        return {"attn2.to_k": 2, "attn1.to_k": 7, "conv_in": 1}.get(name[-10:], 8)

    expected = {key: matrices._replace(alpha=alpha_of(*key)) for key, matrices in layers.items()}
    merged = tiny.with_loras(str(tmp_path / "a.safetensors"))
    assert_close(merged.params, expected_params(tiny.params, (expected, 1.0)))


def test_a_file_in_half_precision(tiny, tmp_path):
    for dtype in "float16", "bfloat16":
        half = {name: array.astype(dtype) for name, array in tensors_of(random_layers(tiny.params)).items()}
        safetensors.numpy.save_file(half, tmp_path / "half.safetensors")
        single = {name: array.astype(np.float32) for name, array in half.items()}
        safetensors.numpy.save_file(single, tmp_path / "single.safetensors")
        merged = [tiny.with_loras(f"{tmp_path}/{name}.safetensors").params for name in ("half", "single")]
        assert_same(*merged)


# Merging


def test_merging_leaves_the_model_as_it_was_and_shares_what_does_not_change(tiny, tmp_path):
    layers = random_layers(tiny.params, lambda part, name: name.endswith("attn2.to_k"))
    before = jax.tree.map(np.array, tiny.params)
    merged = tiny.with_loras(str(write_lora(tmp_path / "a.safetensors", layers)))
    assert_same(tiny.params, before)
    shared = [a is b for a, b in zip(*map(jax.tree.leaves, (merged.params, tiny.params)), strict=True)]
    assert shared.count(False) == len(layers)
    assert merged.params["text_encoder"] is tiny.params["text_encoder"]


def test_several_loras_add_up_in_any_order(tiny, tmp_path):
    first, second = random_layers(tiny.params), random_layers(tiny.params, rank=5, seed=1)
    a, b = (write_lora(tmp_path / f"{i}.safetensors", layers) for i, layers in enumerate((first, second)))
    one, other = (tiny.with_loras(text).params for text in (f"{a}*0.8+{b}*-0.5", f"{b}*-0.5+{a}*0.8"))
    expected = expected_params(tiny.params, (first, 0.8), (second, -0.5))
    assert_close(one, expected)
    assert_close(other, expected)


def test_a_scale_of_0_changes_nothing(tiny, file):
    """Not even the sign of a zero."""
    params = {**tiny.params, "unet": jax.tree.map(lambda leaf: -jnp.zeros_like(leaf), tiny.params["unet"])}
    model = dataclasses.replace(tiny, params=params)
    still = model.with_loras(f"{file}*0")
    assert still.hash == model.hash
    assert all(np.signbit(leaf).all() for leaf in jax.tree.leaves(still.params["unet"]))


def test_weights_are_rounded_once(tiny_folder, file, tmp_path):
    """Also with several LoRAs."""
    model = StableDiffusion.load(tiny_folder, dtype="bfloat16")
    text = f"{file}*0.3+{write_lora(tmp_path / 'other.safetensors', random_layers(model.params, seed=1))}"
    merged = model.with_loras(text)
    assert {leaf.dtype for leaf in jax.tree.leaves(merged.params)} == {jnp.dtype("bfloat16")}
    single = jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), model.params)
    (stack,) = read_loras([text], single, "")
    rounded = jax.tree.map(lambda leaf: np.asarray(leaf, jnp.bfloat16), merge_loras(single, stack))
    assert_same(merged.params, rounded)


def test_loras_need_no_compilation(tiny, file):
    def painted(model):
        return paint(model, "a red house", seeds=[0], steps=2, progress=False)[0].pixels

    plain = painted(tiny)
    with compilations() as programs:
        changed = painted(tiny.with_loras(f"{file}*0.5"))
    assert programs == []
    assert np.abs(plain - changed).max() > 1e-2


# The model


def test_the_hash_covers_content_and_scale(tiny, file, tmp_path):
    moved = tmp_path / "moved.safetensors"
    moved.write_bytes(file.read_bytes())
    other = write_lora(tmp_path / "other.safetensors", random_layers(tiny.params, seed=1))
    texts = [f"{file}*0.5", f"{file}", f"{other}*0.5", f"{file}*0.5+{other}*0.5"]
    hashes = [tiny.with_loras(text).hash for text in texts]
    assert len({tiny.hash, *hashes}) == 5
    assert all(re.fullmatch("[0-9a-f]{12}", one) for one in hashes)
    assert tiny.with_loras(f"{moved}*0.5").hash == hashes[0]
    assert [stack.hash_on(tiny.hash) for stack in read_loras(texts, tiny.params, "")] == hashes


def test_the_hash_covers_loras_and_controlnets(tiny, file, tmp_path):
    controlled = tiny.with_controlnets([write_controlnet(tmp_path / "net")])
    assert len({model.with_loras(f"{file}").hash for model in (tiny, controlled)} | {controlled.hash}) == 3
    assert "controlnets" in controlled.with_loras(f"{file}").params


def test_a_model_knows_its_loras(tiny, tiny_folder, file):
    model = StableDiffusion.load(tiny_folder, loras=f" {file} * 0.50 ")
    assert_same(model.params, tiny.with_loras(f"{file}*0.5").params)
    assert str(model.loras) == f"{file}*0.5"
    assert repr(model).endswith("gogh.safetensors*0.5)")
    counts = [sum(part == wanted for part, _ in random_layers(tiny.params)) for wanted in ("unet", "text_encoder")]
    assert model.loras.lines == [
        f"LoRA {file}*0.5 changes {counts[1]} layers of the text_encoder and {counts[0]} layers of the unet"
    ]
    assert (str(tiny.loras), tiny.loras.lines, tiny.with_loras("none")) == ("none", [], tiny)
    with pytest.raises(UserError, match=r"has .*gogh.safetensors\*0.5 already; give all at once"):
        model.with_loras(f"{file}")


# Recipes


@pytest.mark.parametrize(
    ("text", "terms", "written"),
    [
        ("none", [], "none"),
        ("a.safetensors", [("a.safetensors", 1)], "a.safetensors"),
        ("a.safetensors*1.0", [("a.safetensors", 1)], "a.safetensors"),
        ("a.safetensors*-.5", [("a.safetensors", -0.5)], "a.safetensors*-0.5"),
        ("a.safetensors * 2. + b c.safetensors*0", [("a.safetensors", 2), ("b c.safetensors", 0)],
         "a.safetensors*2+b c.safetensors*0"),
        ("x.safetensors.d/a+b*2.safetensors", [("x.safetensors.d/a+b*2.safetensors", 1)],
         "x.safetensors.d/a+b*2.safetensors"),
    ],
)  # fmt: skip
def test_recipes(text, terms, written):
    recipe = parse_loras(text)
    assert (list(recipe.terms), str(recipe)) == (terms, written)
    assert parse_loras(str(recipe)) == recipe


@pytest.mark.parametrize(
    "text", ["", "gogh", "a.safetensors+", "a.safetensors*x", "a.safetensors*1*2", "a.ckpt", "none+a.safetensors*"]
)
def test_other_texts_are_refused(text):
    with pytest.raises(UserError, match="should read like gogh"):
        parse_loras(text)


def test_scales_and_repetitions_are_refused():
    with pytest.raises(UserError, match="from -10 to 10"):
        parse_loras(f"a.safetensors*{'9' * 400}")
    with pytest.raises(UserError, match="names a file twice"):
        parse_loras("a.safetensors*0.5+a.safetensors")


def test_labels_are_the_names_of_the_files_where_they_differ():
    texts = ["none", "some/gogh.safetensors*0.5", "some/gogh.safetensors+other/ink.safetensors*2"]
    assert lora_labels(texts) == ["none", "gogh*0.5", "gogh+ink*2"]
    same = ["a/gogh.safetensors", "b/gogh.safetensors", "what another tool wrote"]
    assert lora_labels(same) == same


# Refusals


Q = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q"
PEFT_Q = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q"


def put(**shapes):
    """Adds tensors of one layer, with __ for a dot, or changes them."""
    return lambda tensors: tensors.update(
        {f"{Q}.{name.replace('__', '.')}": np.zeros(shape, np.float32) for name, shape in shapes.items()}
    )


def rename(pattern, replacement):
    def change(tensors):
        for name in list(tensors):
            tensors[re.sub(pattern, replacement, name)] = tensors.pop(name)

    return change


def of_width(width):
    """Gives the matrices that take the text states this width."""

    def change(tensors):
        for name in tensors:
            if "attn2_to_k.lora_down" in name:
                tensors[name] = np.zeros((2, width), np.float32)

    return change


def add_again(tensors):
    down, up = (tensors[f"{Q}.lora_{matrix}.weight"] for matrix in ("down", "up"))
    tensors |= {f"{PEFT_Q}.lora_A.weight": down, f"{PEFT_Q}.lora_B.weight": up}


def spoil(tensors):
    tensors[f"{Q}.lora_up.weight"] *= np.inf


DAMAGE = {
    "unknown": (rename("mid_block", "middle"), r"does not fit tiny; of no layer: lora_unet_middle_\S+,"),
    "half": (lambda t: t.pop(f"{Q}.lora_up.weight"), rf"without a partner: {Q}\.alpha, {Q}\.lora_down\.weight$"),
    "rank": (put(lora_up__weight=(16, 3)), rf"misshapen: {Q} has rank 2 in one matrix and 3 in the other$"),
    "shape": (put(lora_down__weight=(2, 5)), rf"misshapen: {Q} changes \(16, 5\) instead of \(16, 16\)$"),
    "vector": (put(lora_up__weight=(16,)), rf"{Q} has matrices \(2, 16\) and \(16,\)$"),
    "no rank": (put(lora_down__weight=(0, 16), lora_up__weight=(16, 0)), rf"{Q} has matrices \(0, 16\)"),
    "alpha": (put(alpha=(2,)), rf"{Q}\.alpha is not one number"),
    "role twice": (put(lora_A__weight=(2, 16)), rf"no matrices of a LoRA, or twice: {Q}\.lora_down\.weight$"),
    "layer twice": (add_again, rf"twice: {PEFT_Q}\.lora_A\.weight, {PEFT_Q}\.lora_B\.weight$"),
    "odd": (put(what=(1,)), rf"no matrices of a LoRA, or twice: {Q}\.what$"),
    "DoRA": (put(dora_scale=(1,)), rf"not implemented, .*: DoRA: {Q}\.dora_scale$"),
    "LoKr": (put(lokr_w1=(1,)), "LoKr: "),
    "LoHa": (rename("lora_(down|up).weight", r"hada_w1_\1"), "LoHa: .* and [0-9]+ more$"),
    "Tucker": (put(lora_mid__weight=(1,)), "Tucker decomposition: "),
    "full": (put(diff=(1,)), "full difference: "),
    "bias": (put(lora_B__bias=(1,)), "bias: "),
    "no LoRA": (rename(".*", "model.diffusion_model.conv"), "is no LoRA: its tensors are model"),
    "empty": (dict.clear, "is no LoRA: its tensors are none at all"),
    "Inf": (spoil, rf"holds NaN or Inf: {Q}\.lora_up\.weight$"),
    "1.x": (of_width(768), r"is for Stable Diffusion 1\.x, but tiny is a model with text states of width 16$"),
    "2.x": (of_width(1024), r"is for Stable Diffusion 2\.x, but tiny is"),
    "XL": (of_width(2048), "is for Stable Diffusion XL, but tiny is"),
    "XL by its text encoder": (rename("lora_te_", "lora_te2_"), "is for Stable Diffusion XL, but tiny is"),
    "Flux": (rename("down_blocks", "double_blocks"), "is for a transformer such as Flux, but tiny is"),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_files_that_do_not_fit_are_refused_in_a_line(tiny, case, tmp_path):
    damage, message = DAMAGE[case]
    tensors = tensors_of(random_layers(tiny.params))
    damage(tensors)
    path = tmp_path / "a.safetensors"
    safetensors.numpy.save_file(tensors, path)
    with pytest.raises(UserError, match=message) as error:
        read_loras([str(path)], tiny.params, "tiny")
    assert f"loras: {path} " in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("kind", ["missing", "folder", "cut", "text", "empty", "eight bits"])
def test_files_that_cannot_be_read_are_refused_in_a_line(tiny, file, kind, tmp_path):
    path = tmp_path / "a.safetensors"
    content = file.read_bytes()
    match kind:
        case "folder":
            path.mkdir()
        case "cut":
            path.write_bytes(content[:-9])
        case "text":
            path.write_text("this is no file of tensors")
        case "empty":
            path.touch()
        case "eight bits":
            import ml_dtypes

            eight = {
                name: array.astype(ml_dtypes.float8_e4m3fn)
                for name, array in tensors_of(random_layers(tiny.params)).items()
            }
            safetensors.numpy.save_file(eight, path)
    expected = "there is no file" if kind in ("missing", "folder") else "cannot be read, it is damaged"
    expected = "8-bit numbers, which are not supported; give a 16-bit version" if kind == "eight bits" else expected
    with pytest.raises(UserError, match=expected) as error:
        read_loras([str(path)], tiny.params, "tiny")
    assert str(path) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("[", "metadata lora_adapter_metadata in .* is damaged, it is not valid JSON"),
        ("[]", "metadata lora_adapter_metadata in .* is damaged, it should be an object"),
        ('{"unet.alpha_pattern": [1]}', "alpha_pattern in the metadata .* is damaged or too general"),
        ('{"unet.alpha_pattern": {".*": 1}}', "alpha_pattern in the metadata .* is damaged or too general"),
        ('{"unet.lora_alpha": "x"}', r"alpha of \S+ in .* is 'x', not a number"),
        ('{"unet.alpha_pattern": {"to_k": NaN}}', r"alpha of \S+to_k in .* is nan, not a number"),
        (f'{{"unet.lora_alpha": 1{"0" * 400}}}', r"alpha of \S+ in .* is 10+[.]{3}, not a number"),
    ],
)
def test_metadata_that_make_no_sense_are_refused(tiny, settings, message, tmp_path):
    tensors = tensors_of(random_layers(tiny.params, alpha=None), lora_tools.peft)
    safetensors.numpy.save_file(tensors, tmp_path / "a.safetensors", {"lora_adapter_metadata": settings})
    with pytest.raises(UserError, match=message):
        read_loras([str(tmp_path / "a.safetensors")], tiny.params, "tiny")
