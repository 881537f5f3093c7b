"""Which layers of clients are personal, once the model is known."""

import jax

from jfedsl.config import Config, shown
from jfedsl.config.personal_fields import ADAPTERS, EVERYTHING, NONE
from jfedsl.engine.adapter_averaging import adapters_of
from jfedsl.engine.parts import client_part
from jfedsl.engine.personal import Personal, personal_part, shared_part
from jfedsl.engine.state import Client, RunSpec
from jfedsl.errors import flag_error


def with_personal(config: Config, spec: RunSpec, client: Client) -> RunSpec:
    """The run with the personal layers that a config names.

    Args:
      config: all settings of the run.
      spec: of the run, with its auxiliary layers and adapters.
      client: of the run without personal layers, arrays or shapes.

    Raises:
      UserError: clients hold no such layer with parameters.
    """
    if config.personal == NONE:
        return spec
    held = [layer.name for layer in client_part(spec, spec.model) + spec.auxiliary]
    trained = [bool(jax.tree.leaves(params)) for params in client.params]
    names = [name for name, has_any in zip(held, trained, strict=True) if has_any]
    if not names:
        allowed = "none where clients' layers have no parameters"
        raise flag_error("personal", shown(config.personal), allowed)
    if config.personal == ADAPTERS:
        spec = spec._replace(personal=Personal(adapters=True))
    elif config.personal == EVERYTHING:
        spec = spec._replace(personal=Personal(frozenset(range(len(held)))))
    else:
        unknown = [name for name in config.personal if name not in names]
        if unknown:
            allowed = f"none, all or some of {', '.join(names)}, separated by commas"
            raise flag_error("personal", unknown[0], allowed, names)
        chosen = (n for n, name in enumerate(held) if name in config.personal)
        spec = spec._replace(personal=Personal(frozenset(chosen)))
    shares_adapters = config.personal != ADAPTERS and adapters_of(shared_part(spec, client.params))
    return spec if shares_adapters else spec._replace(adapters=None)


def notes_on_personal(spec: RunSpec, client: Client) -> list[str]:
    """A line on what is personal, if anything is.

    Args:
      spec: of the run.
      client: of the run, arrays or shapes.
    """
    if spec.personal is None:
        return []
    whole, part = (
        sum(leaf.size for leaf in jax.tree.leaves(tree))
        for tree in (client.params, personal_part(spec, client.params))
    )
    return [f"personal: {part:,} of the {whole:,} parameters that each client trains"]
