"""The flags of a run by topic, and the few that matter first."""

import dataclasses

from jfedsl.config import Config
from jfedsl.config.algorithm_fields import STREAMS, AlgorithmFields
from jfedsl.config.compressors import flags as compressor_flags
from jfedsl.config.data_fields import DataFields
from jfedsl.config.finetune_fields import FinetuneFields
from jfedsl.config.personal_fields import PersonalFields
from jfedsl.config.pruning_fields import PruningFields
from jfedsl.config.scale_fields import ScaleFields
from jfedsl.config.task_fields import TaskFields
from jfedsl.config.wireless_fields import WirelessFields

# What a first look at the flags shows.
MAIN_FLAGS = {
    "data": ("dataset", "clients", "partition"),
    "model and cut": ("model", "cut"),
    "pruning": ("prune_rate",),
    "compression": ("dropout_rate", "cut_gradient_bits"),
    "training": ("algorithm", "rounds", "client_learning_rate", "server_learning_rate"),
    "run": ("workdir", "seed"),
}
_TRAINING = (
    "algorithm", "rounds", "local_steps", "batch_size", "sampling", "participants",
    "aggregate_every", "aggregation", "batch_norm_statistics", "optimizer",
    "client_optimizer_state", "client_backward", "client_learning_rate", "server_learning_rate",
    "momentum", "weight_decay", "learning_rate_schedule",
)  # fmt: skip


def flags_by_topic() -> dict[str, tuple[str, ...]]:
    """The names of all flags of a run by topic; what has no topic of its own is part of `run`."""
    compression = (*compressor_flags(), "quantizer", "bucket_size")
    options = (name for name in _names(AlgorithmFields) if name not in STREAMS)
    wanted = {
        "data": _names(DataFields),
        "task": _names(TaskFields),
        "model and cut": ("model", "norm", "cut", "init_from"),
        "fine-tuning": _names(FinetuneFields),
        "pruning": _names(PruningFields),
        "compression": compression,
        "training": (*_TRAINING, *_names(PersonalFields), *options),
        "wireless network": _names(WirelessFields),
        "devices and memory": _names(ScaleFields),
    }
    listed = {name for names in wanted.values() for name in names}
    return {**wanted, "run": tuple(name for name in _names(Config) if name not in listed)}


def _names(settings: type) -> tuple[str, ...]:
    return tuple(field.name for field in dataclasses.fields(settings))
