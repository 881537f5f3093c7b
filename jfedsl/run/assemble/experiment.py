"""A run put together from its config."""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import NamedTuple, ParamSpec, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh

from jfedsl.algorithms.registry import ALGORITHMS
from jfedsl.config import Config, plugins
from jfedsl.config.canonical import effective
from jfedsl.data import partition, sources
from jfedsl.data.arrays import Scale
from jfedsl.data.fingerprint import Fingerprint
from jfedsl.engine import evaluation
from jfedsl.engine.algorithm import Population
from jfedsl.engine.checkpoint_layout import lay_out
from jfedsl.engine.compiler_options import options_for
from jfedsl.engine.evaluation_set import TestSet
from jfedsl.engine.examples import homes
from jfedsl.engine.initial import init, initial_client
from jfedsl.engine.rounds import RoundRecord, Rounds, compile_rounds
from jfedsl.engine.state import (
    Client,
    Data,
    RunSpec,
    State,
    with_data,
    with_frozen,
)
from jfedsl.models.layers import Variables
from jfedsl.models.registry import MODELS
from jfedsl.nn.platform import platform_of, traced_for
from jfedsl.run.assemble.client_flops import with_tail
from jfedsl.run.assemble.cuts_by_resource import Links
from jfedsl.run.assemble.description import cuts_of_clients, layout_of, open_end
from jfedsl.run.assemble.examples import check_augment, on_devices, pixels_of, subset_of
from jfedsl.run.assemble.fingerprint import fingerprint_of
from jfedsl.run.assemble.limits import check_sizes
from jfedsl.run.assemble.model import check_examples, initial_of, model_of
from jfedsl.run.assemble.on_clients import options_of
from jfedsl.run.assemble.personal import notes_on_personal, with_personal
from jfedsl.run.assemble.pretrained import checkpoint_of
from jfedsl.run.assemble.pruning import (
    Flops,
    build_pruner,
    prune_before_cut,
)
from jfedsl.run.assemble.radio import build_radio
from jfedsl.run.assemble.shares import (
    class_counts,
    client_names,
    examples_of_clients,
    notes_on_clients,
    with_clients,
)
from jfedsl.run.assemble.spec import spec_of
from jfedsl.run.assemble.task import task_of, with_targets
from jfedsl.run.assemble.texts import with_tokens
from jfedsl.run.processes.distributed import start_devices
from jfedsl.run.storage.task_record import TaskRecord, record_of
from jfedsl.sharding.slots import SHARDED, assign_slots, is_absent, put
from jfedsl.theory.estimates import without_nan
from jfedsl.theory.measure import (
    DEFAULT_EFFORT,
    Effort,
    Measurement,
    Objective,
    measure,
    measure_objective,
)

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")


class Experiment(NamedTuple):
    """All that is fixed in a run.

    Attributes:
      spec: functions and static numbers; programs put what `with_data` names in its place.
      data: training data on the device.
      test: test data on the device.
      validation: training examples of clients that are held out, likewise; None where none are.
      image: a sample input as the first layer is given it, such as `[H, W, C]`.
      key: run key.
      initial: variables of the whole model before the first round.
      client_names: of each client that the data names; empty where clients have only numbers.
      label_counts: examples of each class that each client has, int `[C, classes]`; None where
        the data has no classes.
      class_names: name of each class; empty where classes have only numbers.
      client_flops: of a client's products.
      scale: mean and standard deviation of each feature, float64 `[C]` each, that inputs were
        normalised with before they became `data`; None where they were not.
      clients: that the data is divided over.
      choose_cuts: from links to the cut of each client, int `[C]`; None where cuts never change.
      fingerprint: what tells its data and plugins from others.
      platform: cpu, gpu or tpu: of the devices that programs are compiled for.
      notes: where clients compute, and what became of settings, a line each.
    """

    spec: RunSpec
    data: Data
    test: TestSet
    validation: TestSet | None
    image: Array
    key: Array
    initial: Variables
    client_names: tuple[str, ...]
    label_counts: np.ndarray | None
    class_names: tuple[str, ...]
    client_flops: Flops
    scale: Scale | None
    clients: int
    choose_cuts: Callable[[Links], np.ndarray] | None
    fingerprint: Fingerprint
    platform: str
    notes: list[str]

    @property
    def evaluated(self) -> TestSet:
        """What evaluations during training use: the validation set, or without one the test set."""
        return self.test if self.validation is None else self.validation

    @property
    def record(self) -> TaskRecord:
        """What the run is judged by during training."""
        return record_of(self.spec.task, "test" if self.validation is None else "validation")

    def init(self) -> State:
        """The state before the first round, in buffers of its own: rounds donate them."""
        made: State = self.first_state()(self.key, self.initial, self.image)
        return made

    def first_state(self) -> Callable[[Array, Variables, Array], State]:
        """The compiled `(key, initial, image) -> state` before the first round."""

        def first(key: Array, initial: Variables, image: Array) -> State:
            state = lay_out(self.spec, init(self.spec, key, initial, image))
            return jax.tree.map(jnp.copy, state)

        return self.jit(first)

    def fresh(self) -> Client:
        """A client that has not taken part yet."""
        return initial_client(self.spec, self.key, self.initial, self.image)

    def rounds(self, capacity: int) -> Rounds:
        """The compiled function that runs up to `capacity` rounds."""

        def one(data: Data, key: Array, state: State) -> tuple[State, RoundRecord]:
            spec = with_data(self.spec, data, state.aggregator)
            state, record = spec.algorithm.run_round(spec, data, key, state)
            return lay_out(spec, state), spec.slots.replicate(record)

        options = options_for(self.platform, self.initial.params)
        return compile_rounds(traced_for(self.platform, one), capacity, options)

    def evaluate(self) -> Callable[[Data, State, TestSet], evaluation.Evaluation]:
        """The compiled evaluation."""
        return self.jit(partial(evaluation.evaluate, self.spec, self.key))

    def measure(
        self, step_size: float, effort: Effort = DEFAULT_EFFORT
    ) -> Callable[[Data, Array, State], Measurement]:
        """The compiled measurement of the convergence bound's constants; infinite if unknown."""
        return self.jit(without_nan(partial(measure, self.spec, effort, step_size)))

    def objective(
        self, effort: Effort = DEFAULT_EFFORT
    ) -> Callable[[Data, Array, State], Objective]:
        """The compiled measurement of f and its gradient alone; infinite if unknown."""
        return self.jit(without_nan(partial(measure_objective, self.spec, effort)))

    def jit(self, function: Callable[_Arguments, _Result]) -> Callable[_Arguments, _Result]:
        """The function, compiled for the platform of the run's devices."""
        compiled: Callable[_Arguments, _Result] = jax.jit(traced_for(self.platform, function))
        return compiled


def build(config: Config, mesh: Mesh | None = None, cuts: np.ndarray | None = None) -> Experiment:
    """Loads the data and puts the run together.

    Args:
      config: all settings of the run.
      mesh: devices that it is spread over; None for one.
      cuts: by resource, of each client, int `[C]`; None: they are chosen here.

    Raises:
      UserError: a setting that the data or the model cannot satisfy.
    """
    start_devices()
    # A mesh that is given may span processes without --coordinator.
    config = dataclasses.replace(effective(config), collective_bits=config.collective_bits)
    several = mesh is not None and mesh.shape["process"] > 1
    whole = sources.load(config.dataset, config.data_dir, lazily=several)
    checkpoint = checkpoint_of(config)
    whole = with_tokens(config, whole, checkpoint)
    task = task_of(config, whole)
    whole = with_targets(whole, task)
    check_augment(config, whole)
    pixels = pixels_of(whole)
    image = pixels.prepare(jnp.asarray(whole.train.images[0]))
    dataset = subset_of(config, whole)
    config = with_clients(config, dataset)
    clients = config.clients
    algorithm = ALGORITHMS[config.algorithm]
    chosen = model_of(config, dataset, checkpoint, image, cuts)
    model, cut, tail, adapters = chosen[:4]
    held, names = examples_of_clients(config, dataset), client_names(config, dataset)
    shares = held.shares
    asked = Population(config.clients, config.participants or config.clients, config.local_steps)
    shares, population = algorithm.population(shares, asked)
    if population != asked:
        # Nothing per client is left to say of other clients than were asked for.
        config = dataclasses.replace(config, **population._asdict(), prune_rate=Config.prune_rate)
    key = jax.random.key(config.seed)
    initial, width = initial_of(config, chosen, key, image, dataset)
    marks = fingerprint_of(config, whole, held, task, initial.frozen, model)
    if not config.pretrained and not MODELS[config.model].checked:
        ends = pixels.prepare(jnp.asarray(whole.train.images[np.array([0, -1])]))
        check_examples(config, model, initial, ends, dataset)
    pruning = build_pruner(config, chosen, initial, image.shape)
    slots = assign_slots(pruning.group_sizes, mesh)
    options = options_of(config)
    auxiliary = algorithm.auxiliary(options, width, task.of_tokens)
    spec = spec_of(config, model, (cut, tail), initial, width, task, pruning, slots, image)
    spec = with_frozen(spec, initial.frozen)
    rule = adapters and adapters.rule
    spec = spec._replace(options=options, auxiliary=auxiliary, adapters=rule)
    client = jax.eval_shape(partial(initial_client, spec), key, initial, image)
    spec = with_personal(config, spec, client)
    if spec.personal is not None:  # compressors have no state for what is not sent
        client = jax.eval_shape(partial(initial_client, spec), key, initial, image)
    spec = prune_before_cut(spec, client)
    algorithm.check(spec)
    check_sizes(config, spec, client, image.shape)
    radio = build_radio(config, spec, pruning, key, image.shape)
    spec = spec._replace(radio=radio)
    deployment = None if radio is None else radio.deployment
    order, where = partition.pack(shares, homes(spec), slots.devices)
    split = dataset.train.at(order)
    images, labels = put(mesh, (split.images, split.targets), SHARDED)
    pixels, where, deployment, image, initial = put(
        mesh, (pixels, where, deployment, image, initial)
    )
    counts, lacking = class_counts(dataset, shares)
    return Experiment(
        spec=with_frozen(spec, initial.frozen),
        data=Data(images, labels, pixels, where, deployment, initial.frozen),
        test=on_devices(config, dataset.test, slots),
        validation=None
        if not held.validation.size
        else on_devices(config, dataset.train.at(held.validation), slots),
        image=image,
        key=_everywhere(mesh, key),
        initial=initial,
        client_names=names,
        label_counts=counts,
        class_names=whole.class_names,
        client_flops=with_tail(pruning.flops, spec, image.shape),
        scale=whole.scale,
        clients=clients,
        choose_cuts=chosen.choose,
        fingerprint=marks,
        platform=platform_of(mesh),
        notes=[
            layout_of(config, spec, pooled=population != asked),
            *whole.notes,
            *lacking,
            *notes_on_clients(config, held, names),
            *cuts_of_clients(config, spec),
            *notes_on_personal(spec, client),
            *pruning.notes,
            *open_end(config, spec),
            *plugins.notes(config.plugin),
        ],
    )


def _everywhere(mesh: Mesh | None, key: Array) -> Array:
    """A key on all devices, or its shape if they are not there."""
    if mesh is not None and is_absent(mesh):
        placed: Array = put(mesh, key)
        return placed
    return jax.jit(jax.random.wrap_key_data)(put(mesh, np.asarray(jax.random.key_data(key))))
