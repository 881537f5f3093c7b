"""One number for all clients, one each, or a range spread over them."""

import pytest

from jfedsl.per_client import PerClient, parse


@pytest.mark.parametrize(
    "text", ["", "a", "1-0.5", "0.5,", "-1-2", "0.5-", "1-2-3", "4-8,2", "0x1"]
)
def test_what_is_no_number_list_or_range_is_refused(text: str) -> None:
    assert parse(text) is None


def test_one_for_all_one_each_or_a_range() -> None:
    one, each, spread = (parse(text) for text in ("0.5", "0.5, 1,0.25", ".25-1"))
    assert one and each and spread
    assert one.spread(3, 0).tolist() == [0.5, 0.5, 0.5]
    assert each.spread(3, 0).tolist() == [0.5, 1.0, 0.25]
    numbers = spread.spread(4, 0)
    assert sorted(numbers.tolist()) == [0.25, 0.5, 0.75, 1.0]
    assert spread.spread(4, 0).tolist() == numbers.tolist()
    assert any(spread.spread(4, seed).tolist() != numbers.tolist() for seed in range(1, 5))


def test_only_lists_of_the_right_length_suit() -> None:
    assert [PerClient((8.0,) * n).suits(3) for n in (1, 2, 3, 4)] == [True, False, True, False]
    assert PerClient((4.0, 8.0), True).suits(3)


def test_ranges_order_clients_alike() -> None:
    one, other = PerClient((0.0, 1.0), True), PerClient((4.0, 8.0), True)
    ranks = [x.spread(9, 5).argsort().tolist() for x in (one, other)]
    assert ranks[0] == ranks[1]
