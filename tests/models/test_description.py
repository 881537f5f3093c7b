"""Another program computes the same logits from the description of a model."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rebuilt
from flax import linen as nn

from jfedsl.models import layers
from jfedsl.models.cnn import cnn
from jfedsl.models.description import describe
from jfedsl.models.layers import Model, Variables, from_function, from_linen
from jfedsl.models.mlp import mlp
from jfedsl.models.resnet import resnet18
from jfedsl.models.small import small
from jfedsl.run.storage import export

MODELS = {
    "cnn, group": (cnn(3, "group", (8, 12), 16), (9, 7, 1)),
    "cnn, batch": (cnn(3, "batch", (4, 6), 8), (8, 8, 2)),
    "small": (small(3, "none", (3, 4, 4, 5, 6)), (11, 8, 1)),
    "mlp": (mlp(3, "none", (6, 5)), (4, 4, 1)),
    "resnet18": ((*resnet18(3, "group", (4, 8))[:4], *resnet18(3)[-2:]), (7, 6, 1)),
}  # fmt: skip


def variables_of(model: Model, image: tuple[int, ...]) -> Variables:
    """Random variables: initial scales of 1 and biases of 0 would hide errors."""
    shapes = jax.eval_shape(lambda: layers.init(model, jax.random.key(0), jnp.zeros((1, *image))))
    draw = np.random.default_rng(0)
    return jax.tree.map(lambda x: draw.uniform(0.2, 0.9, x.shape).astype(np.float32) - 0.1, shapes)


@pytest.mark.parametrize("name", MODELS)
def test_a_manifest_suffices_to_compute_the_logits(name: str, tmp_path: Path) -> None:
    model, image = MODELS[name]
    variables = variables_of(model, image)
    facts = {
        "layers": describe(model, jnp.zeros((1, *image))),
        "input": {"mean": [1.5] * image[-1], "standard_deviation": [2.5] * image[-1]},
    }
    export.write(tmp_path, {export.JOINED: export.named(model, variables)}, facts)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    arrays = dict(np.load(tmp_path / "joined.npz"))
    x = np.random.default_rng(1).integers(0, 9, (4, *image)).astype(np.uint8)
    logits = rebuilt.logits(manifest, arrays, x)
    normalised = (x.astype(np.float32) - 1.5) / 2.5
    run = jax.jit(lambda v, x: layers.apply(model, v.params, v.stats, x, False)[0])
    expected = run(variables, normalised)
    np.testing.assert_allclose(logits, expected, rtol=2e-4, atol=2e-4 * np.abs(expected).max())


class UserModule(nn.Module):
    features: int
    activation: object = nn.tanh

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return self.activation(nn.Dense(self.features)(x))


def clip(x: jax.Array) -> jax.Array:
    return x.clip(-1, 1)


def test_user_defined_layers_are_described_by_name_and_settings() -> None:
    model = (
        from_linen("first", UserModule(4)),
        from_linen("second", nn.Dense(3), nn.tanh),
        from_function("third", clip),
        layers.Layer("fourth", lambda key, x: ({}, {}), lambda p, s, x, train: (x, s)),
    )
    description = describe(model, jnp.zeros((1, 5)))
    assert [layer["name"] for layer in description] == ["first", "second", "third", "fourth"]
    settings = {"features": 4, "activation": "tanh"}
    arrays = {"kernel": "params.second.kernel", "bias": "params.second.bias"}
    assert [layer["steps"] for layer in description] == [
        [{"op": "custom", "module": "UserModule", "settings": settings}],
        [{"op": "dense", "arrays": arrays}, {"op": "custom", "function": "tanh"}],
        [{"op": "custom", "function": "clip"}],
        [{"op": "custom"}],
    ]
    json.dumps(description)
