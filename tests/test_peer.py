"""The benchmark against PyTorch: every contest runs on both sides."""

import pytest

from benchmarks.peer_torch import PeerConfig, contests, take_turns
from benchmarks.torch_model import STAGES, Torch

pytestmark = pytest.mark.usefixtures("one_compilation")


def test_every_contest_is_held_on_both_sides(tiny, tiny_folder):
    config = PeerConfig(model=str(tiny_folder), batch=2, steps=2)
    peer = Torch(tiny_folder, "float32", False)
    peer.text.resize_token_embeddings(peer.text.config.vocab_size + STAGES, mean_resizing=False)
    held = contests(config, tiny, {"PyTorch": peer})
    assert set(held) == {"unet", "train", "paint"}
    for name, contest in held.items():
        seconds = take_turns(contest, 1)
        assert len(seconds) == (2 if name == "unet" else 3)
        assert all(time > 0 for rounds in seconds.values() for time in rounds)
