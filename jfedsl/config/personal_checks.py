"""What personal layers and FedProx cannot go with, and what has no effect beside them."""

from typing import Any

from jfedsl.compression.message import FLOAT_BITS
from jfedsl.config import adapters, compressors, cuts
from jfedsl.config.personal_fields import ADAPTERS, EVERYTHING, NONE
from jfedsl.errors import conflict, flag_error, no_effect

_BOUND = "the convergence bound is of one model for all clients"


def check_personal(config: Any) -> None:
    """Refuses what personal layers and FedProx cannot go with.

    Args:
      config: a `Config`.

    Raises:
      UserError: names the flag, its value and what is allowed.
    """
    every = config.measure_constants_every
    if config.proximal and every:
        reason = "the convergence bound is of steps without this term"
        raise conflict("proximal", config.proximal, f"--measure_constants_every={every}", reason)
    if config.personal == NONE:
        return
    flag = _flag(config)
    if config.personal == ADAPTERS and not adapters.clients_have_lora(config):
        allowed = "none, all or names of layers where clients have no --pretrained lora(...)"
        raise flag_error("personal", ADAPTERS[0], allowed)
    _averaging(config, flag)
    if cuts.parse(config.cut or "").differs:
        reason = "a layer between two cuts is at the server too"
        raise conflict("cut", config.cut, flag, reason)
    if config.client_state == "stateless":
        reason = "a stateless client keeps nothing while it does not take part"
        raise conflict("client_state", config.client_state, flag, reason)
    if config.measure_constants_every:
        raise conflict("measure_constants_every", every, flag, _BOUND)
    if config.client_optimizer_state != "keep":
        reason = "moments of personal layers stay with their client"
        raise flag_error(
            "client_optimizer_state", config.client_optimizer_state, f"keep with {flag}",
            reason=reason,
        )  # fmt: skip
    if config.coordinator and config.collective_bits != FLOAT_BITS:
        raise flag_error("collective_bits", config.collective_bits, f"{FLOAT_BITS} with {flag}")
    _pruning(config, flag)


def _averaging(config: Any, flag: str) -> None:
    """Refuses averages of adapters that would need all of them, or that nobody takes."""
    kind = config.adapter_averaging
    if not adapters.clients_have_lora(config) or kind == "avg":
        return
    if "adapter_averaging" in idle_beside(config):
        raise no_effect("adapter_averaging", kind, f"with {flag}")
    if kind != "freeze":
        raise flag_error("adapter_averaging", kind, f"avg or freeze with {flag}")


def _pruning(config: Any, flag: str) -> None:
    """Personal layers are not pruned: the aggregator, which ranks weights, does not have them."""
    allowed = "none" if config.personal == EVERYTHING else "none or mask"
    if config.pruning not in allowed.split(" or "):
        reason = "personal layers are not pruned"
        if config.personal != EVERYTHING:
            reason += ", and a removed channel would take part of the layer behind it away"
        raise flag_error("prune_kind", config.pruning, f"{allowed} with {flag}", reason=reason)


def idle_beside(config: Any) -> dict[str, str]:
    """Settings without effect beside personal layers and FedProx's, by name, with the reason."""
    reasons = {}
    if config.local_steps == config.aggregate_every == 1:
        # A client is where it was when it received the model.
        reasons["proximal"] = "with --local_steps=1 and --aggregate_every=1"
    names: list[str] = []
    if config.personal == EVERYTHING:
        streams = ("model_up", "model_down")
        names = [*streams, *(n for s in streams for n in compressors.SHORTHANDS.get(s, ()))]
        names += ["batch_norm_statistics", "proximal"]
    if config.personal in (EVERYTHING, ADAPTERS):
        names.append("adapter_averaging")
    return reasons | dict.fromkeys(names, f"with {_flag(config)}")


def _flag(config: Any) -> str:
    return f"--personal={','.join(config.personal)}"
