"""The names of the UNet's layers in the original code of Stable Diffusion, by those of ``diffusers``.

The original numbers all layers on the way down, and all on the way up, in one sequence:

    down_blocks.1.attentions.0.proj_in    input_blocks.4.1.proj_in
    mid_block.resnets.1.conv1             middle_block.2.in_layers.2
    up_blocks.0.upsamplers.0.conv         output_blocks.2.2.conv
"""

from collections.abc import Collection

_OUTER = {
    "conv_in": "input_blocks.0.0", "conv_out": "out.2",
    "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0", "add_embedding.linear_2": "label_emb.0.2",
}  # fmt: skip
_IN_RESNET = {
    "conv1": "in_layers.2", "conv2": "out_layers.3", "time_emb_proj": "emb_layers.1", "conv_shortcut": "skip_connection"
}  # fmt: skip


def original_names(names: Collection[str]) -> dict[str, str]:
    """The original name of each layer that has one.

    Args:
        names: diffusers' names of all of a UNet's layers with a kernel, such as ``down_blocks.0.resnets.0.conv1``.
    """
    layers = 1 + max(int(name.split(".")[3]) for name in names if name.startswith("down_blocks.0.resnets."))
    found = {}
    for name in names:
        if name in _OUTER:
            found[name] = _OUTER[name]
        elif name.startswith(("down_blocks.", "mid_block.", "up_blocks.")):
            found[name] = _in_block(name, layers, names)
    return found


def _in_block(name: str, layers: int, names: Collection[str]) -> str:
    """The original name of a layer in a block; ``layers`` counts the ResNet blocks of a level on the way down."""
    kind, _, rest = name.partition(".")
    level, member, number, *rest = rest.split(".") if kind != "mid_block" else ["0", *rest.split(".")]
    # A level on the way down ends with a downsampler; one on the way up has a layer more.
    first = int(level) * (layers + 1)
    match member:
        case "resnets":
            place, rest = 0, [_IN_RESNET[rest[0]]]
        case "attentions":
            place = 1
        case "downsamplers":
            return f"input_blocks.{first + layers + 1}.0.op"
        case _:
            place = 2 if any(other.startswith(f"up_blocks.{level}.attentions.") for other in names) else 1
            return f"output_blocks.{first + layers}.{place}.conv"
    if kind == "mid_block":
        return ".".join(["middle_block", str(2 * int(number) + place), *rest])
    block, first = ("input_blocks", first + 1) if kind == "down_blocks" else ("output_blocks", first)
    return ".".join([block, str(first + int(number)), str(place), *rest])
