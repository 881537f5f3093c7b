"""What a run prints at its end, and the versions and the machine in its summary."""

import os
import platform
from typing import Any

import flax
import jax
import jaxlib
import optax

from jfedsl import __version__
from jfedsl.run import convergence
from jfedsl.run.storage.task_record import read_record


def environment() -> dict[str, Any]:
    """Versions of libraries, and the machine that this process runs on."""
    return {
        "jfedsl": __version__,
        "python": platform.python_version(),
        "jax": jax.__version__,
        "jaxlib": jaxlib.__version__,
        "flax": flax.__version__,
        "optax": optax.__version__,
        "device": jax.devices()[0].device_kind,
        "backend": jax.default_backend(),
        "cores": os.cpu_count(),
    }


def table(summary: dict[str, Any]) -> str:
    """A short table of the metric and of traffic, beside the traffic without compression."""
    task = read_record(summary)
    final, best = summary[f"final_{task.metric}"], summary[f"best_{task.metric}"]
    lines = [
        f"{_padded(f'test {task.label}')}{final:.4f} after round {summary['rounds']}, "
        f"best {best:.4f} at round {summary['best_round']}",
        *_deployed(summary),
        _target_line(summary),
        "",
        f"{'stream':<20}{'bytes sent':>16}{'uncompressed':>16}{'ratio':>8}",
    ]
    sent, dense = summary["bytes"], summary["uncompressed_bytes"]
    rows = [(stream, sent[stream], dense.get(stream, 0)) for stream in sent]
    for name, small, large in [*rows, ("total", sum(sent.values()), sum(dense.values()))]:
        ratio = f"{small / large:.3f}" if large else "-"
        lines.append(f"{name:<20}{small:>16,}{large:>16,}{ratio:>8}")
    if summary["simulated"]:
        lines += ["", *_simulated(summary["simulated"])]
    if summary.get("convergence"):
        lines += ["", convergence.table(summary["convergence"])]
    return "\n".join(lines)


def _deployed(summary: dict[str, Any]) -> list[str]:
    """A line with the deployed metric, if the compressors at the cut change it; else no line."""
    final = f"final_{read_record(summary).metric}"
    deployed = summary.get(f"{final}_deployed", summary[final])  # earlier builds
    return [] if deployed == summary[final] else [f"{_padded('deployed')}{deployed:.4f}"]


def _padded(title: str) -> str:
    """A title of a line, with at least one space after it."""
    return f"{title:<19} "


def _target_line(summary: dict[str, Any]) -> str:
    target = _padded(f"to {read_record(summary).label} {summary['target_accuracy']:g}")
    if summary["rounds_to_target"] is None:
        return f"{target}not reached"
    line = f"{target}{summary['rounds_to_target']} rounds, {summary['bytes_to_target']:,} bytes"
    if summary["simulated"]:
        clock = summary["simulated"]
        line += f", {clock['seconds_to_target']:,.4g} s, {clock['joules_to_target']:,.4g} J"
    return line


def _simulated(clock: dict[str, Any]) -> list[str]:
    """Lines about the simulated network."""
    share = clock["communication_seconds"] / clock["seconds"]
    lost = f", {clock['lost_fraction']:.1%} of exchanges lost" if clock["lost_fraction"] else ""
    return [
        f"{'simulated':<20}{clock['seconds']:,.4g} s, {share:.0%} of it on the air; clients "
        f"{clock['energy_joules']:,.4g} J{lost}",
        f"{'a client, mean':<20}computes {clock['client_compute_seconds']:,.4g} s, sends "
        f"{clock['client_uplink_seconds']:,.4g} s, receives "
        f"{clock['client_downlink_seconds']:,.4g} s, waits "
        f"{clock['client_waiting_seconds']:,.4g} s",
    ]
