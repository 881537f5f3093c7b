"""All settings of a run: fields, flags, checks, and what they come to."""

from jfedsl.config.settings import Config
from jfedsl.config.values import shown

__all__ = ["Config", "shown"]
