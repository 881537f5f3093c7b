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
    """A short table of accuracy and of traffic, beside the traffic without compression."""
    lines = [
        f"{'test accuracy':<20}{summary['final_accuracy']:.4f} after round {summary['rounds']}, "
        f"best {summary['best_accuracy']:.4f} at round {summary['best_round']}",
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
    """A line with the deployed accuracy, if the compressors at the cut change it; else no line."""
    deployed = summary.get("final_accuracy_deployed", summary["final_accuracy"])  # earlier builds
    return [] if deployed == summary["final_accuracy"] else [f"{'deployed':<20}{deployed:.4f}"]


def _target_line(summary: dict[str, Any]) -> str:
    target = f"{'to accuracy ' + format(summary['target_accuracy'], 'g'):<20}"
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
