"""What `--adapter` and `--client_adapter` say, such as `lora(rank=8,alpha=16,on=q+v)`."""

import re
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from jfedsl import per_client
from jfedsl.config.allowed import Allowed
from jfedsl.models.transformers.adapter import ALL, PROJECTIONS, Adapter
from jfedsl.per_client import PerClient

AVERAGINGS = ("avg", "freeze", "stack", "svd")
_MOST_RANK = 4096
SPREADS = ("even", "by_resource")  # of a range of ranks over clients
_DEFAULTS = {"rank": "8", "alpha": "", "on": "q+v", "norms": "no", "spread": SPREADS[0]}


class AdapterText(NamedTuple):
    """An adapter as a flag says it.

    Attributes:
      kind: none, full or lora.
      ranks: r of one client or of all.
      alpha: the product of the factors is multiplied by alpha / r, with r the largest rank.
      on: names of the projections, or `ALL`.
      norms: whether normalisation is trained too.
      spread: one of `SPREADS`: a range over clients in a random order, or by what they can compute.
    """

    kind: str
    ranks: PerClient = PerClient((0.0,))
    alpha: float = 1.0
    on: tuple[str, ...] = ()
    norms: bool = False
    spread: str = SPREADS[0]


def parse(text: str) -> AdapterText | None:
    """What a text says; None for one that is no adapter.

    >>> parse("lora(rank=4)")
    AdapterText(kind='lora', ranks=PerClient(values=(4.0,), is_range=False), alpha=8.0, \
on=('q', 'v'), norms=False, spread='even')
    >>> parse("lora(8,on=all)").on
    ('all',)
    """
    if text in ("none", "full"):
        return AdapterText(text)
    called = re.fullmatch(r"\s*lora\s*(?:\((.*)\))?\s*", text)
    if called is None:
        return None
    arguments = _arguments(called[1] or "")
    if arguments is None:
        return None
    listed = re.fullmatch(r"\[(.*)\]|([^\[\],]*)", arguments["rank"])
    ranks = None if listed is None else per_client.parse(listed[1] or listed[2] or "")
    on = tuple(name.strip() for name in arguments["on"].split("+"))
    norms = {"yes": True, "no": False}.get(arguments["norms"])
    if ranks is None or norms is None or not _suit(ranks, on):
        return None
    spread = arguments["spread"]
    if spread not in SPREADS or (spread != SPREADS[0] and not ranks.is_range):
        return None
    alpha = per_client.parse(arguments["alpha"] or str(2 * max(1.0, *ranks.values)))
    if alpha is None or len(alpha.values) != 1 or not 0 < alpha.values[0] < float("inf"):
        return None
    return AdapterText("lora", ranks, alpha.values[0], on, norms, spread)


def _arguments(text: str) -> dict[str, str] | None:
    """Arguments by name, those that are not given as in `_DEFAULTS`."""
    given: dict[str, str] = {}
    pieces = re.split(r",(?![^\[]*\])", text) if text.strip() else []
    for position, piece in enumerate(pieces):
        name, equals, value = (part.strip() for part in piece.partition("="))
        if not equals:
            if position >= len(_DEFAULTS) or any("=" in before for before in pieces[:position]):
                return None
            name, value = list(_DEFAULTS)[position], name
        if name not in _DEFAULTS or name in given or not value:
            return None
        given[name] = value
    return _DEFAULTS | given


def _suit(ranks: PerClient, on: tuple[str, ...]) -> bool:
    whole = all(0 <= value <= _MOST_RANK and value == int(value) for value in ranks.values)
    named = set(on) <= set(PROJECTIONS) and len(set(on)) == len(on)
    return whole and (named or on == (ALL,))


ADAPTER = Allowed(
    "full, none or lora(rank=8,alpha=16,on=q+v,norms=no), with ranks from 0 to "
    f"{_MOST_RANK} (one, [4,8,8] for each client, or a range 2-8, with spread=by_resource by "
    f"what clients can compute) on {'+'.join(PROJECTIONS)}, or {ALL}",
    lambda text: parse(text) is not None,
)


class Adapters(NamedTuple):
    """What is trained of a pretrained model.

    Attributes:
      client: of the layers before the cut, with the largest rank that any client has.
      server: of the layers after it.
    """

    client: Adapter
    server: Adapter


def adapters_of(config: Any) -> Adapters:
    """What is trained on either side, as the flags of a config say it."""
    of_server, of_client = parse(config.adapter), of_clients(config)
    assert of_server is not None  # the config has checked it
    fixed = config.adapter_averaging == "freeze"
    return Adapters(_adapter(config, of_client, fixed), _adapter(config, of_server))


def client_ranks(config: Any, capacities: Callable[[], np.ndarray]) -> np.ndarray:
    """The rank of each client's adapters, int `[C]`, where clients have `lora(...)`.

    Args:
      config: all settings of the run.
      capacities: makes what each client can compute relative to the others, in (0, 1], `[C]`; only
        for ranks by resource.
    """
    text = of_clients(config)
    if text.spread == "even":
        return np.rint(text.ranks.spread(config.clients, config.device_seed)).astype(int)
    least, most = text.ranks.values
    return np.rint(least + (most - least) * capacities()).astype(int)


def of_clients(config: Any) -> AdapterText:
    """What the flags of a config say of clients."""
    text = parse(config.adapter if config.client_adapter is None else config.client_adapter)
    assert text is not None  # the config has checked it
    return text


def has_adapters(config: Any) -> bool:
    """Whether clients' layers are those of a pretrained model whose kernels are frozen."""
    return bool(config.pretrained) and of_clients(config).kind != "full"


def clients_have_lora(config: Any) -> bool:
    """Whether clients' layers have low-rank adapters."""
    return bool(config.pretrained) and of_clients(config).kind == "lora"


def by_resource(config: Any) -> bool:
    """Whether the ranks of clients' adapters depend on what they can compute."""
    return bool(config.pretrained) and of_clients(config).spread == "by_resource"


def _adapter(config: Any, text: AdapterText, fixed: bool = False) -> Adapter:
    rank = int(max(text.ranks.values))
    return Adapter(text.kind, rank, text.alpha, text.on, text.norms, config.base, fixed)
