"""One averaged cut gradient for all."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_close, assert_equal, differs, exchange_of, plain, setup, slow

from jfedsl.config import Config
from jfedsl.engine.exchange import Availability
from jfedsl.engine.rounds import sent_bytes
from jfedsl.errors import UserError
from jfedsl.run.assemble import build
from jfedsl.wireless.radio import Conditions


@pytest.mark.parametrize("share", [slow(0.0), 0.5, slow(1.0)])
def test_with_one_client_it_is_fedsl(share: float) -> None:
    same = {"clients": 1, "local_steps": 3, "norm": "group"}
    _, state, run = setup(algorithm="broadcast", broadcast_share=share, **same)
    _, other, split = setup(**same)
    assert_close(run(state)[0].aggregator, split(other)[0].aggregator)


def test_client_parts_stay_equal_where_inputs_are():
    e, state, _ = setup(algorithm="broadcast", dropout_rate=0.3, cut_gradient_bits=4)
    # All draw the mini-batches and the dropout masks of the first client.
    clients = state.clients.replace(number=jnp.zeros_like(state.clients.number))
    x = exchange_of(e, state)
    x = x._replace(client_keys=jnp.repeat(x.client_keys[:1], 4))
    after = jax.jit(lambda: e.spec.algorithm.exchange(x, state.server, clients))().clients
    for leaf in jax.tree.leaves(after.params):
        assert_equal(leaf, np.broadcast_to(leaf[:1], leaf.shape))
    assert differs(after.params, state.clients.params)


def test_every_client_steps_on_the_mean_gradient_of_the_shared_positions():
    changes = {"aggregation": "examples", "partition": "quantity", "cut": "flatten", "norm": "none"}
    captured = {}
    fails = {"network": "macro_cell", "outage_snr_db": -50.0}
    e, state, _ = setup(algorithm="broadcast", broadcast_share=0.5, **changes, **fails)
    twin, other, _ = setup(**changes)

    def answers(experiment, state, availability=None):
        """Gradients at the cut as clients get them: with no layers before it, through the vjp."""
        x = exchange_of(experiment, state)._replace(availability=availability)
        captured["weights"] = x.weights
        seen = []
        from jfedsl.engine import client_step as module

        forward = module.client_forward
        algorithm = experiment.spec.algorithm
        scope = algorithm.exchange.__globals__

        def spy(x, clients, inputs):
            clients, y, vjp = forward(x, clients, inputs)

            def recorded(gradient):
                seen.append(gradient)
                return vjp(gradient)

            return clients, y, recorded

        kept, scope["client_forward"] = scope["client_forward"], spy
        try:
            algorithm.exchange(x, state.server, state.clients)
        finally:
            scope["client_forward"] = kept
        return np.asarray(seen[0])

    exact, shared = answers(twin, other), answers(e, state)
    mean = np.tensordot(np.asarray(captured["weights"]), exact, 1)
    assert_close(shared[:, :4], np.broadcast_to(mean[:4], (4, 4, *mean.shape[1:])))
    assert_equal(shared[:, 4:], exact[:, 4:])
    assert len(set(np.asarray(captured["weights"]).tolist())) > 1
    # A client that is out of reach has no part in the mean of the others.
    reachable, ones = np.arange(4) != 2, jnp.ones(4)
    conditions = Conditions(ones, ones, ones, ones, jnp.asarray(reachable), ones, ones)
    shared = answers(e, state, Availability(jnp.ones(4, bool), conditions))
    weights = np.asarray(captured["weights"]) * reachable
    mean = np.tensordot(weights / weights.sum(), exact[:, :4], 1)
    assert_close(shared[:, :4], np.broadcast_to(mean, (4, *mean.shape)))


def test_one_message_for_all_counts_once():
    e = build(plain(algorithm="broadcast", broadcast_share=0.75, local_steps=2, network="none"))
    record = jax.device_get(e.rounds(1)(e.data, e.key, e.init(), 1)[1])
    entries = 256 * 4
    assert (record.sent["shared_gradient_down"] == 6 * entries).all()
    assert (record.sent["cut_gradient_down"] == 2 * entries).all()
    total = sent_bytes(e.spec, record, 0)
    assert total["shared_gradient_down"] == 2 * 6 * entries
    assert total["cut_gradient_down"] == 2 * 4 * 2 * entries


def test_compressors_that_differ_between_clients_are_refused():
    with pytest.raises(UserError, match="--cut_gradient must be the same for all clients with"):
        Config(algorithm="broadcast", clients=2, cut_gradient_bits="4,8")
    with pytest.raises(
        UserError, match=r"--cut_gradient must be a chain without feedback\(...\) or"
    ):
        Config(algorithm="broadcast", cut_gradient="feedback(topk(0.1))")
    with pytest.raises(UserError, match=r"--broadcast_share must be a number in \[0, 1\], not 1.5"):
        Config(algorithm="broadcast", broadcast_share=1.5)
