"""Options of XLA with which a round compiles faster on a CPU."""

from collections.abc import Mapping
from functools import cache
from typing import Any

import jax

from jfedsl.sharding.client_map import has_convolutions

# LLVM optimizes less, and XLA writes the code of its small programs by an older and faster way.
_FASTER: Mapping[str, bool | int] = {
    "xla_cpu_use_fusion_emitters": False,
    "xla_backend_optimization_level": 2,
}


def options_for(platform: str, params: Any) -> dict[str, bool | int]:
    """What `jax.jit` is given as `compiler_options` for the rounds of a model.

    Fast forms of convolutions are dozens of small programs each, and what they compute is hardly
    slower with less optimization. Other models compile fast, and their steps would be slower.

    Args:
      platform: cpu, gpu or tpu.
      params: parameters of the whole model; leaves `[KH, KW, Cin, Cout]` are convolutions.

    Returns:
      The options by name; none where there is nothing to gain, where JAX is set to optimize even
      less, and where this version of XLA lacks one of them, as that of jax 0.12 does.
    """
    less = jax.config.values["jax_disable_most_optimizations"]
    if platform != "cpu" or less or not has_convolutions(params):
        return {}
    return dict(_FASTER) if _are_known(tuple(_FASTER.items())) else {}


@cache
def _are_known(options: tuple[tuple[str, bool | int], ...]) -> bool:
    """Whether XLA compiles with these options."""
    try:
        jax.jit(lambda: 0, compiler_options=dict(options)).lower().compile()
    except jax.errors.JaxRuntimeError:  # of a name that it does not know
        return False
    return True
