"""FedProx (arXiv 1812.06127): clients are held near the model that they received.

A client trains on f_n(w) + mu/2 ||w - r||^2, with r the model at the start of the period as it
arrived. The gradient of the second term, mu (w - r), is part of the client's gradient: it is there
before `--client_gradient` compresses that, and moments see it. Weights that a client lacks have no
step, and personal layers no r; so neither has the term. The losses that are reported are f_n.
"""

from typing import Any

import jax

from jfedsl.engine.exchange import Exchange
from jfedsl.engine.personal import received_by, shared_part, with_shared
from jfedsl.engine.state import Client


def with_proximal_term(x: Exchange, clients: Client, gradient: Any) -> Any:
    """The gradients of the participants' weights with that of the proximal term.

    Args:
      x: the exchange.
      clients: the participants, `[P, ...]`.
      gradient: of their losses, like their parameters, `[P, ...]`.
    """
    spec, mu = x.spec, x.spec.proximal
    if mu == 0:
        return gradient
    received = received_by(spec, jax.tree.map(lambda w: w[None], x.aggregated), clients)
    shared = jax.tree.map(
        lambda g, w, r: g + mu * (w - r),
        shared_part(spec, gradient), shared_part(spec, clients.params), received,
    )  # fmt: skip
    return with_shared(spec, gradient, shared)
