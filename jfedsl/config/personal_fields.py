"""The settings of personal layers and of FedProx, a part of `Config`."""

import dataclasses

from jfedsl.config.allowed import NOT_NEGATIVE, Allowed, setting

NONE, EVERYTHING, ADAPTERS = ("none",), ("all",), ("adapters",)
_WORDS = NONE + EVERYTHING + ADAPTERS
PERSONAL = Allowed(
    "none, all, adapters, or names of layers that clients hold, separated by commas, each once",
    lambda names: (
        names in (NONE, EVERYTHING, ADAPTERS)
        or (bool(names) and len(set(names)) == len(names) and all(n not in _WORDS for n in names))
    ),
    _WORDS,
)


@dataclasses.dataclass(frozen=True)
class PersonalFields:
    """Settings of what clients keep to themselves, and of how far they go from the common model."""

    personal: tuple[str, ...] = setting(
        NONE, "Layers of clients that are never sent nor averaged: none, all that clients hold, "
        "their low-rank adapters, or layers by name, as conv1,conv2.", PERSONAL,
    )  # fmt: skip
    proximal: float = setting(
        0.0, "mu of FedProx: mu / 2 times the squared distance from the model that a client "
        "received is added to its loss.", NOT_NEGATIVE,
    )  # fmt: skip
