"""Every setting of a run: its default, unit and check; to and from JSON."""

import dataclasses
import json

from jfedsl.algorithms.registry import ALGORITHMS
from jfedsl.compression.expression import Call
from jfedsl.compression.registry import LEAST_BITS
from jfedsl.config import checks, compressors, earlier_builds, plugins, values
from jfedsl.config.adapters import has_adapters
from jfedsl.config.algorithm_fields import STREAMS, AlgorithmFields
from jfedsl.config.allowed import (  # fmt: skip
    BITS,
    COUNT,
    DROPOUT_RATES,
    FOLDER,
    FROM_DATA,
    NOT_NEGATIVE,
    RATE,
    OneOf,
    setting,
    whole,
)
from jfedsl.config.data_fields import CLIENTS, DataFields
from jfedsl.config.figure_fields import FigureFields
from jfedsl.config.finetune_fields import FinetuneFields
from jfedsl.config.personal_fields import EVERYTHING, PersonalFields
from jfedsl.config.pruning_fields import PruningFields
from jfedsl.config.run_fields import RunFields
from jfedsl.config.scale_fields import ScaleFields
from jfedsl.config.task_fields import TaskFields
from jfedsl.config.wireless_fields import WirelessFields
from jfedsl.data import sources
from jfedsl.data.batches import SAMPLINGS
from jfedsl.data.partition import PARTITIONS
from jfedsl.engine.optimizers import OPTIMIZERS, SCHEDULES
from jfedsl.engine.state import AGGREGATIONS, CLIENT_OPTIMIZER_STATES, STATISTICS
from jfedsl.errors import UserError, close_to, flag_error
from jfedsl.files.paths import Name, absolute_if_here, local
from jfedsl.models.blocks import NORMS
from jfedsl.models.registry import MODELS

CLIENT_BACKWARDS = ("float", "int8")

Shorthand = str | float | None


@dataclasses.dataclass(frozen=True)
class Config(
    DataFields, AlgorithmFields, ScaleFields, WirelessFields, PruningFields, TaskFields,
    FinetuneFields, PersonalFields, FigureFields, RunFields,
):  # fmt: skip
    """All settings of a run. A rate is the fraction removed; 32 bits switch a quantizer off."""

    algorithm: str = setting(next(iter(ALGORITHMS)), "Training algorithm.", OneOf(ALGORITHMS))
    workdir: str = setting(
        "",
        "Folder of the run; default a new dated one under runs/.",
        FOLDER,
        may_change_on_resume=True,
    )
    plugin: str = setting(
        "", "Python files (FILE.py) or modules, separated by commas, that add models, data sets "
        "and other entries to their tables.", may_change_on_resume=True,
    )  # fmt: skip
    model: str = setting("cnn", "Model.", OneOf(MODELS))
    norm: str = setting("group", "Normalisation after hidden layers.", OneOf(NORMS))
    cut: str | None = setting(
        None, "Last client-side layer by name, or the number of client-side layers. One for each "
        "client as pool1,pool2,pool2; a range pool1-pool3 spread over clients; by_resource, or "
        "by_resource(pool1-pool3), for the fastest cut that each client's device can hold. "
        "Default by model: " + ", ".join(f"{m} {e.default_cut}" for m, e in MODELS.items()) + ".",
    )  # fmt: skip
    replan_every: int | None = setting(
        None, "Rounds after which --cut=by_resource chooses anew, by measured rates and speeds; a "
        "multiple of --aggregate_every. Default never.", COUNT,
    )  # fmt: skip
    participants: int | None = setting(
        None, "Clients drawn for each aggregation period; default all.", COUNT
    )
    rounds: int = setting(60, "Rounds to train.", COUNT)
    local_steps: int = setting(5, "Exchanges in a round.", COUNT)
    batch_size: int = setting(16, "Examples per client and exchange.", COUNT)
    eval_batch_size: int = setting(500, "Test examples evaluated at once.", COUNT)
    sampling: str = setting(
        "epoch", "Batches drawn without replacement in each client's epoch, or with.",
        OneOf(SAMPLINGS),
    )  # fmt: skip
    smashed: str = setting(
        "", "Compressors of the activation at the cut, uplink, as dropout(0.2)|uniform(8); instead "
        "of --dropout_rate and --smashed_bits. splitfc is the dropout of SplitFC without its "
        "quantizer.",
    )  # fmt: skip
    cut_gradient: str = setting(
        "", "Compressors of the gradient at the cut, downlink; instead of --cut_gradient_bits."
    )
    client_gradient: str = setting(
        "", "Compressors of clients' weight gradients, which stay there; instead of "
        "--client_gradient_bits.",
    )  # fmt: skip
    model_up: str = setting(
        "", "Compressors of clients' model updates, uplink; instead of --model_bits."
    )
    model_down: str = setting(
        "", "Compressors of the model's change since a client last received it, downlink."
    )
    dropout_rate: Shorthand = setting(
        None,
        "Probability that an entry of the activation at the cut is not sent. Default 0.",
        DROPOUT_RATES,
    )  # fmt: skip
    quantizer: str = setting(
        "uniform", "Kind of quantizer that bits choose. Both write codes of fixed length: qsgd has "
        "no Elias coding.", OneOf(LEAST_BITS),
    )  # fmt: skip
    bucket_size: int = setting(
        512,
        "Entries that share the header of a quantizer that bits choose; 0 for whole tensors.",
        whole(0),
    )
    cut_gradient_bits: Shorthand = setting(
        None,
        "Bits an entry of the gradient at the cut, downlink. Default 8 with an algorithm that "
        "compresses by default, else off.",
        BITS,
    )
    client_gradient_bits: Shorthand = setting(
        None,
        "Bits an entry of clients' weight gradients. Default 8 with an algorithm that compresses "
        "by default, else off.",
        BITS,
    )
    smashed_bits: Shorthand = setting(
        None,
        "Bits an entry of the activation at the cut, uplink. Default 8 with an algorithm that "
        "compresses by default, else off.",
        BITS,
    )
    model_bits: Shorthand = setting(
        None, "Bits an entry of clients' model updates, uplink. Default 32.", BITS
    )
    aggregate_every: int = setting(
        2, "Rounds in an aggregation period; 1 with algorithms that hand one model on.", COUNT
    )
    aggregation: str = setting(
        "examples", "Weight clients by their examples, or equally.", OneOf(AGGREGATIONS)
    )
    batch_norm_statistics: str = setting(
        "aggregate", "Client-side statistics with --norm=batch: averaged, or left with clients.",
        OneOf(STATISTICS),
    )  # fmt: skip
    optimizer: str = setting("sgd", "Optimizer of both halves.", OneOf(OPTIMIZERS))
    client_optimizer_state: str = setting(
        "keep", "Clients' optimizer states at the start of a period: keep, reset, or average, "
        "which sends moments and step counters along with the model.",
        OneOf(CLIENT_OPTIMIZER_STATES),
    )  # fmt: skip
    client_backward: str = setting(
        "float", "Arithmetic of products in clients' backward passes; int8 rounds the gradient at "
        "random.", OneOf(CLIENT_BACKWARDS),
    )  # fmt: skip
    client_learning_rate: float = setting(0.05, "Learning rate on clients.", NOT_NEGATIVE)
    server_learning_rate: float = setting(0.05, "Learning rate on the server.", NOT_NEGATIVE)
    momentum: float = setting(0.9, "Momentum of --optimizer=sgd.", RATE)
    weight_decay: float = setting(0.0, "Weight decay, on every parameter.", NOT_NEGATIVE)
    learning_rate_schedule: str = setting(
        "constant", "How learning rates change over the run.", OneOf(SCHEDULES)
    )
    init_from: str = setting(
        "", "Workdir or export of an earlier run whose weights to start from.", FOLDER
    )
    seed: int = setting(
        0,
        "Seed of every random draw, but for those of --network_seed.",
        whole(0, 2**32 - 1),
    )
    eval_every: int = setting(
        5,
        "Rounds between tests, which fall on ends of aggregation periods.",
        COUNT,
        may_change_on_resume=True,
    )
    checkpoint_every: int = setting(
        20, "Rounds between checkpoints.", COUNT, may_change_on_resume=True
    )
    measure_constants_every: int | None = setting(
        None,
        "Rounds between measurements of the bound's constants.",
        COUNT,
        may_change_on_resume=True,
    )

    def __post_init__(self) -> None:
        """Takes every field as the plain value it means; checks it alone and with the others.

        Raises:
          UserError: names the flag, its value and what is allowed.
        """
        plugin = values.read("plugin", self.plugin, values.kinds(Config)["plugin"], "a text")
        object.__setattr__(self, "plugin", plugins.absolute(str(plugin)))
        plugins.load(self.plugin)  # before any value is looked up in a table
        for field in dataclasses.fields(self):
            kind, allowed = values.kinds(Config)[field.name], field.metadata["allowed"]
            value = getattr(self, field.name)
            if value is None and (kind.optional or field.name == "clients"):
                continue
            value = values.read(field.name, value, kind, allowed.text)
            if allowed is FOLDER and value not in ("", field.default):
                value = str(local(field.name, value))
            if field.name == "dataset":
                value = sources.absolute(str(value))
            if field.name == "pretrained":
                value = absolute_if_here("pretrained", str(value))
            if not allowed.test(value):
                text = values.shown(value) if kind.several else value
                raise flag_error(field.name, text, allowed.text, allowed.names)
            object.__setattr__(self, field.name, value)
        if vars(self)["clients"] is None:
            owned = PARTITIONS[self.partition].owned
            object.__setattr__(self, "clients", FROM_DATA if owned else CLIENTS)
        checks.together(self)

    @property
    def compress_by_default(self) -> bool:
        """Whether pruning and compressors have defaults other than none."""
        return self.algorithm in ALGORITHMS and ALGORITHMS[self.algorithm].compress_by_default

    @property
    def device_seed(self) -> int:
        """The seed of what the network draws and of the order of ranges over clients.

        One seed for both: a client with a fast device has high values in all ranges.
        """
        return self.seed if self.network_seed is None else self.network_seed

    @property
    def pruning(self) -> str:
        """What is pruned, one of `PRUNE_KINDS`."""
        by_default = self.compress_by_default and not has_adapters(self)
        by_default = by_default and self.personal != EVERYTHING
        return self.prune_kind or ("mask" if by_default else "none")

    @property
    def expressions(self) -> dict[str, str]:
        """What compresses each stream, by the flag for it."""
        settings = compressors.settings_of(self)
        arguments = (settings, self.quantizer, self.bucket_size, self.compress_by_default)
        return {flag: compressors.expression(flag, *arguments) for flag in STREAMS}

    @property
    def compressors(self) -> dict[str, tuple[Call, ...]]:
        """The compressors of each stream in order, by the flag for them."""
        return {p: compressors.read(p, text, self.clients) for p, text in self.expressions.items()}

    def to_json(self) -> str:
        """All fields as JSON text, and which defaults of compressors None stands for."""
        fields = {**dataclasses.asdict(self), earlier_builds.DEFAULTS: earlier_builds.NOW}
        return json.dumps(fields, indent=2)

    @classmethod
    def from_json(cls, text: str, plugin: Name = "") -> "Config":
        """The config that `to_json` wrote; fields added since get what they were before.

        Args:
          text: as `to_json` wrote it.
          plugin: where its plugins are now, as far as they are not where they were.

        Raises:
          UserError: the text is no config of this program.
        """
        try:
            fields = json.loads(text)
            if not isinstance(fields, dict):
                raise TypeError("it has no settings with names")
            known = [field.name for field in dataclasses.fields(cls)]
            defaults = earlier_builds.defaults_of(fields)
            for name in fields:
                if name not in known:
                    raise TypeError(f"there is no setting {name}{close_to(name, known)}")
            if plugin:
                fields["plugin"] = plugins.moved(str(fields.get("plugin", "")), plugin)
            return earlier_builds.meant(cls(**fields), fields, defaults)
        except (TypeError, json.JSONDecodeError, RecursionError) as error:
            raise UserError(f"not a config of this program: {error}") from error
