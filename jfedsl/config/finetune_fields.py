"""The settings of fine-tuning a pretrained model, a part of `Config`."""

import dataclasses

from jfedsl.config.adapters import ADAPTER, AVERAGINGS
from jfedsl.config.allowed import COUNT, OneOf, setting
from jfedsl.nn.weight_only import STORAGES


@dataclasses.dataclass(frozen=True)
class FinetuneFields:
    """Settings of a pretrained transformer and of what is trained of it."""

    pretrained: str = setting(
        "", "Pretrained transformer to train in place of --model: a folder of Hugging Face's "
        "layout, a .gguf file, package:NAME for the model in a Python package, or a name on the "
        "hub. A folder with config.json alone is a model of that shape with random weights.",
        may_change_on_resume=True,
    )  # fmt: skip
    tokens: int = setting(
        64, "Positions of an example of a text data set, special tokens included. Longer texts are "
        "cut off; --task=next_token divides them into several examples.", COUNT,
    )  # fmt: skip
    adapter: str = setting(
        "lora(rank=8)", "What is trained of --pretrained: all weights (full), low-rank adapters "
        "beside frozen weights, such as lora(rank=8,alpha=16,on=q+v,norms=no), or only the head "
        "(none). Default alpha: twice the rank.", ADAPTER,
    )  # fmt: skip
    client_adapter: str | None = setting(
        None, "The same on clients; default as --adapter. Ranks may differ: lora(rank=[2,4,8]), "
        "lora(rank=2-8). none freezes the clients' part, which then gets no gradient.", ADAPTER,
    )  # fmt: skip
    adapter_averaging: str = setting(
        "avg", "How clients' adapters are averaged: both factors apart (avg); only the second, "
        "the first being fixed and common (freeze); the products of the factors, exactly "
        "(stack) or cut to each client's rank (svd).", OneOf(AVERAGINGS),
    )  # fmt: skip
    base: str = setting(
        "float32", "How the frozen weights of --pretrained are stored.", OneOf(STORAGES)
    )
