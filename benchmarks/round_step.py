r"""Time and memory of a training step of all clients, against a PyTorch loop over clients.

    python benchmarks/round_step.py --model=vgg11 --clients=8 --batch_size=16 --rival=torch
    python benchmarks/round_step.py --algorithm=fedavg --model=small --clients=10 --batch_size=32 \
        --steps=10 --rival=torch
    python benchmarks/round_step.py --model=small --clients=20 --batch_size=8 --cut=pool1-conv2 \
        --one_cut=pool1

A step is one exchange of all clients with the server, both sides updated, on 32x32x3 images
(28x28x1 for mlp) of 10 classes. With --algorithm=fedavg every client trains the whole model for
--steps steps, then all are averaged, and the time of a step is that of a round divided by --steps.
Each framework runs in a separate process; they run in turn. So does --one_cut, for comparison with
a --cut that differs between clients: a range of two layers cuts half of them behind each. Prints a
table and one JSON line of each.

A multiply-add counts as 2 FLOPs, and a convolution by its definition, taps on padding included.
Fast forms compute fewer products, so that the fraction of the peak can exceed 1. Memory is what XLA
plans for the compiled rounds, and for PyTorch the growth of the resident set; `least MB` is that of
the data, the state and the input of every layer.
"""

import dataclasses
import functools
import json
from collections.abc import Callable

from absl import app, flags
from step import CompiledRound, Options, rates, rival
from taking_turns import Work, alternate

from jfedsl.config.scale_fields import COMPUTE_DTYPES

_DEFAULT = Options()
_ALGORITHM = flags.DEFINE_enum("algorithm", "fedsl", ["fedsl", "fedavg"], "Training algorithm.")
_MODEL = flags.DEFINE_string("model", _DEFAULT.model, "Model.")
_NORM = flags.DEFINE_string("norm", _DEFAULT.norm, "Normalisation; PyTorch runs without.")
_CLIENTS = flags.DEFINE_integer("clients", _DEFAULT.clients, "Clients.")
_BATCH_SIZE = flags.DEFINE_integer("batch_size", _DEFAULT.batch_size, "Examples per client.")
_CUT = flags.DEFINE_string("cut", None, "Last client-side layer, a list or a range.")
_ONE_CUT = flags.DEFINE_string("one_cut", None, "A cut for all clients, measured beside --cut.")
_PRUNE_KIND = flags.DEFINE_string("prune_kind", _DEFAULT.prune_kind, "What is pruned on clients.")
_PRUNE_RATE = flags.DEFINE_float("prune_rate", _DEFAULT.prune_rate, "Fraction removed.")
_DROPOUT_RATE = flags.DEFINE_float("dropout_rate", 0.0, "Fraction of activations not sent.")
_BITS = flags.DEFINE_integer("bits", _DEFAULT.bits, "Bits of both gradients; 32 is off.")
_CLIENT_CHUNK = flags.DEFINE_integer("client_chunk", None, "Clients computed at once.")
_COMPUTE_DTYPE = flags.DEFINE_enum("compute_dtype", "float32", COMPUTE_DTYPES, "dtype of products.")
_REMAT_CLIENTS = flags.DEFINE_bool("remat_clients", False, "Compute forward passes twice.")
_STEPS = flags.DEFINE_integer("steps", _DEFAULT.steps, "Steps in one timed call.")
_REPEATS = flags.DEFINE_integer("repeats", 5, "Timed calls of each.", lower_bound=3)
_RIVAL = flags.DEFINE_enum("rival", "none", ["none", "torch"], "Framework to compare with.")


def main(_: list[str]) -> None:
    """Measures and prints."""
    options = Options(
        _MODEL.value, _NORM.value, _CLIENTS.value, _BATCH_SIZE.value, _CUT.value,
        _PRUNE_KIND.value, _PRUNE_RATE.value, _DROPOUT_RATE.value, _BITS.value,
        _CLIENT_CHUNK.value, _COMPUTE_DTYPE.value, _REMAT_CLIENTS.value, _STEPS.value,
        algorithm=_ALGORITHM.value,
    )  # fmt: skip
    named = {"jfedsl": options}
    if _ONE_CUT.value:
        named["one cut"] = dataclasses.replace(options, cut=_ONE_CUT.value)
    makers: list[Callable[[], Work]] = [functools.partial(CompiledRound, o) for o in named.values()]
    if _RIVAL.value == "torch":
        if options.compute_dtype != "float32":
            raise app.UsageError("--rival=torch runs in float32; --compute_dtype must too")
        makers.append(functools.partial(rival, options))
        named["torch"] = options
    lines = [rates(options, result) for result in alternate(makers, _REPEATS.value)]
    print(f"{options.model}, {options.clients} clients x {options.batch_size}")
    print(
        f"{'':<10}{'s/step':>10}{'samples/s':>12}{'of peak':>10}{'compile s':>11}{'MB':>8}"
        f"{'least MB':>10}"
    )
    for name, row in zip(named, lines, strict=True):
        print(
            f"{name:<10}{row['seconds_per_step']:>10.4f}"
            f"{row['samples_per_second']:>12.0f}{row['fraction_of_matmul_peak']:>10.2f}"
            f"{row['compile_seconds']:>11.1f}{row['peak_memory_bytes'] / 1e6:>8.0f}"
            f"{row.get('least_memory_bytes', 0) / 1e6 or '-':>10.4}"
        )
    for name, row in list(zip(named, lines, strict=True))[1:]:
        ratio = lines[0]["samples_per_second"] / row["samples_per_second"]
        print(f"samples a second, jfedsl over {name}: {ratio:.2f}")
    for each, row in zip(named.values(), lines, strict=True):
        print(json.dumps({**vars(each), **row}))


if __name__ == "__main__":
    app.run(main)
