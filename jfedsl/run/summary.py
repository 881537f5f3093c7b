"""What a run prints at its end, and the versions and the machine in its summary."""

import os
import platform
from importlib import metadata
from typing import Any

import flax
import jax
import jaxlib
import numpy as np
import optax

from jfedsl import __version__
from jfedsl.files.checkout import commit
from jfedsl.run import convergence
from jfedsl.run.storage.task_record import TaskRecord, read_record
from jfedsl.run.table import Columns, Facts, Lines, Part, plain


def versions() -> dict[str, Any]:
    """The commit of the package, None outside of a checkout, and versions of libraries."""
    return {
        "commit": commit(),
        "jfedsl": __version__,
        "python": platform.python_version(),
        "jax": jax.__version__,
        "jaxlib": jaxlib.__version__,
        "flax": flax.__version__,
        "optax": optax.__version__,
        "numpy": np.__version__,
        "scipy": metadata.version("scipy"),
    }


def environment() -> dict[str, Any]:
    """Versions, and the machine that this process runs on."""
    return {
        **versions(),
        "device": jax.devices()[0].device_kind,
        "backend": jax.default_backend(),
        "cores": os.cpu_count(),
    }


def table(summary: dict[str, Any]) -> str:
    """The contents as plain text."""
    return plain(contents(summary))


def contents(summary: dict[str, Any]) -> list[Part]:
    """What a run prints: metric, traffic beside that without compression, network and bound."""
    task = read_record(summary)
    final, best = summary[task.final(task.tested)], summary[task.best_entry]
    reached = f"{final:.4f} after round {summary['rounds']}"
    facts = (
        (task.title, f"{reached}, best {best:.4f} at round {summary['best_round']}"),
        *_deployed(summary, task, "deployed"),
        *_final_test(summary, task),
        _target(summary),
        *_ended_early(summary),
    )
    parts: list[Part] = [Facts(facts), _traffic(summary)]
    if summary["simulated"]:
        parts.append(_simulated(summary["simulated"]))
    if summary.get("convergence"):
        parts.append(Lines(convergence.table(summary["convergence"])))
    return parts


def _deployed(summary: dict[str, Any], task: TaskRecord, title: str) -> list[tuple[str, str]]:
    """A row with the deployed metric, if the compressors at the cut change it; else no row."""
    final = task.final(task.tested)
    deployed = summary.get(f"{final}_deployed", summary[final])  # earlier builds
    return [] if deployed == summary[final] else [(title, f"{deployed:.4f}")]


def _final_test(summary: dict[str, Any], task: TaskRecord) -> list[tuple[str, str]]:
    """Rows on the test set, where the others are of the validation set; else none."""
    if task.split == "test":
        return []
    test = task._replace(split="test")
    final = f"{summary[test.final(test.tested)]:.4f}, evaluated once"
    return [(test.title, final), *_deployed(summary, test, "test, deployed")]


def _target(summary: dict[str, Any]) -> tuple[str, str]:
    """A row about the cost of reaching the target."""
    title = f"to {read_record(summary).label} {summary['target_accuracy']:g}"
    if summary["rounds_to_target"] is None:
        return title, "not reached"
    text = f"{summary['rounds_to_target']} rounds, {summary['bytes_to_target']:,} bytes"
    if summary["simulated"]:
        clock = summary["simulated"]
        text += f", {clock['seconds_to_target']:,.4g} s, {clock['joules_to_target']:,.4g} J"
    return title, text


def _ended_early(summary: dict[str, Any]) -> list[tuple[str, str]]:
    """A row that says why the run has fewer rounds than planned, if it has."""
    ended = summary.get("ended_early")  # earlier builds did not write it
    return [("stopped", ended_text(summary))] if ended else []


def ended_text(summary: dict[str, Any]) -> str:
    """When and why a run ended early, such as "after round 40 of 100: accuracy 0.95 reached"."""
    ended = summary["ended_early"]
    return f"after round {summary['rounds']} of {ended['planned_rounds']}: {ended['reason']}"


def _traffic(summary: dict[str, Any]) -> Columns:
    """Bytes of each stream and of all, beside those of the same run without compression.

    What is sent elsewhere than between clients and a server, such as over backhauls, has no bytes
    beside it and is not in the total.
    """
    sent, dense = summary["bytes"], summary["uncompressed_bytes"]
    rows = [(stream, sent[stream], dense.get(stream, 0)) for stream in sent]
    total = sum(count for stream, count in sent.items() if stream in dense)
    rows.append(("total", total, sum(dense.values())))
    cells = [(name, f"{s:,}", f"{d:,}", f"{s / d:.3f}" if d else "-") for name, s, d in rows]
    heads = ("stream", "bytes sent", "uncompressed", "ratio")
    return Columns(heads, tuple(cells), widths=(20, 16, 16, 8))


def _simulated(clock: dict[str, Any]) -> Facts:
    """Rows about the simulated network."""
    share = clock["communication_seconds"] / clock["seconds"]
    lost = f", {clock['lost_fraction']:.1%} of exchanges lost" if clock["lost_fraction"] else ""
    whole = f"{clock['seconds']:,.4g} s, {share:.0%} of it on the air; clients "
    client = (
        f"computes {clock['client_compute_seconds']:,.4g} s, sends "
        f"{clock['client_uplink_seconds']:,.4g} s, receives "
        f"{clock['client_downlink_seconds']:,.4g} s, waits "
        f"{clock['client_waiting_seconds']:,.4g} s"
    )
    energy = f"{clock['energy_joules']:,.4g} J{lost}"
    return Facts((("simulated", f"{whole}{energy}"), ("a client, mean", client)))
