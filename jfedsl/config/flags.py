"""The config of a run as absl command-line flags, one a field."""

import dataclasses
from typing import Any

from absl import flags

from jfedsl.config import Config, shown
from jfedsl.config.allowed import ANY, FOLDER
from jfedsl.config.values import Kind, kinds


class _Parser(flags.ArgumentParser):
    """Leaves what was typed to `Config`, which reads it."""

    def __init__(self, kind: Kind) -> None:
        self._kind = kind

    def parse(self, argument: Any) -> Any:
        return argument

    def flag_type(self) -> str:
        names = {int: "whole number", float: "number", str: "text"}
        return "numbers" if self._kind.several else names[self._kind.of]


class _TrueOrFalse(flags.BooleanParser):
    def parse(self, argument: Any) -> bool:
        try:
            return bool(super().parse(argument))
        except (ValueError, TypeError):
            raise ValueError("must be true or false") from None


class _Serializer(flags.ArgumentSerializer):
    def serialize(self, value: Any) -> str:
        return shown(value)


def define_flags(flag_values: flags.FlagValues = flags.FLAGS) -> None:
    """Defines one absl flag for each field of `Config`."""
    for field in dataclasses.fields(Config):
        allowed, kind = field.metadata["allowed"], kinds(Config)[field.name]
        text = field.metadata["help"]
        if allowed not in (ANY, FOLDER):
            text += f" Allowed: {allowed.text}."
        if kind.of is bool:
            flag = flags.BooleanFlag(field.name, bool(field.default), text)
            flag.parser = _TrueOrFalse()
            flags.DEFINE_flag(flag, flag_values)
            continue
        flags.DEFINE(_Parser(kind), field.name, field.default, text, flag_values, _Serializer())


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
    """Makes the settings of a config the defaults of their flags.

    A setting that has its default stays open, as the default may depend on other flags.
    """
    usual = Config()
    for field in dataclasses.fields(Config):
        value = getattr(config, field.name)
        is_usual = value == getattr(usual, field.name)
        flag_values.set_default(field.name, field.default if is_usual else value)
