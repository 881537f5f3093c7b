"""What a traced program says before it is compiled."""

from jax.extend.core import Jaxpr, jaxprs_in_params
from jax.interpreters import partial_eval


def grouped_convolutions(jaxpr: Jaxpr) -> int:
    """How many convolutions compute groups of channels or examples apart.

    Compilers rewrite such convolutions in ways of their own, so that a compiled program does not
    show them. What no result depends on is left out, as compilers do.

    Args:
      jaxpr: of the program.
    """
    live = partial_eval.dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars), instantiate=True)[0]
    count = 0
    for equation in live.eqns:
        groups = (equation.params.get(f"{of}_group_count", 1) for of in ("feature", "batch"))
        count += max(groups) > 1
        count += sum(map(grouped_convolutions, jaxprs_in_params(equation.params)))
    return count
