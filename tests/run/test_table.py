"""What a run prints at its end, as plain text and on a terminal."""

import re
from typing import Any

import pytest

from jfedsl.run import summary, table

SUMMARY: dict[str, Any] = {
    "rounds": 40,
    "final_accuracy": 0.975,
    "final_accuracy_deployed": 0.9,
    "best_accuracy": 0.98,
    "best_round": 30,
    "target_accuracy": 0.95,
    "rounds_to_target": 10,
    "bytes_to_target": 16_553_150,
    "ended_early": {"planned_rounds": 100, "reason": "no improvement in 10 evaluations"},
    "bytes": {"smashed_up": 78_661_216, "model_up": 319_200, "backhaul_up": 4_000},
    "uncompressed_bytes": {"smashed_up": 98_328_000, "model_up": 0},
    "simulated": {
        "seconds": 119.0, "communication_seconds": 118.9, "energy_joules": 52.21,
        "lost_fraction": 0.125, "client_compute_seconds": 0.1473, "client_uplink_seconds": 26.09,
        "client_downlink_seconds": 2.084, "client_waiting_seconds": 90.69,
        "seconds_to_target": 23.1, "joules_to_target": 10.17,
    },
    "convergence": {
        "verdict": "holds", "average": 1.5, "bound": 3.0, "steepness": 0.1, "measurements": 4,
        "terms": {"start": 2.0}, "beyond_the_theorem": ["momentum=0.9 [why]"],
    },
}  # fmt: skip
PLAIN = """\
test accuracy       0.9750 after round 40, best 0.9800 at round 30
deployed            0.9000
to accuracy 0.95    10 rounds, 16,553,150 bytes, 23.1 s, 10.17 J
stopped             after round 40 of 100: no improvement in 10 evaluations

stream                    bytes sent    uncompressed   ratio
smashed_up                78,661,216      98,328,000   0.800
model_up                     319,200               0       -
backhaul_up                    4,000               0       -
total                     78,980,416      98,328,000   0.803

simulated           119 s, 100% of it on the air; clients 52.21 J, 12.5% of exchanges lost
a client, mean      computes 0.1473 s, sends 26.09 s, receives 2.084 s, waits 90.69 s

average squared gradient norm 1.5, bound 3: holds, bound / measured 2 (gamma * beta 0.1, 4 measurements)
  start               2
a heuristic here, beyond the theorem: momentum=0.9 [why]
"""  # noqa: E501


def test_plain_text_is_the_same_everywhere_but_on_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert f"{summary.table(SUMMARY)}\n" == PLAIN
    monkeypatch.setenv("FORCE_COLOR", "1")
    table.show(summary.contents(SUMMARY))
    assert capsys.readouterr().out == PLAIN
    monkeypatch.setattr(table, "is_terminal", lambda stream: True)
    table.show(summary.contents(SUMMARY), plainly=True)
    assert capsys.readouterr().out == PLAIN


@pytest.mark.parametrize("columns", [30, 80, 120])
def test_a_terminal_shows_all_of_it_in_its_width(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    monkeypatch.setattr(table, "is_terminal", lambda stream: True)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", str(columns))
    table.show(summary.contents(SUMMARY))
    shown = capsys.readouterr().out
    assert "\x1b[1m" in shown
    lines = re.sub(r"\x1b\[[\d;]*m", "", shown).splitlines()
    assert max(map(len, lines)) <= columns
    if columns >= 80:
        words = " ".join(lines).split()
        assert [word for word in PLAIN.split() if word not in words] == []
    else:  # numbers may be broken over lines, and none of their digits is lost
        digits = sorted(re.findall(r"\d", "".join(lines)))
        assert digits == sorted(re.findall(r"\d", PLAIN))
