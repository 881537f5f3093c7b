"""The config of a run as absl command-line flags, one a field."""

import dataclasses
import types
from typing import Any, Union, get_args, get_origin, get_type_hints

from absl import flags

from jfedsl.allowed import ANY, Allowed, OneOf
from jfedsl.config import Config, shown


class _Parser(flags.ArgumentParser):
    """Reads a number, or several with commas, and says what is allowed where it cannot."""

    def __init__(self, kind: type, allowed: Allowed | OneOf) -> None:
        self._kind, self._allowed = kind, allowed

    def parse(self, argument: Any) -> Any:
        if not isinstance(argument, str):
            return argument
        try:
            if get_origin(self._kind) is tuple:
                return tuple(float(part) for part in argument.split(","))
            return self._kind(argument)
        except ValueError:
            raise ValueError(f"allowed is {self._allowed.text}") from None

    def flag_type(self) -> str:
        return {int: "whole number", float: "number", str: "text"}.get(self._kind, "numbers")


class _Serializer(flags.ArgumentSerializer):
    def serialize(self, value: Any) -> str:
        return shown(value)


def define_flags(flag_values: flags.FlagValues = flags.FLAGS) -> None:
    """Defines one absl flag for each field of `Config`."""
    hints = get_type_hints(Config)
    for field in dataclasses.fields(Config):
        allowed = field.metadata["allowed"]
        text = field.metadata["help"]
        if allowed is not ANY:
            text += f" Allowed: {allowed.text}."
        kind = hints[field.name]
        if get_origin(kind) in (Union, types.UnionType):
            kind = get_args(kind)[0]
        if kind is bool:
            flags.DEFINE_boolean(field.name, bool(field.default), text, flag_values)
            continue
        parser = _Parser(kind, allowed)
        flags.DEFINE(parser, field.name, field.default, text, flag_values, _Serializer())


def from_flags(flag_values: flags.FlagValues = flags.FLAGS) -> Config:
    """The config that the parsed flags describe.

    Raises:
      UserError: a value is not allowed.
    """
    values: dict[str, Any] = {
        field.name: flag_values[field.name].value for field in dataclasses.fields(Config)
    }
    return Config(**values)


def set_defaults(config: Config, flag_values: flags.FlagValues = flags.FLAGS) -> None:
    """Makes the settings of a config the defaults of their flags."""
    for field in dataclasses.fields(Config):
        flag_values.set_default(field.name, getattr(config, field.name))
