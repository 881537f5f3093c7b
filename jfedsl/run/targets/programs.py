"""A run's programs, compiled for accelerators that need not be there."""

import dataclasses
import time
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec, Sharding, SingleDeviceSharding

from jfedsl.config import Config
from jfedsl.config.canonical import effective
from jfedsl.config.checks import one_device
from jfedsl.errors import flag_error, one_line
from jfedsl.nn.platform import tracing_for
from jfedsl.run.assemble import Experiment, build
from jfedsl.run.processes.distributed import count_of
from jfedsl.run.targets.devices import Target, target_of
from jfedsl.run.targets.hlo import COLLECTIVES, instructions, loop_kernels, planned_bytes
from jfedsl.run.targets.traced import grouped_convolutions
from jfedsl.sharding.slots import AXES

PROGRAMS = ("round", "evaluation", "measurement")
_STEP_SIZE = 0.1  # of the measurement: a number in the program, of any value


class Program(NamedTuple):
    """What a compiled program says.

    Attributes:
      name: one of `PROGRAMS`.
      compile_seconds: on this machine.
      error: why it does not compile, such as too little memory; empty if it does. The numbers
        below are 0 then.
      peak_bytes: of memory on each device: arguments, results, intermediate results and code.
      device_bytes: of memory that each device has.
      kernels: fusions, library calls, products and convolutions in its loops; those of clients
        that are computed one after the other count once.
      grouped_convolutions: in the program before it is compiled; with a group for each client
        they leave matrix units idle.
      collectives: kind, how often it runs in a round, and bytes of each collective operation.
      flops: of products on each device, a multiply-add as 2, loops as often as they run; without
        those in library calls, which the compiler for GPUs takes.
      traffic: bytes that a device reads and writes in its memory, see `costs.traffic`.
      starts: kernels that a device starts.
      seconds: that the compiler expects, the body of a loop once; 0 where it does not say.
    """

    name: str
    compile_seconds: float = 0.0
    error: str = ""
    peak_bytes: int = 0
    device_bytes: int = 0
    kernels: int = 0
    grouped_convolutions: int = 0
    collectives: tuple[tuple[str, int, int], ...] = ()
    flops: int = 0
    traffic: int = 0
    starts: int = 0
    seconds: float = 0.0

    @property
    def fits(self) -> bool:
        """Whether it compiles, and its memory suffices."""
        return not self.error and self.peak_bytes <= self.device_bytes


def compile_for(config: Config, target: str, programs: tuple[str, ...] = PROGRAMS) -> list[Program]:
    """Compiles a run's programs for accelerators; nothing is executed there, and none is needed.

    >>> compile_for(Config(), "v5e:2x2")  # doctest: +SKIP
    [Program(name='round', ...), ...]

    Args:
      config: all settings of the run; `devices` may be fewer than the target has.
      target: TPU:SHAPE, such as v5e:2x2, or h100 for one GPU.
      programs: which ones, of round, evaluation and measurement.

    Raises:
      UserError: a setting that is not allowed, an unknown target or program, or a target whose
        compiler is not installed.
    """
    for name in programs:
        if name not in PROGRAMS:
            raise flag_error("programs", name, f"some of {', '.join(PROGRAMS)}", PROGRAMS)
    return compile_on(config, target_of(target), programs)


def compile_on(
    config: Config, target: Target, programs: tuple[str, ...] = PROGRAMS
) -> list[Program]:
    """`compile_for` devices at hand, such as those of this process.

    With the forms of the target's platform, which may be another than that of its devices.
    """
    with tracing_for(target.platform):
        run = _Absent.of(effective(config), target)
        return [run.compile(name) for name in programs]


class _Absent(NamedTuple):
    """A run on devices that are not there.

    Attributes:
      experiment: with shapes in place of arrays, or with arrays of this process.
      target: the devices.
      everywhere: how what all devices have is laid out.
      state: shapes of the state, laid out as rounds take it.
    """

    experiment: Experiment
    target: Target
    everywhere: Sharding
    state: Any = None

    @classmethod
    def of(cls, config: Config, target: Target) -> "_Absent":
        present = len(target.devices)
        one_device(config, processes=1)
        count = count_of(config, present, f"at most the {present} of --target={target.name}")
        devices = target.devices[:count]
        if count == 1:
            experiment = build(dataclasses.replace(config, devices=None))
            run = cls(experiment, target, SingleDeviceSharding(devices[0]))
        else:
            mesh = Mesh(np.array(devices).reshape(1, -1), AXES)
            run = cls(build(config, mesh), target, NamedSharding(mesh, PartitionSpec()))
        experiment = run.experiment._replace(platform=target.platform)
        run = run._replace(experiment=experiment)
        return run._replace(state=run._first_state())

    def _first_state(self) -> Any:
        experiment = self.experiment
        first: Any = experiment.first_state()
        start = first.lower(*self._shapes((experiment.key, experiment.initial, experiment.image)))
        if isinstance(self.everywhere, SingleDeviceSharding):
            return start.out_info
        # Only the compiled program says how the parts of the state lie on several devices.
        return _with_shardings(start.out_info, start.compile().output_shardings)

    def compile(self, name: str) -> Program:
        """Compiles one program."""
        began = time.perf_counter()
        traced = self._traced(name)
        try:
            compiled = traced.lower().compile()
        except jax.errors.JaxRuntimeError as error:
            reason = one_line(str(error), 300)
            return Program(
                name, time.perf_counter() - began, reason, device_bytes=self.target.memory
            )
        program = _described(name, compiled, time.perf_counter() - began, self.target)
        return program._replace(grouped_convolutions=grouped_convolutions(traced.jaxpr.jaxpr))

    def _traced(self, name: str) -> Any:
        experiment = self.experiment
        key, data, state = self._shapes((experiment.key, experiment.data, self.state))
        if name == "round":
            count = jax.ShapeDtypeStruct((), np.int32, sharding=self.everywhere)
            rounds: Any = experiment.rounds(1)
            return rounds.trace(data, key, state, count)
        if name == "evaluation":
            # The key is a constant of that program.
            test = self._shapes(experiment.evaluated)
            evaluate: Any = experiment._replace(key=jax.random.key(0)).evaluate()
            return evaluate.trace(data, state, test)
        measure: Any = experiment.measure(_STEP_SIZE)
        return measure.trace(data, key, state)

    def _shapes(self, tree: Any) -> Any:
        """The tree with shapes on the target's devices in place of arrays."""
        devices = self.everywhere.device_set

        def shape(x: Any) -> jax.ShapeDtypeStruct:
            laid = getattr(x, "sharding", None)
            sharding = laid if laid and laid.device_set == devices else self.everywhere
            return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)

        return jax.tree.map(shape, tree)


def _with_shardings(shapes: Any, shardings: Any) -> Any:
    return jax.tree.map(
        lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
        shapes,
        shardings,
    )


def _described(name: str, compiled: Any, seconds: float, target: Target) -> Program:
    costs, steps = compiled.cost_analysis() or {}, instructions(compiled.as_text())
    code = compiled.memory_analysis().generated_code_size_in_bytes
    return Program(
        name,
        compile_seconds=seconds,
        peak_bytes=planned_bytes(compiled) + code,
        device_bytes=target.memory,
        kernels=loop_kernels(steps),
        collectives=tuple((s.opcode, s.runs, s.bytes) for s in steps if s.opcode in COLLECTIVES),
        flops=sum(s.runs * s.flops for s in steps),
        traffic=sum(s.runs * s.traffic for s in steps),
        starts=sum(s.starts for s in steps),
        seconds=max(0.0, costs.get("optimal_seconds", 0.0)),
    )
