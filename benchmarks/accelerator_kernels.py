"""Parts of `accelerator.py` about single operations: the device, numerics, convolutions."""

import functools
import importlib.util
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jaxlib
from accelerator_report import Entry, Measure
from accelerator_worker import Settings
from conv_ops import CASES, Case, Op, our_conv, patches, plain_conv
from jax import Array
from step import matmul_peak

from jfedsl.nn.client_convolution import grouped_only

QUICK_PEAK = 256  # rows of matrices
_CLIENTS = {"small": 100, "vgg": 8}
_SECONDS_A_CALL = 0.02  # so long that starting the kernels does not show
Directions = dict[str, Callable[[Array, Array, Array], Array]]

_TORCH = "import torch; print(torch.__version__, torch.cuda.is_available())"


def device(settings: Settings) -> Iterator[Entry]:
    """The device and versions, then the peaks of matrix products."""
    kind = jax.devices()[0]
    torch, sees_device = (None, False) if settings.quick else _torch(kind.platform)
    facts = {
        "device_kind": kind.device_kind, "platform": kind.platform,
        "driver": kind.client.platform_version,
        "versions": {
            "python": platform.python_version(), "jax": jax.__version__,
            "jaxlib": jaxlib.__version__, "torch": torch,
        },
        "torch_sees_device": sees_device, "quick": settings.quick,
        "began": time.strftime("%Y-%m-%d %H:%M"),
    }  # fmt: skip
    rival = f"torch {torch}" if sees_device else "no rival, as no PyTorch sees the device"
    quick = "; tiny shapes, whose numbers and verdicts mean nothing" * settings.quick
    devices = Measure("devices, of which rounds use all", jax.device_count())
    yield Entry(kind.device_kind, [devices], facts, f"jax {jax.__version__}; {rival}{quick}")
    yield Entry("products of matrices", [*_peaks(QUICK_PEAK if settings.quick else None)], {})


def _peaks(size: int | None) -> Iterator[Measure]:
    """The peak for each precision."""
    for name in ("float32 as set", "float32", "bfloat16"):
        with jax.default_matmul_precision("float32" if name == "float32" else None):
            rate = matmul_peak(name.partition(" ")[0], size)
        yield Measure(f"peak, {name}, TFLOP/s", rate / 1e12)


def _torch(device_platform: str) -> tuple[str | None, bool]:
    """PyTorch's version, and whether it computes on this kind of device."""
    if importlib.util.find_spec("torch") is None:
        return None, False
    command = [sys.executable, "-c", _TORCH]
    answer = subprocess.run(command, capture_output=True, text=True).stdout.split()
    if not answer:
        return None, False
    return answer[0], device_platform == "cpu" or (device_platform, answer[1]) == ("gpu", "True")


def client_forms() -> dict[str, Directions]:
    """By form and direction, convolutions of clients with kernels of their own."""
    forms = {"grouped": plain_conv, "batched": patches, "ours": our_conv}
    of_ours = directions(our_conv).items()
    return {
        "grouped, our gradients": {name: grouped_only()(run) for name, run in of_ours},
        **{name: directions(op) for name, op in forms.items()},
    }


def directions(op: Op) -> Directions:
    """The operation and its two gradients for all clients at once, of `x`, `w` and `dy`."""

    def input_gradient(x: Array, w: Array, dy: Array) -> Array:
        return jax.vjp(lambda x: op(x, w), x)[1](dy)[0]

    def weight_gradient(x: Array, w: Array, dy: Array) -> Array:
        return jax.vjp(lambda w: op(x, w), w)[1](dy)[0]

    return {
        "forward": jax.vmap(lambda x, w, dy: op(x, w)),
        "input gradient": jax.vmap(input_gradient),
        "weight gradient": jax.vmap(weight_gradient),
    }


def operands(case: Case, clients: int) -> tuple[Array, Array, Array]:
    """Random `x[C, B, H, W, Cin]`, `w[C, 3, 3, Cin, Cout]` and `dy[C, B, H, W, Cout]`."""
    _, batch, size, inputs, channels = case
    keys = jax.random.split(jax.random.key(0), 3)
    images = (clients, batch, size, size)
    return (
        jax.random.normal(keys[0], (*images, inputs)),
        jax.random.normal(keys[1], (clients, 3, 3, inputs, channels)),
        jax.random.normal(keys[2], (*images, channels)),
    )


def convolution_forms(model: str, settings: Settings) -> Iterator[Entry]:
    """Grouped convolutions of clients against one batched product, layer by layer."""
    clients = 2 if settings.quick else _CLIENTS[model]
    layers = [case for case in CASES[model] if case.channels]
    if settings.quick:
        layers = [Case("conv", 2, 4, 2, 4)]
    for case in layers:
        seconds = _seconds_of_forms(case, clients, settings.repeats)
        yield _entry_of_forms(f"{model} {case.name}, {clients} x {case.batch}", case, seconds)


small_forms = functools.partial(convolution_forms, "small")
vgg_forms = functools.partial(convolution_forms, "vgg")


def _seconds_of_forms(case: Case, clients: int, repeats: int) -> dict[str, dict[str, float]]:
    """Median seconds of each direction and form; the forms of a direction are timed in turn."""
    arrays = operands(case, clients)
    by_form = client_forms()
    seconds: dict[str, dict[str, float]] = {}
    for direction in by_form["ours"]:
        timed = {name: _Timed(of[direction], arrays) for name, of in by_form.items()}
        times = [{name: form.run() for name, form in timed.items()} for _ in range(repeats)]
        seconds[direction] = {
            name: statistics.median(turn[name] for turn in times) for name in timed
        }
    return seconds


class _Timed:
    """A compiled function that is called so often in a row that the time is that of the device."""

    def __init__(self, function: Callable[..., Array], arrays: tuple[Array, ...]) -> None:
        self._run, self._arrays, self._calls = jax.jit(function), arrays, 1
        self.run()
        self._calls = max(1, min(100, round(_SECONDS_A_CALL / self.run())))

    def run(self) -> float:
        """Seconds of a call."""
        began = time.perf_counter()
        results = [self._run(*self._arrays) for _ in range(self._calls)]
        jax.block_until_ready(results[-1])
        return (time.perf_counter() - began) / self._calls


def _entry_of_forms(name: str, case: Case, seconds: dict[str, dict[str, float]]) -> Entry:
    measures = [
        Measure(f"{direction}: seconds, {form} over batched", s[form] / s["batched"])
        for direction, s in seconds.items()
        for form in ("grouped", "grouped, our gradients")
    ]
    least = sum(min(s[form] for form in s if form != "ours") for s in seconds.values())
    ours = sum(s["ours"] for s in seconds.values())
    measures.append(Measure("all three: seconds, ours over the fastest other", ours / least))
    facts: dict[str, Any] = {"shape": case._asdict(), "seconds": seconds}
    return Entry(name, measures, facts)
