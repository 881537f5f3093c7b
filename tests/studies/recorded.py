"""Folders of runs that were never trained: their files say what a test wants them to say."""

from pathlib import Path
from typing import Any

import numpy as np

from jfedsl.config import Config
from jfedsl.run.storage.metrics import SIMULATED, STREAMS, Metrics, columns_of
from jfedsl.run.storage.task_record import CLASSIFICATION


def record(folder: Path, config: Config, pace: float) -> list[dict[str, Any]]:
    """Writes config.json and metrics.csv of a run that learns at this pace; returns its rows."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(config.to_json())
    rows = [_row(n, pace, n % config.eval_every == 0) for n in range(1, config.rounds + 1)]
    Metrics(folder / "metrics.csv", ("conv1", "conv2"), True).append(rows)
    return rows


def _row(n: int, pace: float, tested: bool) -> dict[str, Any]:
    accuracy = float(0.95 - 0.85 * np.exp(-pace * n))
    row = dict.fromkeys((*columns_of(CLASSIFICATION), *SIMULATED), 0.1)
    row |= {column: accuracy if tested else None for column in CLASSIFICATION.columns}
    row |= {"test_loss": 1 - accuracy if tested else None, "train_loss": 1.1 - accuracy}
    row |= {f"{stream}_bytes": int(1e6 / pace) for stream in STREAMS}
    sent = n * len(STREAMS) * int(1e6 / pace)
    seconds = {"cumulative_simulated_seconds": 2 * n / pace, "energy_joules": 3 / pace}
    kept = {"kept_conv1": 0.8, "kept_conv2": 0.5, "mask_overlap": 1 - 1 / n}
    return {**row, **seconds, **kept, "round": n, "cumulative_bytes": sent, "participants": 10}
