"""One exchange against the unsplit step and against a plain loop over clients."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_close, assert_equal, differs, exchange_of, setup, slow

from engine import reference
from jfedsl.engine.auxiliary import map_layers
from jfedsl.engine.exchanges import one_exchange
from jfedsl.engine.server_step import joint_step
from jfedsl.engine.state import weights
from jfedsl.engine.transmit import at_hand
from jfedsl.models import layers
from jfedsl.models.registry import MODELS

CUTS = [("mlp", "none", 1), ("mlp", "none", 3), ("cnn", "group", 3)]
CUTS += [slow(*case) for case in (
    ("mlp", "none", 2), *(("cnn", "group", cut) for cut in (1, 2, 4, 5, 6)), ("cnn", "none", 3)
)]  # fmt: skip


def test_every_cut_is_tried():
    assert all(len(MODELS[m].build(10, "none")) == d for m, d in (("mlp", 4), ("cnn", 7)))


@pytest.mark.parametrize(("model", "norm", "cut"), CUTS)
def test_split_step_equals_unsplit_step_on_the_union_of_batches(model, norm, cut):
    experiment, state, run = setup(model=model, norm=norm, cut=str(cut), clients=3)
    whole = experiment.initial
    images, labels = zip(*(reference.batch(experiment, n, 0) for n in range(3)), strict=True)
    unsplit = jax.value_and_grad(reference.mean_loss, 1)
    loss, gradient = jax.jit(unsplit, static_argnums=0)(
        experiment.spec.model,
        whole.params,
        whole.stats,
        jnp.concatenate(images),
        jnp.concatenate(labels),
    )
    expected = jax.tree.map(lambda w, g: w - 0.05 * g, whole.params, gradient)
    state, record = run(state)
    assert_close(state.aggregator.params + state.server.params, expected)
    np.testing.assert_allclose(record.train_loss, loss, rtol=1e-5)


COMPRESSED = {
    "prune_kind": "mask",
    "prune_rate": (0.2, 0.5, 0.0),
    "dropout_rate": 0.3,
    "smashed_bits": 8,
    "cut_gradient_bits": 6,
    "client_gradient_bits": 8,
    "clients": 3,
    "aggregate_every": 2,
    "partition": "quantity",
    "quantity_alpha": 5.0,
    "aggregation": "examples",
}


def test_compressed_exchange_equals_a_loop_over_clients():
    experiment, state, run = setup(model="cnn", norm="group", **COMPRESSED)
    share = weights(experiment.spec, experiment.data.partition, state.participants)
    assert len(set(share.tolist())) == 3, "the weights must be unequal to be tested"
    server, client_gradients, losses = reference.gradients(experiment, state, 0, 0, share)
    before, (after, record) = state, run(state)
    assert_close(
        after.server.params,
        jax.tree.map(lambda w, g: w - 0.05 * g, before.server.params, server),
    )
    for n, gradient in enumerate(client_gradients):
        params, masks = (
            jax.tree.map(lambda x, n=n: x[n], tree)
            for tree in (before.clients.params, before.clients.masks)
        )
        expected = jax.tree.map(
            lambda w, g, m: jnp.where(m, w - 0.05 * g, w), params, gradient, masks
        )
        # Rounding may tip a quantized entry by a level, 1/255 or 1/63 of a bucket's range; few do.
        moved = jax.tree.map(lambda x, n=n: x[n], after.clients.params)
        assert_close(moved, expected, atol=2e-4)
    np.testing.assert_allclose(record.losses[0], jnp.stack(losses), rtol=1e-5)
    np.testing.assert_allclose(record.train_loss, jnp.stack(losses) @ share, rtol=1e-5)


@pytest.mark.parametrize(
    "changes",
    [
        {"model": "mlp"},
        slow({"model": "cnn"}),
        slow({"model": "mlp", "algorithm": "u_shape"}),
        slow({"model": "cnn", "algorithm": "sage", "aux": "conv", "local_steps": 2}),
    ],
    ids=str,
)
def test_results_do_not_depend_on_the_chunk(changes):
    states = []
    for chunk in (1, 2, 5):
        _, state, run = setup(
            client_chunk=chunk, clients=5, prune_kind="mask", dropout_rate=0.2, norm="batch",
            aggregate_every=2, **changes,
        )  # fmt: skip
        states.append(run(state)[0])
    for state in states[1:]:
        assert_close(state, states[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("chunk", "remat", "loops"), [(6, False, 0), (3, False, 2), (2, False, 3), (6, True, 6)]
)
def test_layers_behind_the_cut_run_in_chunks_too(chunk, remat, loops):
    experiment, state, _ = setup(clients=6, client_chunk=chunk, remat_clients=remat)
    x, rows = exchange_of(experiment, state), jnp.arange(18.0).reshape(6, 3)
    run = lambda rows: map_layers(x, jnp.square, rows)  # noqa: E731
    assert_equal(run(rows), rows**2)
    lengths = re.findall(r"scan\[.*?length=(\d+)", str(jax.make_jaxpr(run)(rows)), re.DOTALL)
    assert lengths == ([str(loops)] if loops else [])


def server_step_of(experiment, state):
    """The compiled step of the server, by activations, labels and weights."""
    x = exchange_of(experiment, state)

    def step(smashed, labels, share):
        of_share = x._replace(weights=share)
        return joint_step(of_share, state.server, at_hand(of_share, smashed), labels)

    return jax.jit(step)


def test_a_client_of_weight_zero_still_gets_the_gradient_of_its_own_loss():
    experiment, state, _ = setup(aggregation="examples", partition="quantity", quantity_alpha=9.0)
    smashed = jax.random.normal(jax.random.key(1), (4, 8, 256))
    labels = jnp.zeros((4, 8), jnp.int32)

    step, uneven = server_step_of(experiment, state), jnp.array([0.0, 0.5, 0.3, 0.2])
    unequal, equal = (step(smashed, labels, s) for s in (uneven, jnp.full(4, 0.25)))
    assert_close(unequal[2], equal[2])
    assert float(jnp.abs(unequal[2][0]).max()) > 0
    other, _, _ = step(smashed.at[0].mul(100.0), labels, uneven)
    assert_equal(other.params, unequal[0].params)


@pytest.mark.parametrize(
    ("chunk", "changes"),
    [
        (12, {}),
        slow(1, {"prune_kind": "channel", "prune_rate": (0.5,) * 6 + (0.25,) * 6}),
    ],
    ids=str,
)
def test_computing_the_forward_pass_again_changes_nothing_but_memory(chunk, changes):
    states, held = [], []
    for remat in (False, True):
        experiment, state, _ = setup(
            model="cnn", client_chunk=chunk, clients=12, dropout_rate=0.2, norm="batch",
            aggregate_every=2, smashed_bits=8, remat_clients=remat, **changes,
        )  # fmt: skip
        arguments = (experiment.data, experiment.key, state, 1)
        run = experiment.rounds(1).lower(*arguments).compile()
        held.append(run.memory_analysis().temp_size_in_bytes)
        states.append(run(*arguments)[0])
    assert_close(states[1], states[0], rtol=1e-4, atol=1e-5)
    assert held[1] < held[0]


@pytest.mark.usefixtures("standard_promotion")
@pytest.mark.parametrize("norm", ["batch"])
def test_bfloat16_rounds_products_and_keeps_the_state_in_float32(norm):
    results = []
    for dtype in ("float32", "bfloat16"):
        _, state, run = setup(model="cnn", norm=norm, compute_dtype=dtype, optimizer="adam")
        after, record = run(state)
        floats = [x.dtype for x in jax.tree.leaves(after) if jnp.issubdtype(x.dtype, jnp.floating)]
        assert set(floats) == {jnp.dtype(jnp.float32)}
        results.append(float(record.train_loss))
    assert results[0] != results[1]
    np.testing.assert_allclose(results[1], results[0], rtol=0.05)


def test_under_batch_norm_a_cut_gradient_is_that_of_the_sum_of_all_losses():
    experiment, state, _ = setup(norm="batch", cut="dense1")
    smashed = jax.random.normal(jax.random.key(1), (4, 8, 256))
    labels = jnp.zeros((4, 8), jnp.int32)
    step = server_step_of(experiment, state)
    gradients = [
        step(smashed, labels, jnp.array(share))[2] for share in ([0.01, 0.49, 0.3, 0.2], [0.25] * 4)
    ]
    assert_close(gradients[0], gradients[1])


def test_cut_gradient_does_not_shrink_with_the_number_of_clients():
    experiment, state, _ = setup()
    one = jax.random.normal(jax.random.key(1), (1, 8, 256))
    labels = jnp.zeros((1, 8), jnp.int32)
    step = server_step_of(experiment, state)
    few, many = (
        step(jnp.tile(one, (n, 1, 1)), jnp.tile(labels, (n, 1)), jnp.full(n, 1 / n))[2]
        for n in (1, 6)
    )
    assert_close(many, jnp.tile(few, (6, 1, 1)))


def test_quantized_client_gradient_is_unbiased_and_noisy():
    experiment, state, _ = setup(client_gradient_bits=3, bucket_size=64, aggregate_every=2)
    _, start, exact_run = setup(aggregate_every=2)
    exact = exact_run(start)[0].clients.params
    draws = 100
    many = jax.jit(jax.vmap(lambda key: _run_with_key(experiment, state, key).clients.params))(
        jax.vmap(jax.random.key)(jnp.arange(draws))
    )
    # The mean of n unbiased draws errs by the total variance / n, give or take little, as there
    # are 66,000 entries; a bias would add to it.
    variance = sum(float(x.var(0, ddof=1).sum()) for x in jax.tree.leaves(many))
    pairs = zip(jax.tree.leaves(many), jax.tree.leaves(exact), strict=True)
    error = sum(float(((x.mean(0) - e) ** 2).sum()) for x, e in pairs)
    assert variance > 0
    assert 0.9 < error / (variance / draws) < 1.1


def _run_with_key(experiment, state, key):
    """The first round with the batches of the run's key but noise of another one."""
    x = exchange_of(experiment, state, key)
    server, clients, _ = one_exchange(x, state.server, state.clients)
    return state.replace(server=server, clients=clients)


def test_clients_never_share_noise():
    # Two clients with the same data, batch and model differ by their dropout masks alone.
    experiment, state, _ = setup(dropout_rate=0.5, clients=2)
    from jfedsl.engine.client_step import forward_one
    from jfedsl.engine.messages import send_activation
    from jfedsl.keys import Purpose, fold

    images, _ = reference.batch(experiment, 0, 0)
    client = jax.tree.map(lambda x: x[0], state.clients)
    spec = experiment.spec
    form = spec.pruner.forwards[0]
    activation = forward_one(spec, form, client, images, experiment.key)[0]
    keys = [fold(experiment.key, Purpose.EXCHANGE, 0, 0, n) for n in (0, 1, 0)]
    first, second, again = (
        send_activation(spec, client, activation, key)[1].values for key in keys
    )
    assert differs(first, second)
    assert not differs(first, again)


def test_statistics_follow_each_client_under_batch_norm():
    experiment, state, run = setup(model="cnn", norm="batch", batch_norm_statistics="local")
    after, _ = run(state)
    stats = jax.tree.leaves(after.clients.stats)
    assert stats and all(differs(s[0], s[1]) for s in stats)
    images, _ = reference.batch(experiment, 1, 0)
    client = jax.tree.map(lambda x: x[1], state.clients)
    _, expected = layers.apply(
        experiment.spec.model[: experiment.spec.cut],
        client.params,
        client.stats,
        images,
        train=True,
    )
    assert_close(jax.tree.map(lambda x: x[1], after.clients.stats), expected)
