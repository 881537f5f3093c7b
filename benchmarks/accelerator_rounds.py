"""Parts of `accelerator.py` about whole rounds: the targets on a card, chunks, compilation."""

import contextlib
import dataclasses
import functools
import gc
import tempfile
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import finetune
import jax
import step
from accelerator_kernels import QUICK_PEAK
from accelerator_report import Entry, Measure
from accelerator_worker import Settings
from step import ALL_ON, CompiledRound, Options
from taking_turns import Remote, Work, take_turns

_SMALL = Options("small", clients=100, batch_size=8, steps=10)
_ALL_ROUNDS = 1500  # of pfl-research's workload
_PFL = Options(
    "cnn", clients=1000, participants=50, batch_size=10, batches=5, steps=5, rounds=20,
    algorithm="fedavg",
)  # fmt: skip
_PFL_SECONDS = 60.0
# Images a second, of VGG-19; float32 takes products in TF32 where a card does so by default.
_VGG_RATES = {"float32": 70_000.0, "bfloat16": 140_000.0}
_OF_PEAK = {"float32": None, "bfloat16": 0.35}
_RIVAL_SPEEDUP, _COMPRESSION_COST, _LORA_OF_PEAK = 8.0, 1.15, 0.40
_RIVAL_REPEATS = 2  # a call of PyTorch's takes up to 50 times as long as ours
_CHUNKS, _QUICK_CHUNKS = (1, 10, 100), (1,)
_POPULATIONS, _QUICK_POPULATIONS = (10, 100, 1000), (3, 4)


def small(settings: Settings) -> Iterator[Entry]:
    """A step of 100 clients of `small`, against PyTorch."""
    options = _sized(_SMALL, settings)
    ours, theirs, note = _against_torch(options, settings)
    yield Entry(
        f"{_name(options)}, float32",
        [
            Measure("images a second", ours["samples_per_second"]),
            *_speedup(ours, theirs, "samples_per_second", _RIVAL_SPEEDUP),
        ],
        {"options": vars(options), "jfedsl": ours, "torch": theirs},
        note,
    )


def vgg19(clients: int, dtype: str, settings: Settings) -> Iterator[Entry]:
    """A step of VGG-19 with 64 images a client; in float32 against PyTorch."""
    steps = 5 if clients < 100 else 2
    big = Options("vgg19", clients=clients, batch_size=64, compute_dtype=dtype, steps=steps)
    options = _sized(big, settings)
    ours, theirs, note = _against_torch(options, settings)
    yield Entry(
        f"{_name(options)}, {dtype}",
        [
            Measure("images a second", ours["samples_per_second"], _VGG_RATES[dtype]),
            Measure(f"of the {dtype} peak", ours["fraction_of_matmul_peak"], _OF_PEAK[dtype]),
            *_speedup(ours, theirs, "samples_per_second"),
        ],
        {"options": vars(options), "jfedsl": ours, "torch": theirs},
        note,
    )


def pfl_workload(settings: Settings) -> Iterator[Entry]:
    """FedAvg on pfl-research's workload; its 1,500 rounds are extrapolated from some of them."""
    options = _sized(_PFL, settings)
    ours, theirs, note = _against_torch(options, settings)
    seconds = ours["compile_seconds"] + _ALL_ROUNDS * options.steps * ours["seconds_per_step"]
    rounds = options.rounds * settings.repeats
    yield Entry(
        f"pfl-research's workload, {_name(options)}, FedAvg",
        [
            Measure(f"seconds of {_ALL_ROUNDS:,} rounds", seconds, _PFL_SECONDS, at_most=True),
            *_speedup(ours, theirs, "samples_per_second"),
        ],
        {"options": vars(options), "jfedsl": ours, "torch": theirs, "rounds_measured": rounds},
        f"extrapolated from {rounds} rounds, compilation added, without evaluation; {note}",
    )


def compression(settings: Settings) -> Iterator[Entry]:
    """Pruning, dropout and 8-bit gradients on, over all of them off."""
    plain = _sized(_SMALL, settings)
    every = {"all off": plain, "all on": dataclasses.replace(plain, **ALL_ON)}
    off, on = _measured([*every.values()], settings.repeats)
    ratio = on["seconds_per_step"] / off["seconds_per_step"]
    yield Entry(
        f"compression, {_name(plain)}",
        [Measure("seconds, all on over all off", ratio, _COMPRESSION_COST, at_most=True)],
        {"options": vars(plain), "all off": off, "all on": on},
    )


def lora(dtype: str, settings: Settings) -> Iterator[Entry]:
    """An exchange of a transformer of MiniLM's size with low-rank adapters."""
    with tempfile.TemporaryDirectory() as folder:
        options = finetune.Options(32, 16, folder, tokens=128, compute_dtype=dtype)
        if settings.quick:
            options = finetune.Options(
                2, 2, folder, tokens=4, blocks=2, client_blocks=1, width=8, heads=2, hidden=16,
                vocabulary=32, rank=2, compute_dtype=dtype, peak_size=QUICK_PEAK,
            )  # fmt: skip
        rival, note = _rival(finetune.rival, "finetune_torch", options, settings)
        with _ended(rival):
            exchange = finetune.CompiledExchange(options)
            results, note = _in_turn_with(rival, exchange, note, settings.repeats)
    flops = exchange.facts["exchange_flops"]
    ours, theirs = _pair([finetune.rates(options, result, flops) for result in results])
    target = _LORA_OF_PEAK if dtype == "bfloat16" else None
    sizes = f"{options.clients} x {options.batch_size} x {options.tokens}"
    yield Entry(
        f"transformer with LoRA, {sizes}, {dtype}",
        [
            Measure("texts a second", sizes_of(options) / ours["seconds_per_exchange"]),
            Measure(f"of the {dtype} peak", ours["fraction_of_matmul_peak"], target),
            *_speedup(ours, theirs, "gflops_per_second"),
        ],
        {"jfedsl": ours, "torch": theirs},
        note,
    )


def sizes_of(options: finetune.Options) -> int:
    """Texts of all clients in an exchange."""
    return options.clients * options.batch_size


def chunks(settings: Settings) -> Iterator[Entry]:
    """Clients that are computed at once, from a loop over single ones to all."""
    plain = _sized(_SMALL, settings)
    sizes = _QUICK_CHUNKS if settings.quick else _CHUNKS
    for chunk in dict.fromkeys((*sizes, plain.clients)):
        options = dataclasses.replace(plain, client_chunk=chunk)
        (result,) = _measured([options], settings.repeats)
        yield Entry(
            f"{_name(options)}, client_chunk {chunk}{' (all)' * (chunk == plain.clients)}",
            [
                Measure("images a second", result["samples_per_second"]),
                Measure("planned peak memory, MB", result["peak_memory_bytes"] / 1e6),
            ],
            {"options": vars(options), "jfedsl": result},
        )


def compilation(settings: Settings) -> Iterator[Entry]:
    """Compilation, memory and kernels of a round with few clients, and with many."""
    kernels = {}
    plain = dataclasses.replace(_sized(_SMALL, settings), steps=1)
    for clients in _QUICK_POPULATIONS if settings.quick else _POPULATIONS:
        options = dataclasses.replace(plain, clients=clients)
        facts = CompiledRound(options).facts
        _forget()
        kernels[clients] = facts["kernels"]
        yield Entry(
            _name(options),
            [
                Measure("seconds to compile", facts["compile_seconds"]),
                Measure("planned peak memory, MB", facts["peak_memory_bytes"] / 1e6),
                Measure("kernels in loops", facts["kernels"]),
            ],
            {"options": vars(options), "jfedsl": facts},
        )
    few, many = min(kernels), max(kernels)
    growth = (kernels[many] or 1) / (kernels[few] or 1)
    name = f"{plain.model}, {many} clients over {few}"
    yield Entry(name, [Measure("kernels", growth, 1.0, at_most=True)], {})


vgg19_few_float32 = functools.partial(vgg19, 8, "float32")
vgg19_few_bfloat16 = functools.partial(vgg19, 8, "bfloat16")
vgg19_many_float32 = functools.partial(vgg19, 100, "float32")
vgg19_many_bfloat16 = functools.partial(vgg19, 100, "bfloat16")
lora_float32 = functools.partial(lora, "float32")
lora_bfloat16 = functools.partial(lora, "bfloat16")


def _sized(options: Options, settings: Settings) -> Options:
    """The options, or with tiny shapes those of a model that compiles fast."""
    if not settings.quick:
        return options
    return dataclasses.replace(
        options, model="mlp", clients=4, batch_size=2, steps=2, rounds=1, batches=4,
        participants=options.participants and 2, peak_size=QUICK_PEAK,
    )  # fmt: skip


def _name(options: Options) -> str:
    """Such as "small, 100 x 8"; of drawn participants also out of how many."""
    drawn = f"{options.participants} of " if options.participants else ""
    return f"{options.model}, {drawn}{options.clients} x {options.batch_size}"


def _measured(every: Sequence[Options], repeats: int) -> list[dict[str, Any]]:
    """The rates of rounds that are timed in turn in this process."""
    results = _in_turn([CompiledRound(options) for options in every], repeats)
    return [step.rates(o, result) for o, result in zip(every, results, strict=True)]


def _against_torch(
    options: Options, settings: Settings
) -> tuple[dict[str, Any], dict[str, Any] | None, str]:
    """The rates of rounds and of PyTorch's, or of rounds alone; and why alone."""
    rival, note = _rival(step.rival, "splitfed_torch", options, settings)
    with _ended(rival):
        results, note = _in_turn_with(rival, CompiledRound(options), note, settings.repeats)
    of_each = [options, dataclasses.replace(options, rounds=1)]  # PyTorch's calls are of one round
    return *_pair([step.rates(*pair) for pair in zip(of_each, results, strict=False)]), note


def _rival(
    make: Callable[[Any], Work], module: str, options: Any, settings: Settings
) -> tuple[Remote | None, str]:
    """PyTorch in a process that imports it from now on, if there is one; and else why not."""
    if not settings.against_torch:
        return None, "no rival"
    if options.compute_dtype != "float32":
        return None, f"no rival in {options.compute_dtype}"
    return Remote(functools.partial(make, options), [module]), ""


def _ended(rival: Remote | None) -> contextlib.AbstractContextManager[Any]:
    """Ends the process of a rival, whatever becomes of our work."""
    return contextlib.closing(rival) if rival else contextlib.nullcontext()


def _in_turn_with(
    rival: Remote | None, work: Work, note: str, repeats: int
) -> tuple[list[dict[str, Any]], str]:
    """Times a work, in turn with a rival that can be prepared; and a note if it cannot be.

    The rival computes nothing before, so that it disturbs no compilation, which tries kernels.
    """
    try:
        if rival:
            rival.prepare()
    except RuntimeError as error:  # such as too little memory on the device for both
        rival, note = None, f"no rival: {error}"
    return _in_turn([work, *([rival] if rival else [])], repeats), note


def _in_turn(works: Sequence[Work], repeats: int) -> list[dict[str, Any]]:
    """Times works in turn, and drops compiled programs."""
    others = _RIVAL_REPEATS if any(isinstance(work, Remote) for work in works) else None
    try:
        return take_turns(works, repeats, others)
    finally:
        _forget()


def _pair(lines: Sequence[dict[str, Any]]) -> tuple[dict[str, Any], dict[str, Any] | None]:
    return lines[0], lines[1] if len(lines) > 1 else None


def _speedup(
    ours: dict[str, Any], theirs: dict[str, Any] | None, rate: str, target: float | None = None
) -> list[Measure]:
    """How many times as fast as PyTorch, where it was measured."""
    if theirs is None:
        return []
    return [Measure("speed over torch's, times", ours[rate] / theirs[rate], target)]


def _forget() -> None:
    """Frees compiled programs and arrays that nothing refers to any more."""
    jax.clear_caches()
    gc.collect()
