"""What a training algorithm is: pure functions, and declarations that the other rooms read."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jax import Array

from jfedsl.data.partition import Partition, Shares
from jfedsl.engine.clocks import side_by_side
from jfedsl.engine.drift import Drift, of_periods
from jfedsl.engine.exchange import Exchange, Outcome
from jfedsl.engine.round import run_round
from jfedsl.engine.rounds import RoundRecord
from jfedsl.engine.state import Client, RunSpec, Server, State
from jfedsl.engine.streams import SPLIT_STREAMS, Stream
from jfedsl.models.layers import Model
from jfedsl.wireless.cells import Cells
from jfedsl.wireless.cost import Cost

# Flags that only some algorithms use, grouped by the feature that gives them a meaning. Every flag
# of the network but `network` is in one of these sets.
CUT = frozenset({"cut"})
SERVER = frozenset({"server_learning_rate", "server_flops"})
CLIENTS = frozenset(
    {
        "client_learning_rate",
        "client_backward",
        "client_optimizer_state",
        "client_adapter",
        "batch_norm_statistics",
        "client_state",
        "client_chunk",
        "remat_clients",
    }
)
AVERAGING = frozenset({"aggregation"})
# Layers that stay with clients, and steps by `client_step` from a model that a period hands out.
PERSONAL = frozenset({"personal"})
PROXIMAL = frozenset({"proximal"})
PERIODS = frozenset({"aggregate_every"})
PRUNING = frozenset({"prune_kind"})
HARDWARE = frozenset({"device_classes", "device_flops", "device_power_dbm", "device_memory"})
RADIO = frozenset(
    {
        "network_seed",
        "bandwidth_hz",
        "cell_radius_m",
        "shadowing_db",
        "fading",
        "fading_memory",
        "device_speed",
        "mobility_step_s",
        "server_power_dbm",
        "mask_compute",
    }
)
OUTAGE = frozenset({"outage_snr_db", "outage_timeout_s"})
DEADLINE = frozenset({"deadline_s"})
ALLOCATION = frozenset({"allocation"})
BOUND = frozenset({"measure_constants_every"})

FEDERATED = CLIENTS | AVERAGING | PERIODS | PRUNING | HARDWARE | RADIO | OUTAGE
SPLIT = FEDERATED | CUT | SERVER | DEADLINE | ALLOCATION


class Option(NamedTuple):
    """A flag of one algorithm's own.

    Options of the built-in algorithms are fields of `Config`. Those of an algorithm that a plugin
    adds have their defaults.

    Attributes:
      name: of the flag.
      default: its type is the flag's: str, int, float or bool.
      help: a sentence for `--help`.
      allowed: what values are allowed, in words, to follow "must be".
      test: whether a value is allowed.
      idle: from a config, why the flag has no effect there, such as "with --local_steps=1"; None
        where it has one.
      before: what runs of builds without the flag did; None if that is the default.
    """

    name: str
    default: Any
    help: str
    allowed: str
    test: Callable[[Any], bool]
    idle: Callable[[Any], str | None] = lambda config: None
    before: Any = None


class Population(NamedTuple):
    """How many clients there are, how many take part in a period, and exchanges in a round."""

    clients: int
    participants: int
    local_steps: int


# One round: `(spec, data, run key, state) -> (state after the round, record)`. Of an algorithm that
# uses `BOUND` it takes the round's exchanges as `exchange_all` too.
RunRound = Callable[..., tuple[State, RoundRecord]]


def _as_given(shares: Shares, population: Population) -> tuple[Shares, Population]:
    return shares, population


def _state_server(spec: RunSpec, partition: Partition, state: State) -> Server:
    del spec, partition
    server: Server = state.server
    return server


def _no_state(spec: RunSpec, key: Array, image: tuple[int, ...], state: State) -> None:
    del spec, key, image, state


def _state_server_of_client(spec: RunSpec, state: State, client: Array) -> Server:
    del spec, client
    server: Server = state.server
    return server


def _same_state(spec: RunSpec, partition: Partition, state: State) -> State:
    del spec, partition
    return state


class Algorithm(NamedTuple):
    """A training algorithm.

    Only this table entry tells algorithms apart: no other room asks for a name.

    Attributes:
      exchange: one exchange of all participants, written in the engine's steps.
      uses: the flags among those that not every algorithm uses; the others have no effect.
      streams: the kinds of messages, see `Stream`. Columns of metrics.csv, the traffic of an
        uncompressed run and the flags of compressors follow. Without `MODEL_UP` or `MODEL_DOWN` no
        bytes of the model count, but clients are still averaged at the end of a period.
      options: flags of its own.
      reports: names of numbers that its exchanges report of participants, each a column of
        metrics.csv: the mean over the participants and exchanges of a round that have one.
      columns: `spec ->` names of columns of its own of metrics.csv.
      row: `(spec, record, i) ->` their values in the round at index `i` of a record of many rounds,
        NumPy arrays.
      cells: `(options, clients) -> Cells` of several base stations; None for one.
      clock: from a run and the record of a round, what that costs in seconds and joules.
      run_round: one round, where it is more, or less, than exchanges with an average at the end of
        a period.
      compress_by_default: whether pruning and compressors are on unless flags say otherwise.
      one_at_a_time: `config -> flags` that make participants compute one at a time, so that more
        devices do not help; `()` if participants compute in parallel.
      equal_shapes: whether all clients have to hold arrays of the same shapes, as where they hand
        one model on.
      all_take_part: whether all clients have to take part in every period.
      cuts_by_client: whether clients may hold different numbers of first layers. The server's steps
        are then those of `server_forward` and `joint_step`.
      with_quorum: name of the algorithm that trains alike, but whose server waits for a `quorum` of
        the clients; "" for none.
      with_all: of that one, the name of the algorithm whose server waits for all.
      client_layers: `(layers, cut) -> number of layers that clients hold`.
      tail: `options -> ` number of the model's last layers that clients hold too, behind the
        server's: averaged and sent with the others of clients, never pruned.
      auxiliary: `(options, classes, of_tokens) -> layers` that clients train beside their part of
        the model: averaged and sent with it, never pruned, not part of the trained model. With
        `of_tokens` they make logits of the `classes` token ids at every position.
      fit_steps: from options, how many steps `fit_auxiliary` takes at once; FLOPs and memory of
        clients follow. 0: the auxiliary layers are not fitted.
      population: `(shares, population) -> (shares, population)` that the algorithm trains with.
      server_batch: `participants -> n`: how many clients' activations the server normalises as one
        batch.
      answered: from a run, how many participants the server answers at once.
      init_server: the server of a new run, from that of the whole model.
      init_state: `(spec, run key, shape of an input, state) -> algorithm_state` of a new run.
      end_period: called after clients have been averaged. To see the state before, write a
        `run_round`.
      server_of: the one server part to test and export, such as the mean of copies.
      server_of_client: `(spec, state, number) ->` the server part that a client trains with.
      drift: from a run and its clients' numbers of examples, how long their parts drift apart.
      per_slot: the parts of `State` that have a row for each slot.
      check: raises a `UserError` for a run that it cannot train.
    """

    exchange: Callable[[Exchange, Server, Client], Outcome]
    uses: frozenset[str] = SPLIT
    streams: Sequence[Stream] = SPLIT_STREAMS
    options: Sequence[Option] = ()
    reports: Sequence[str] = ()
    columns: Callable[[RunSpec], Sequence[str]] = lambda spec: ()
    row: Callable[[RunSpec, RoundRecord, int], Mapping[str, float]] = lambda spec, record, i: {}
    cells: Callable[[Mapping[str, Any], int], Cells | None] = lambda options, clients: None
    clock: Callable[[RunSpec, RoundRecord], Cost] = side_by_side
    run_round: RunRound = run_round
    compress_by_default: bool = False
    one_at_a_time: Callable[[Any], tuple[str, ...]] = lambda config: ()
    equal_shapes: bool = False
    all_take_part: bool = False
    cuts_by_client: bool = False
    with_quorum: str = ""
    with_all: str = ""
    client_layers: Callable[[int, int], int] = lambda layers, cut: cut
    tail: Callable[[Mapping[str, Any]], int] = lambda options: 0
    auxiliary: Callable[[Mapping[str, Any], int, bool], Model] = lambda options, classes, tokens: ()
    fit_steps: Callable[[Mapping[str, Any]], int] = lambda options: 0
    population: Callable[[Shares, Population], tuple[Shares, Population]] = _as_given
    server_batch: Callable[[int], int] = lambda participants: 1
    answered: Callable[[RunSpec], int] = lambda spec: spec.participants
    init_server: Callable[[RunSpec, Server], Server] = lambda spec, server: server
    init_state: Callable[[RunSpec, Array, tuple[int, ...], State], Any] = _no_state
    end_period: Callable[[RunSpec, Partition, State], State] = _same_state
    server_of: Callable[[RunSpec, Partition, State], Server] = _state_server
    server_of_client: Callable[[RunSpec, State, Array], Server] = _state_server_of_client
    drift: Callable[[RunSpec, np.ndarray], Drift] = of_periods
    per_slot: tuple[str, ...] = ("clients",)
    check: Callable[[RunSpec], None] = lambda spec: None
