r"""Time and memory of an exchange of fine-tuning, against a PyTorch loop over clients.

    python benchmarks/finetune_step.py --clients=10 --examples=80 --rival=torch
    python benchmarks/finetune_step.py --clients=10,100 --examples=200

The model has the shape of all-MiniLM-L6-v2 (6 blocks of width 384) with random weights; it is cut
after block 2, and low-rank adapters of queries and values and the head are trained with Adam. An
exchange is one step of all clients and of the server on `--examples` texts, nothing compressed.
Every measurement runs in a separate process; they run in turn. Before anything is timed, the losses
of the first exchanges have to be those of the rival, which starts from the same weights.

FLOPs are those of products, forward and for the gradients that are needed. The peak is that of
products of large matrices, measured in the same process after every exchange, as the speed of a
shared machine changes. Times and fractions of the peak are medians. Memory is what XLA plans for
the compiled exchange, and for PyTorch the growth of the resident set. `beside it` are all arrays of
the run but its frozen weights: a second copy of these would show there. Prints a table and one JSON
line each.
"""

import functools
import json
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from absl import app, flags
from finetune import CompiledExchange, Options, rates, rival
from taking_turns import Work, alternate

from jfedsl.nn.weight_only import STORAGES

_CLIENTS = flags.DEFINE_list("clients", ["10"], "Numbers of clients, each of which is measured.")
_EXAMPLES = flags.DEFINE_integer("examples", 80, "Texts of all clients in an exchange.")
_TOKENS = flags.DEFINE_integer("tokens", 64, "Positions of a text.")
_BLOCKS = flags.DEFINE_integer("blocks", 6, "Blocks of the model.")
_CLIENT_BLOCKS = flags.DEFINE_integer("client_blocks", 2, "Blocks before the cut.")
_RANK = flags.DEFINE_integer("rank", 8, "Rank of the adapters.", lower_bound=1)
_CLIENT_ADAPTER = flags.DEFINE_string("client_adapter", "", "What clients train; none for nothing.")
_BASE = flags.DEFINE_enum("base", "float32", STORAGES, "How frozen weights are stored.")
_REPEATS = flags.DEFINE_integer("repeats", 5, "Timed exchanges of each.", lower_bound=3)
_RIVAL = flags.DEFINE_enum("rival", "none", ["none", "torch"], "Framework to compare with.")


def _options(clients: int, folder: str) -> Options:
    if _EXAMPLES.value % clients:
        raise app.UsageError(f"--examples={_EXAMPLES.value} is no multiple of {clients} clients")
    return Options(
        clients, _EXAMPLES.value // clients, folder, _TOKENS.value, _BLOCKS.value,
        _CLIENT_BLOCKS.value, rank=_RANK.value, client_adapter=_CLIENT_ADAPTER.value,
        base=_BASE.value,
    )  # fmt: skip


def measure(every: Sequence[Options], against_torch: bool, repeats: int) -> list[dict[str, Any]]:
    """The facts of each measurement, with times and rates of an exchange."""
    makers: list[Callable[[], Work]] = []
    for options in every:
        makers.append(functools.partial(CompiledExchange, options))
        if against_torch:
            makers.append(functools.partial(rival, options))
    lines: list[dict[str, Any]] = []
    for n, result in enumerate(alternate(makers, repeats)):
        options = every[n // 2 if against_torch else n]
        flops = result.get("exchange_flops") or lines[-1]["exchange_flops"]
        lines.append(rates(options, result, flops))
    return lines


def main(_: list[str]) -> None:
    """Measures and prints."""
    if _RIVAL.value == "torch" and (_BASE.value != "float32" or _CLIENT_ADAPTER.value):
        raise app.UsageError("--rival=torch has no --base but float32 and no --client_adapter")
    with tempfile.TemporaryDirectory() as folder:
        every = []
        for n, clients in enumerate(map(int, _CLIENTS.value)):
            place = Path(folder) / str(n)
            place.mkdir()
            every.append(_options(clients, str(place)))
        lines = measure(every, _RIVAL.value == "torch", _REPEATS.value)
    heads = ("s/exchange", "of peak", "compile s", "MB", "base MB", "beside it")
    print(f"{'':<8}{'clients':>9}" + "".join(f"{head:>12}" for head in heads))
    for row in lines:
        base = row.get("base_bytes")
        memory = "" if base is None else f"{base / 1e6:>12.1f}"
        memory += "" if base is None else f"{row['live_bytes_without_base'] / 1e6:>12.1f}"
        print(
            f"{row['framework']:<8}{row['clients']:>9}{row['seconds_per_exchange']:>12.3f}"
            f"{row['fraction_of_matmul_peak']:>12.2f}{row['compile_seconds']:>12.1f}"
            f"{row['peak_memory_bytes'] / 1e6:>12.0f}{memory}"
        )
    if _RIVAL.value == "torch":
        for ours, theirs in zip(lines[::2], lines[1::2], strict=True):
            ratio = theirs["seconds_per_exchange"] / ours["seconds_per_exchange"]
            print(
                f"exchanges a second with {ours['clients']} clients, jfedsl over torch: {ratio:.2f}"
            )
    for row in lines:
        print(json.dumps(row))


if __name__ == "__main__":
    app.run(main)
