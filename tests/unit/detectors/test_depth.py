"""Which layers are compared with which."""

from __future__ import annotations

import numpy as np
import pytest

from lossguard.detectors.depth import Depth, is_weight, kind_of
from tests.support.layers import BLOCKS, layers


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("blocks.3.fc1.weight", "blocks.#.fc1.weight"),
        ("layer2.0.conv1.weight", "layer#.#.conv1.weight"),
        ("fc3.weight", "fc#.weight"),
        ("0.weight", "#.weight"),
        ("encoder.layer.3.attention.query.weight", "encoder.layer.#.attention.query.weight"),
        ("model.layers.0.mlp.experts.7.w1.weight", "model.layers.#.mlp.experts.#.w1.weight"),
        ("rnn.weight_ih_l2", "rnn.weight_ih_l#"),
    ],
)
def test_a_weight_is_of_a_kind_with_its_like_in_other_layers(name: str, kind: str) -> None:
    """Numbers that count layers are left out of the kind, those that tell roles apart stay."""
    assert kind_of(name) == kind


@pytest.mark.parametrize(
    "name",
    [
        "blocks.3.fc1.bias",
        "h.3.ln_1.weight",
        "layer1.0.bn1.weight",
        "model.layers.3.input_layernorm.weight",
        "norm.weight",
        "embed.weight",
        "transformer.wte.weight",
        "tok_emb.weight",
        "model.embed_tokens.weight",
    ],
)
def test_biases_norms_and_embeddings_are_no_weights(name: str) -> None:
    """Their gradients differ by nature."""
    assert not is_weight(name)


@pytest.mark.parametrize("name", ["0.weight", "head.weight", "normal.fc.weight", "conv.kernel"])
def test_matrices_and_kernels_are_weights(name: str) -> None:
    """They go by their names."""
    assert is_weight(name)


def test_kinds_of_different_size_do_not_look_like_a_slope() -> None:
    """A kind with gradients a thousand times as large stands in every quarter alike."""
    sizes = [1000.0 if "attn" in name else 1.0 for name in BLOCKS]
    profile = Depth().profile(layers(BLOCKS, sizes))
    assert profile is not None
    assert profile.quarters == pytest.approx((0.0, 0.0, 0.0, 0.0))


def test_a_slope_along_the_depth_is_seen() -> None:
    """A factor of ten a block: the quarters, two blocks each, are a factor of 100 apart."""
    sizes = [10.0 ** int(name.split(".")[1]) for name in BLOCKS]
    profile = Depth().profile(layers(BLOCKS, sizes))
    assert profile is not None
    assert np.diff(profile.quarters) == pytest.approx([2.0, 2.0, 2.0])
    assert BLOCKS[profile.lowest].startswith("blocks.0.")
    assert BLOCKS[profile.highest].startswith("blocks.1.")


def test_layers_without_a_gradient_are_left_out() -> None:
    """Zero, missing and non-finite values are no slope; a frozen quarter leaves nothing to say."""
    depth = Depth()
    sizes: list[float | None] = [1.0] * len(BLOCKS)
    sizes[0], sizes[7], sizes[-1] = 0.0, None, float("nan")
    profile = depth.profile(layers(BLOCKS, sizes))
    assert profile is not None
    assert profile.quarters == pytest.approx((0.0, 0.0, 0.0, 0.0))
    sizes[:6] = [0.0] * 6
    assert depth.profile(layers(BLOCKS, sizes)) is None


def test_a_model_without_numbered_layers_is_taken_in_its_order() -> None:
    """Four named weights have a depth; three do not."""
    names = ("stem.weight", "stem.bias", "wide.weight", "narrow.weight", "out.weight")
    profile = Depth().profile(layers(names, [1e-3, 1.0, 1e-2, 1e-1, 1.0]))
    assert profile is not None
    assert profile.quarters == pytest.approx((-3.0, -2.0, -1.0, 0.0))
    assert Depth().profile(layers(names[:4], [1.0] * 4)) is None
