"""Costs of rounds whose server does not wait for all, from its schedule, without training."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from jfedsl.engine.conditions import round_conditions
from jfedsl.engine.message_sizes import AFTER_RAMPS
from jfedsl.engine.participants import first_participants
from jfedsl.engine.state import RunSpec
from jfedsl.planner.expected import SAMPLED_ROUNDS, PeriodStart, as_sampled
from jfedsl.wireless.arrival_cost import cost_of_steps
from jfedsl.wireless.schedule import MessageBits, Rules, first_schedule, steps_of_round


def waiting_costs(
    spec: RunSpec, key: Array, start: PeriodStart, messages: tuple[Array, Array], periods: Array,
    quorum: int, most_missed: int,
) -> tuple[Array, Array]:  # fmt: skip
    """Mean seconds and joules of a round of every setting, once clients no longer keep step.

    A period of a client takes about clients / quorum times as many rounds as one of the server. So
    that many rounds, and at least `SAMPLED_ROUNDS`, are left out at the start, and as many again
    are averaged over. The first `SAMPLED_ROUNDS` of these fade as those of `costs`, with the same
    limits. The means are those of a step, times the steps of a round.

    Args:
      spec: of any of the settings, with a radio; all clients take part.
      key: run key.
      start: of a period.
      messages: bits of each client's activation and of its gradient at the cut, `[n, C]` each.
      periods: rounds in an aggregation period, int32 `[n]`.
      quorum: messages of a step.
      most_missed: steps that a client may miss in a row; 0 for any number.

    Returns:
      Seconds and joules, float32 `[n]` each.
    """
    radio, ids = spec.radio, first_participants(spec)
    assert radio is not None
    several = -(-spec.clients * periods // quorum)
    rounds = jnp.maximum(SAMPLED_ROUNDS, several).astype(jnp.int32)

    def of_setting(start: PeriodStart, up: Array, down: Array, period: Array, rounds: Array) -> Any:
        setting = as_sampled(spec, up)
        clients = jax.tree.map(lambda x: x[ids], start.clients)
        sizes = MessageBits(up[ids], down[ids], start.model_up[ids], start.model_down[ids])
        rules = Rules(quorum, most_missed, spec.local_steps, period)

        def one_round(i: Array, carry: tuple[Any, Array]) -> tuple[Any, Array]:
            number = AFTER_RAMPS - rounds + i
            conditions = round_conditions(setting, key, number, ids, clients)
            schedule, steps = steps_of_round(rules, radio, sizes, conditions, i, carry[0])
            cost = cost_of_steps(radio, ids, steps)
            joules = jnp.sum(cost.compute_joules + cost.transmit_joules)
            count = jnp.sum(jnp.any(steps.taken, axis=1), dtype=jnp.float32)
            sums = jnp.stack([cost.seconds, joules, count])
            return schedule, carry[1] + jnp.where(i < rounds, 0.0, sums)

        first = first_schedule(spec.clients), jnp.zeros(3)
        seconds, joules, count = lax.fori_loop(0, 2 * rounds, one_round, first)[1]
        steps = spec.local_steps + 1 / period
        return seconds / count * steps, joules / count * steps

    @jax.jit
    def of_settings(start: PeriodStart, *rows: Array) -> Any:
        return lax.map(lambda row: of_setting(start, *row), rows)

    seconds, joules = of_settings(start, *messages, periods, rounds)
    return seconds, joules
