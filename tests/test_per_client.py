"""Settings with one number for all clients, a list, or a range spread over clients."""

import pytest

from jfedsl.per_client import PerClient, parse


@pytest.mark.parametrize(
    "text", ["", "a", "1-0.5", "0.5,", "-1-2", "0.5-", "1-2-3", "4-8,2", "0x1"]
)
def test_other_texts_are_refused(text: str) -> None:
    assert parse(text) is None


def test_a_number_a_list_and_a_range_are_spread_over_clients() -> None:
    number, listed, ends = (parse(text) for text in ("0.5", "0.5, 1,0.25", ".25-1"))
    assert number and listed and ends
    assert number.spread(3, 0).tolist() == [0.5, 0.5, 0.5]
    assert listed.spread(3, 0).tolist() == [0.5, 1.0, 0.25]
    values = ends.spread(4, 0).tolist()
    assert sorted(values) == [0.25, 0.5, 0.75, 1.0]
    assert ends.spread(4, 0).tolist() == values
    assert any(ends.spread(4, seed).tolist() != values for seed in range(1, 5))


def test_only_lists_of_the_right_length_suit() -> None:
    assert [PerClient((8.0,) * n).suits(3) for n in (1, 2, 3, 4)] == [True, False, True, False]
    assert PerClient((4.0, 8.0), True).suits(3)


def test_clients_are_in_the_same_order_in_all_ranges() -> None:
    ranges = PerClient((0.0, 1.0), True), PerClient((4.0, 8.0), True)
    ranks = [ends.spread(9, 5).argsort().tolist() for ends in ranges]
    assert ranks[0] == ranks[1]
