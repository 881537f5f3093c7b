"""Time of a training step with pruning and compressors, relative to a step without.

    python benchmarks/overhead.py --model=vgg11 --clients=8 --batch_size=16 --steps=2

Each setting runs in a separate process; they run in turn. A step does not aggregate, so that the
time to compute masks at the end of a period is not included. With --compressors each compressor is
timed alone, on the activation at the cut. Prints a table and one JSON line a setting.
"""

import dataclasses
import functools
import json
import statistics
from typing import Any

from absl import app, flags
from step import ALL_ON, CompiledRound, Options
from taking_turns import alternate

_DEFAULT = Options()
_MODEL = flags.DEFINE_string("model", _DEFAULT.model, "Model.")
_CLIENTS = flags.DEFINE_integer("clients", _DEFAULT.clients, "Clients.")
_BATCH_SIZE = flags.DEFINE_integer("batch_size", _DEFAULT.batch_size, "Examples per client.")
_STEPS = flags.DEFINE_integer("steps", _DEFAULT.steps, "Steps in one timed call.")
_REPEATS = flags.DEFINE_integer("repeats", 7, "Timed calls of each.", lower_bound=3)

_COMPRESSORS = flags.DEFINE_boolean("compressors", False, "Time single compressors instead.")


def _only(*names: str) -> dict[str, Any]:
    return {name: ALL_ON[name] for name in names}


SETTINGS = {
    "all off": {},
    "pruning 0.3": _only("prune_kind", "prune_rate"),
    "dropout 0.2": _only("dropout_rate"),
    "8-bit gradients": _only("bits"),
    "all on": ALL_ON,
}
_EXPRESSIONS = (
    "dropout(0.2)",
    "dropout(0.2,exact=true)",
    "topk(0.1)",
    "randtopk(0.1)",
    "feedback(topk(0.1))",
    "splitfc(0.5)",
    "uniform(8)",
    "qsgd(8)",
    "ternary",
    "sign",
    "bfloat16",
)
COMPRESSORS = {"all off": {}, **{text: {"smashed": text} for text in _EXPRESSIONS}}


def main(_: list[str]) -> None:
    """Measures and prints."""
    all_off = Options(
        _MODEL.value, clients=_CLIENTS.value, batch_size=_BATCH_SIZE.value, steps=_STEPS.value
    )
    settings: dict[str, dict[str, Any]] = COMPRESSORS if _COMPRESSORS.value else SETTINGS
    options = [dataclasses.replace(all_off, **changes) for changes in settings.values()]
    makers = [functools.partial(CompiledRound, setting) for setting in options]
    results = alternate(makers, _REPEATS.value)
    print(f"{all_off.model}, {all_off.clients} clients x {all_off.batch_size}")
    print(f"{'':<24}{'s/step':>10}{'over all off':>14}{'compile s':>11}{'MB':>8}")
    lines: list[dict[str, Any]] = []
    for name, option, result in zip(settings, options, results, strict=True):
        times = [seconds / all_off.steps for seconds in result.pop("times")]
        baseline = statistics.median(lines[0]["times"] if lines else times)
        median = statistics.median(times)
        lines.append({"setting": name, **vars(option), **result, "times": times})
        print(
            f"{name:<24}{median:>10.4f}{median / baseline:>14.2f}"
            f"{result['compile_seconds']:>11.1f}{result['peak_memory_bytes'] / 1e6:>8.0f}"
        )
    for line in lines:
        print(json.dumps(line))


if __name__ == "__main__":
    app.run(main)
