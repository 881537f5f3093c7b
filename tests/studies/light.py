"""A small light setting, and presets of the paper's study, that tests share."""

from pathlib import Path
from typing import Any

from helpers import plain

from jfedsl.config import Config
from jfedsl.studies.questions import rates_of

ROOT = Path(__file__).parents[2]
LIGHT: dict[str, Any] = {
    "clients": 2, "rounds": 2, "batch_size": 4, "train_examples": 100, "eval_every": 1,
    "network": "macro_cell", "prune_kind": "mask", "prune_rate": (0.5,), "dropout_rate": 0.2,
    "cut_gradient_bits": 8, "client_gradient_bits": 8, "partition": "dirichlet",
}  # fmt: skip


def light(folder: Path, **changes: Any) -> Config:
    """Two clients that prune, quantize and drop, for two rounds."""
    return plain(**{**LIGHT, "workdir": str(folder), **changes})


def flags_of(preset: Path) -> tuple[list[str], dict[str, float]]:
    """The flags of a run in a preset, and the learning rates of rivals."""
    lines = [line for line in preset.read_text().splitlines() if not line.startswith("#")]
    run_flags = [line for line in lines if not line.startswith("--rates=")]
    rates = [line.removeprefix("--rates=").split(",") for line in lines if line not in run_flags]
    return run_flags, rates_of(rates[0]) if rates else {}
