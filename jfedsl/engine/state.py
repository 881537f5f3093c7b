"""What a run is (`RunSpec`, fixed) and where it stands (`State`, pytrees)."""

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct
from jax import Array
from jax.typing import DTypeLike
from optax import Schedule

from jfedsl.compression.deployed import Deployed
from jfedsl.data.augment import Augmentation
from jfedsl.data.partition import Partition
from jfedsl.data.pixels import Pixels
from jfedsl.engine.adapter_averaging import AdapterRule, with_kernels
from jfedsl.engine.optimizers import Optimizer
from jfedsl.engine.personal import Personal
from jfedsl.engine.task import Task
from jfedsl.models import layers
from jfedsl.models.layers import Frozen, Model
from jfedsl.pruning.cuts import Cuts
from jfedsl.pruning.pruner import Pruner
from jfedsl.sharding.slots import SlotLayout
from jfedsl.wireless.radio import Deployment, Radio

if TYPE_CHECKING:
    from jfedsl.engine.algorithm import Algorithm

AGGREGATIONS = ("examples", "equal")
STATISTICS = ("aggregate", "local")
CLIENT_OPTIMIZER_STATES = ("keep", "reset", "average")


# By stream (a kind of message): from a client's number to its `Compressor`. None where the weights
# themselves are sent, not their change.
Compressors = dict[str, Any]
# By stream: the state that a client's compressor keeps from one message to the next.
CompressorStates = dict[str, Any]


class RunSpec(NamedTuple):
    """Everything that is fixed in a run: functions and static numbers.

    Attributes:
      model: all layers.
      cut: L_c, the first `cut` layers run on clients.
      tail: the last `tail` layers run on clients too; `engine.parts` divides the model.
      cuts: where they differ between clients, of whom each runs some of the first `cut` layers, and
        the server the others for it; else None.
      compressors: of every stream.
      deployed: what activations pass at inference; None: nothing changes them.
      pruner: of the client-side model.
      adapters: how clients' low-rank adapters are averaged; None where they have none.
      personal: what of clients' layers stays with each of them; None: nothing.
      client_optimizer: applied by every client to its own part.
      client_rate: its learning rate by the number of exchanges before this one.
      proximal: mu, of FedProx's term in clients' gradients, see `engine.proximal`; 0 for none.
      server_optimizer: applied to the server's part.
      positions: T, of inputs that are padded sequences `[T, ...]`; None of others.
      classes: width of the outputs: how many classes, numbers of a target, or token ids.
      clients: C.
      participants: K.
      group_sizes: how many of them are of each of the pruner's groups.
      local_steps: S, exchanges in a round.
      aggregate_every: I, rounds in a period.
      batch_size: B.
      sampling: epoch or replacement.
      aggregation: examples weighs clients by their number of examples, equal does not.
      statistics: what becomes of clients' normalisation statistics: averaged like the model
        (aggregate) or left with the client (local).
      client_optimizer_state: at the start of a period: keep, reset, or average at aggregation,
        moments and step counters, which then travel with the model.
      client_state: where clients' memories are while they do not take part: with the state
        (resident), on the host, or nowhere (stateless).
      collective_bits: of an entry of models where these are averaged across processes.
      slots: of the participants on devices.
      chunk: clients whose layers run at once on a device.
      augment: `(key, images[B, ...]) -> images`, or None.
      dtype: of activations and products; parameters and optimizer states are float32.
      integers: whether products in clients' backward passes are of int8.
      remat: clients compute their forward pass again for the backward pass, instead of every
        participant's intermediate results waiting for the server.
      algorithm: that trains.
      options: values of its own flags, by name.
      auxiliary: layers that clients train beside their part of the model; see `Algorithm`.
      task: the loss, the measure of success and the kind of targets.
      radio: the simulated network, or None.
    """

    model: Model
    cut: int
    tail: int
    cuts: Cuts | None
    compressors: Compressors
    deployed: Deployed | None
    pruner: Pruner
    adapters: AdapterRule | None
    personal: Personal | None
    client_optimizer: Optimizer
    client_rate: Schedule
    proximal: float
    server_optimizer: Optimizer
    positions: int | None
    classes: int
    clients: int
    participants: int
    group_sizes: tuple[int, ...]
    local_steps: int
    aggregate_every: int
    batch_size: int
    sampling: str
    aggregation: str
    statistics: str
    client_optimizer_state: str
    client_state: str
    collective_bits: int
    slots: SlotLayout
    chunk: int
    augment: Augmentation | None
    dtype: DTypeLike
    integers: bool
    remat: bool
    algorithm: "Algorithm"
    options: Mapping[str, Any]
    auxiliary: Model
    task: Task
    radio: Radio | None

    @property
    def full_participation(self) -> bool:
        """Whether all clients take part in every period."""
        return self.participants == self.clients

    @property
    def memory_on_device(self) -> bool:
        """Whether the state has memories of clients that do not take part."""
        return self.client_state == "resident" and not self.full_participation

    @property
    def memory_on_host(self) -> bool:
        """Whether memories of clients that do not take part are on the host."""
        return self.client_state == "host" and not self.full_participation


class Data(NamedTuple):
    """What lies on the device and differs between runs of one compiled program.

    Attributes:
      images: training inputs `[N, ...]`, in the order of the partition.
      labels: targets likewise: classes int32 `[N]`, real numbers float32 `[N, D]`, or ids of the
        next tokens int32 `[N, T]`, -1 where there is none.
      pixels: to normalise inputs with.
      partition: which examples each client has.
      deployment: what of the radio depends on the seed, None without one.
      frozen: variables of the whole model that all clients share, as `Variables` has them.
    """

    images: Array
    labels: Array
    pixels: Pixels
    partition: Partition
    deployment: Deployment | None
    frozen: Frozen = ()


class Client(struct.PyTreeNode):
    """One client at work; stacked on a leading axis `[P]` for the slots of many.

    Attributes:
      number: int32, of the client.
      params: dense client-side parameters.
      stats: normalisation statistics.
      masks: of the pruner, that say what of `params` the client has.
      optimizer: its own optimizer state.
      compressor_states: of every stream.
      received: the model as it last arrived, 0 where nothing has; None unless changes of it are
        sent down.
      batches_seen: int32, batches drawn so far.
    """

    number: Array
    params: Any
    stats: Any
    masks: Any
    optimizer: Any
    compressor_states: CompressorStates
    received: Any
    batches_seen: Array


class Server(struct.PyTreeNode):
    """The server's part of the model with its optimizer state."""

    params: Any
    stats: Any
    optimizer: Any


class Aggregator(struct.PyTreeNode):
    """The aggregated dense client-side model and what pruning remembers.

    Attributes:
      params: as of the last aggregation.
      stats: averaged statistics; unused under the local policy.
      optimizer: averaged optimizer state; None unless clients average theirs.
      pruning: `PruningState` as of the last aggregation.
      trained: the one that the masks of the last round come from, without scores.
      kernels: frozen kernels of the client side that products of adapters were added to, by path;
        None unless adapters are stacked.
      adapter_error: of the last average, see `adapter_averaging.relative_error`, float32; None
        where it is 0 by construction.
    """

    params: Any
    stats: Any
    optimizer: Any
    pruning: Any
    trained: Any
    kernels: Any = None
    adapter_error: Any = None


class State(struct.PyTreeNode):
    """Where a run stands between two rounds.

    Attributes:
      round: int32, rounds completed.
      server: the server; with a copy for each participant's slot `[P, ...]`.
      aggregator: the aggregator.
      clients: the participants in their slots, `[P, ...]`.
      memory: what the other clients keep, and the participants kept from before: `Memory` of all
        `[C', ...]`, by number, more rows than clients where devices share them evenly; of one that
        is new `[1, ...]` where nobody keeps anything; None where it is elsewhere, or all take part.
      participants: int32 `[K]`, clients of the current period, group by group, each ascending.
      has_current_model: bool `[K]`, which of them hold the model of the period; between periods,
        the one just aggregated. All, unless devices can be out of reach.
      algorithm_state: what the algorithm keeps beside these from one round to the next, from its
        `init_state`, the same on all devices; None for nothing.
    """

    round: Array
    server: Server
    aggregator: Aggregator
    clients: Client
    memory: Any
    participants: Array
    has_current_model: Array
    algorithm_state: Any = None


def with_data(spec: RunSpec, data: Data, aggregator: Aggregator | None = None) -> RunSpec:
    """The run with what lies with the data, so that no program has it built in.

    This is the network's deployment and the frozen variables, with the aggregator's kernels.
    """
    kernels = None if aggregator is None else aggregator.kernels
    spec = with_frozen(spec, with_kernels(data.frozen, kernels))
    if spec.radio is None or data.deployment is None:
        return spec
    return spec._replace(radio=spec.radio._replace(deployment=data.deployment))


def with_frozen(spec: RunSpec, frozen: Frozen) -> RunSpec:
    """The run with these frozen variables of the whole model; see `layers.with_frozen`."""
    model, client_frozen = layers.with_frozen(spec.model, frozen), frozen[: spec.cut]
    if not any(client_frozen):
        return spec._replace(model=model)
    forwards = tuple(partial(forward, frozen=client_frozen) for forward in spec.pruner.forwards)
    return spec._replace(model=model, pruner=spec.pruner._replace(forwards=forwards))


def weights(spec: RunSpec, partition: Partition, participants: Array) -> Array:
    """Weights of the participants in every mean, float32 `[K]`, sum 1."""
    if spec.aggregation == "equal":
        return jnp.full(participants.shape, 1.0 / participants.size)
    sizes = spec.slots.replicate(partition.sizes[participants].astype(jnp.float32))
    return sizes / jnp.sum(sizes)


def present_weights(share: Array, present: Array) -> Array:
    """Weights `share[K]` of the participants that are present, sum 1; all 0 without any."""
    present_share = jnp.where(present, share, 0.0)
    return present_share / jnp.where(jnp.any(present), jnp.sum(present_share), 1.0)


def copies(tree: Any, count: int) -> Any:
    """Every array repeated on a new leading axis of `count`."""
    return jax.tree.map(lambda x: jnp.broadcast_to(x, (count, *x.shape)), tree)
