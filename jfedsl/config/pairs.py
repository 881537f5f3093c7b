"""Which features go with which algorithm, as a config accepts or refuses them."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from jfedsl.algorithms.registry import ALGORITHMS
from jfedsl.config import Config, shown
from jfedsl.config.algorithm_fields import STREAMS
from jfedsl.config.canonical import refuse_idle
from jfedsl.config.checks import one_device
from jfedsl.errors import UserError

CLIENTS = 4


class Feature(NamedTuple):
    """Something that a run may have whatever its algorithm.

    Attributes:
      title: what it is.
      flags: the settings that switch it on, for `CLIENTS` clients.
      beside: settings without which these have no effect.
    """

    title: str
    flags: Mapping[str, Any]
    beside: Mapping[str, Any] = {}


_SOME: dict[str, Any] = {"participants": CLIENTS // 2}
_TRANSFORMER = {"pretrained": "FOLDER"}
_WIDTHS = (0.0, *[0.5] * (CLIENTS - 1))
_PROCESSES = {"coordinator": "HOST:1234", "processes": 2, "process": 0}

FEATURES: tuple[Feature, ...] = (
    Feature("dropout at the cut", {"dropout_rate": "0.2"}),
    *(Feature(f"compressor of `{flag}`", {flag: "uniform(8)"}) for flag in STREAMS),
    *(Feature(f"error feedback on `{flag}`", {flag: "feedback(topk(0.1))"}) for flag in STREAMS),
    Feature("masks of weights", {"prune_kind": "mask"}),
    Feature("channels removed", {"prune_kind": "channel"}),
    Feature("widths by client", {"prune_rate": _WIDTHS}, {"prune_kind": "channel"}),
    Feature("cuts by client", {"cut": "pool1,pool2,pool1,pool2"}, {"model": "cnn"}),
    Feature("low-rank adapters", {"adapter": "lora(rank=2)"}, _TRANSFORMER),
    Feature("ranks by client", {"client_adapter": "lora(rank=1-2)"}, _TRANSFORMER),
    Feature("frozen clients", {"client_adapter": "none"}, _TRANSFORMER),
    Feature("batch norm", {"norm": "batch"}),
    Feature(
        "batch norm, statistics of each client",
        {"batch_norm_statistics": "local"},
        {"norm": "batch"},
    ),
    Feature("personal layers", {"personal": "all"}),
    Feature("FedProx", {"proximal": 0.1}),
    Feature("partial participation", _SOME),
    Feature("absent clients on the host", {"client_state": "host"}, _SOME),
    Feature("stateless clients", {"client_state": "stateless"}, _SOME),
    Feature("several devices", {"devices": 2}),
    Feature("several processes", _PROCESSES, {"workdir": "FOLDER"}),
    Feature("bandwidth by `minmax`", {"allocation": "minmax"}),
    Feature("outage", {"outage_snr_db": 5.0}),
    Feature("deadline", {"deadline_s": 1.0}),
    Feature("convergence bound", {"measure_constants_every": 2}),
)


def config_with(algorithm: str, feature: Feature, **changes: Any) -> Config:
    """The config of a run that has a feature, with the checks that are made before data is loaded.

    Args:
      algorithm: its name.
      feature: that it has.
      changes: other settings.

    Raises:
      UserError: the feature has no effect with the algorithm, or cannot be combined with it.
    """
    settings = {"clients": CLIENTS, **feature.beside, **feature.flags, **changes}
    config = Config(algorithm=algorithm, **settings)
    refuse_idle([config])
    one_device(config, config.processes or 1)
    return config


def refusal(algorithm: str, feature: Feature) -> str | None:
    """The error of a run that has a feature, on one line; None where the two go together."""
    try:
        config_with(algorithm, feature)
    except UserError as error:
        return str(error)
    return None


def pair_tables() -> str:
    """All features by all algorithms, and below the errors of those that do not go together."""
    names = list(ALGORITHMS)
    rows, reasons = [], []
    for feature in FEATURES:
        refused = {name: refusal(name, feature) for name in names}
        cells = ("yes" if refused[name] is None else "no" for name in names)
        rows.append(f"| {_label(feature)} | {' | '.join(cells)} |")
        reasons += _reasons(feature, refused)
    head = f"| feature | {' | '.join(f'`{name}`' for name in names)} |"
    titles = "| feature | algorithms | error |"
    tables = [head, _rule(head), *rows, "", "## Why not", "", titles, _rule(titles), *reasons]
    return "\n".join(tables)


def _label(feature: Feature) -> str:
    flags, beside = (
        " ".join(f"--{name}={shown(value)}" for name, value in settings.items())
        for settings in (feature.flags, feature.beside)
    )
    return f"{feature.title}: `{flags}`" + (f" with `{beside}`" if beside else "")


def _reasons(feature: Feature, refused: Mapping[str, str | None]) -> list[str]:
    """Rows of the errors of a feature, one for all algorithms whose errors differ in names only."""
    by_text: dict[str, list[str]] = {}
    for name, text in refused.items():
        if text is not None:
            common = text.replace(f"--algorithm={name}", "--algorithm=NAME")
            by_text.setdefault(common, []).append(f"`{name}`")
    return [
        f"| {feature.title} | {', '.join(names)} | `{text}` |" for text, names in by_text.items()
    ]


def _rule(head: str) -> str:
    return "|" + " --- |" * (head.count("|") - 1)
