"""The training algorithms by the names that `--algorithm` takes."""

from jfedsl.algorithms import (
    broadcast,
    centralized,
    fedavg,
    fedsl,
    hierarchical,
    local_loss,
    sage,
    semi_async,
    sfl_v1,
    sfl_v2,
    sl,
    u_shape,
)
from jfedsl.engine.algorithm import Algorithm

ALGORITHMS: dict[str, Algorithm] = {
    "fedsl": fedsl.ALGORITHM,
    "sfl_v1": sfl_v1.ALGORITHM,
    "sfl_v2": sfl_v2.ALGORITHM,
    "sl": sl.ALGORITHM,
    "fedavg": fedavg.ALGORITHM,
    "centralized": centralized.ALGORITHM,
    "local_loss": local_loss.ALGORITHM,
    "sage": sage.ALGORITHM,
    "broadcast": broadcast.ALGORITHM,
    "u_shape": u_shape.ALGORITHM,
    "hierarchical": hierarchical.ALGORITHM,
    "semi_async": semi_async.ALGORITHM,
}
