"""All settings of a run: fields, flags, checks, and what they come to."""

from jfedsl.config.settings import Config, shown

__all__ = ["Config", "shown"]
