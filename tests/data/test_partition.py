"""Partitions: every example has at most one client, and each kind is skewed as specified."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jfedsl.data.partition import (
    PARTITIONS,
    BadShares,
    EmptyClients,
    Kind,
    Partition,
    Shares,
    SmallClients,
    dirichlet,
    iid,
    label_counts,
    pack,
    quantity,
    shards,
    split,
)

OPTIONS = {"iid": None, "dirichlet": 0.5, "shards": 2, "quantity": 5.0}
RANDOM = sorted(OPTIONS)  # kinds that draw from the generator
LABELS = np.random.default_rng(0).integers(0, 10, 600)

label_lists = st.lists(st.integers(0, 4), min_size=1, max_size=60).map(np.array)
seeds = st.integers(0, 2**32 - 1)


def generator(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def run(kind: str, seed: int, labels: np.ndarray, clients: int) -> Shares:
    """Shares of a random kind, without the check for empty shares."""
    option = OPTIONS[kind]
    arguments: tuple[Any, ...] = () if option is None else (option,)
    return PARTITIONS[kind].split(generator(seed), labels, clients, *arguments)


def class_counts(shares: Shares, labels: np.ndarray) -> np.ndarray:
    """Number of examples of each class on each client, `[C, classes]`."""
    classes = labels.max() + 1
    return np.stack([np.bincount(labels[share], minlength=classes) for share in shares])


def test_every_kind_is_tested_with_an_option_where_it_has_one() -> None:
    assert {*OPTIONS, "natural"} == set(PARTITIONS)
    for kind, option in OPTIONS.items():
        assert (PARTITIONS[kind].option is None) == (option is None)


@pytest.mark.parametrize("kind", RANDOM)
@given(labels=label_lists, clients=st.integers(1, 9), seed=seeds)
def test_no_example_is_given_twice_or_left_out(
    kind: str, labels: np.ndarray, clients: int, seed: int
) -> None:
    shares = run(kind, seed, labels, clients)
    assert len(shares) == clients
    owned = np.concatenate(shares)
    assert np.all((owned >= 0) & (owned < len(labels)))
    assert len(np.unique(owned)) == len(owned)
    if kind == "shards":
        # With too few clients whole classes are left out, never a part of one.
        covered = np.isin(labels, labels[owned])
        np.testing.assert_array_equal(np.sort(owned), np.flatnonzero(covered))
    else:
        assert len(owned) == len(labels)


@given(examples=st.integers(1, 80), clients=st.integers(1, 20), seed=seeds)
def test_iid_sizes_differ_by_at_most_one(examples: int, clients: int, seed: int) -> None:
    sizes = [len(share) for share in iid(generator(seed), np.zeros(examples, int), clients)]
    assert max(sizes) - min(sizes) <= 1


def test_iid_does_not_follow_the_order_of_the_examples() -> None:
    labels = np.repeat(np.arange(4), 250)
    counts = class_counts(iid(generator(0), labels, 4), labels)
    # 250 examples of 1000 without replacement: hypergeometric, variance 250 * 3/16 * 750/999.
    assert np.all(np.abs(counts - 62.5) < 5 * np.sqrt(250 * 3 / 16 * 750 / 999))


def concentration(proportions: np.ndarray) -> np.ndarray:
    """Sum of squares `[...]` of `[..., C]`: 1/C for equal proportions, 1 where one client has all.

    Its mean under Dirichlet(alpha, ..., alpha) is (1 + alpha) / (1 + C * alpha).
    """
    return np.sum(proportions**2, axis=-1)


def assert_mean_within_five_standard_errors(samples: np.ndarray, expected: float) -> None:
    error = samples.std(ddof=1) / np.sqrt(len(samples))
    # Counts of some hundred examples are rounded to whole numbers.
    assert abs(samples.mean() - expected) < 5 * error + 0.005


@pytest.mark.parametrize("alpha", [0.01, 0.1, 1.0, 10.0])
def test_dirichlet_skews_each_class_by_alpha(alpha: float) -> None:
    classes, class_size, clients = 300, 400, 5
    labels = np.repeat(np.arange(classes), class_size)
    counts = class_counts(dirichlet(generator(1), labels, clients, alpha), labels)
    assert_mean_within_five_standard_errors(
        concentration(counts.T / class_size), (1 + alpha) / (1 + clients * alpha)
    )


def test_dirichlet_with_a_huge_alpha_has_the_proportions_of_iid() -> None:
    counts = class_counts(dirichlet(generator(0), LABELS, 6, 1e8), LABELS)
    # Cumulative rounding moves each bound by half an example at most.
    assert np.all(np.abs(counts - np.bincount(LABELS) / 6) <= 1 + 1e-3)


def test_dirichlet_with_a_small_alpha_gives_most_classes_to_one_client() -> None:
    counts = class_counts(dirichlet(generator(0), LABELS, 6, 0.01), LABELS)
    largest = counts.max(0) / counts.sum(0)
    assert np.median(largest) > 0.9


@pytest.mark.parametrize("alpha", [1e-6, 1e-12, 1e-300])
@pytest.mark.parametrize("function", [dirichlet, quantity])
def test_a_tiny_alpha_gives_each_class_or_all_examples_to_one_client(
    function: Any, alpha: float
) -> None:
    clients_with_all = set()
    for seed in range(20):
        shares = function(generator(seed), LABELS, 6, alpha)
        assert sum(map(len, shares)) == len(LABELS)
        counts = class_counts(shares, LABELS)
        np.testing.assert_array_equal(counts.max(0), np.bincount(LABELS))
        clients_with_all |= set(counts.argmax(0).tolist())
    assert len(clients_with_all) > 1, "the draw is still random"


@given(
    classes=st.integers(1, 10),
    clients=st.integers(1, 12),
    most_classes=st.integers(1, 10),
    seed=seeds,
)
def test_shards_give_each_client_exactly_its_number_of_classes_and_balance_them(
    classes: int, clients: int, most_classes: int, seed: int
) -> None:
    classes_per_client = min(most_classes, classes)
    # As many examples of each class as clients, so that every client of a class gets one.
    labels = generator(seed).permutation(np.repeat(np.arange(classes), clients))
    shares = shards(generator(seed), labels, clients, classes_per_client)
    has_class = class_counts(shares, labels) > 0
    np.testing.assert_array_equal(has_class.sum(1), classes_per_client)
    clients_of_class = has_class.sum(0)
    assert clients_of_class.max() - clients_of_class.min() <= 1


def test_shards_cut_a_class_into_equal_parts_for_its_clients() -> None:
    counts = class_counts(shards(generator(0), LABELS, 15, 2), LABELS)
    for class_column in counts.T:
        parts = class_column[class_column > 0]
        assert len(parts) == 3
        assert parts.max() - parts.min() <= 1


def test_the_classes_that_shards_give_a_client_depend_on_the_seed() -> None:
    class_pairs = {
        tuple(np.unique(LABELS[shards(generator(seed), LABELS, 5, 2)[0]])) for seed in range(20)
    }
    assert len(class_pairs) > 5


@pytest.mark.parametrize("alpha", [0.1, 1.0, 10.0])
def test_quantity_skews_sizes_by_alpha(alpha: float) -> None:
    labels, clients = np.zeros(400, int), 5
    sizes = np.array(
        [[len(s) for s in quantity(generator(n), labels, clients, alpha)] for n in range(300)]
    )
    assert_mean_within_five_standard_errors(
        concentration(sizes / 400), (1 + alpha) / (1 + clients * alpha)
    )


def test_quantity_mixes_the_labels_of_every_client() -> None:
    labels = np.repeat(np.arange(4), 1000)
    shares = quantity(generator(3), labels, 5, 0.5)
    counts = class_counts(shares, labels)
    sizes = counts.sum(1, keepdims=True)
    assert sizes.max() > 2 * sizes.min()
    # Draws without replacement vary less than a binomial of variance n * 3/16.
    assert np.all(np.abs(counts - sizes / 4) <= 5 * np.sqrt(sizes * 3 / 16))


@pytest.mark.parametrize("kind", RANDOM)
def test_the_same_seed_gives_the_same_partition_and_another_seed_another(kind: str) -> None:
    first, again, other = (split(kind, LABELS, 4, seed, OPTIONS[kind]) for seed in (1, 1, 2))
    assert all(map(np.array_equal, first, again))
    assert not all(map(np.array_equal, first, other))


@pytest.mark.parametrize("kind", RANDOM)
def test_shares_come_sorted(kind: str) -> None:
    for share in split(kind, LABELS, 4, 0, OPTIONS[kind]):
        assert np.all(np.diff(share) > 0)


def test_empty_clients_are_named() -> None:
    with pytest.raises(EmptyClients, match=r"^2 clients .*: 3-4$"):
        split("iid", np.zeros(3, int), 5, 0)


def test_many_empty_clients_are_named_by_their_range() -> None:
    with pytest.raises(EmptyClients, match=r"^25 clients .*: 1-25$"):
        split("iid", np.zeros(1, int), 26, 0)


def test_natural_clients_are_in_the_order_of_their_numbers() -> None:
    owners = np.array([7, 2, 7, 9, 2, 7])  # a subset leaves out other numbers
    shares = split("natural", np.zeros(6, int), 3, 0, owners=owners)
    assert [share.tolist() for share in shares] == [[1, 4], [0, 2, 5], [3]]


@pytest.mark.parametrize(
    ("kind", "option", "least"), [("dirichlet", 0.5, 25), ("quantity", 1.0, 10)]
)
def test_a_partition_is_drawn_again_until_every_client_has_enough(
    kind: str, option: float, least: int
) -> None:
    redrawn = 0
    for seed in range(10):
        first, enough, repeated = (
            split(kind, LABELS, 10, seed, option, least=n) for n in (None, least, least)
        )
        assert min(map(len, enough)) >= least
        assert all(map(np.array_equal, enough, repeated))
        is_first = all(map(np.array_equal, first, enough))
        assert is_first == (min(map(len, first)) >= least), (
            "the first draw is the one without least"
        )
        redrawn += not is_first
    assert redrawn > 1


def test_the_error_says_how_many_examples_the_best_draw_reached() -> None:
    with pytest.raises(SmallClients) as error:
        split("quantity", LABELS, 10, 0, 0.5, least=60)
    assert 0 < error.value.reached < 60 and error.value.draws == 200
    with pytest.raises(SmallClients) as error:
        split("iid", LABELS, 7, 0, least=90)
    assert (error.value.reached, error.value.draws) == (600 // 7, 1)


@pytest.mark.parametrize(
    ("shares", "text"),
    [
        ([[0, 1]], "1 lists"),
        ([[0, 1], [2, 600]], "positions 2 to 600"),
        ([[0, 1], [-1]], "positions -1 to -1"),
        ([[0, 1], [2.0]], "float64"),
        ([[0, 1], [[2]]], "int64"),
    ],
)
def test_a_user_defined_partition_without_index_lists_is_refused(
    shares: Any, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(PARTITIONS, "custom", Kind(lambda rng, labels, clients: shares))
    with pytest.raises(BadShares, match=f"^{text}"):
        split("custom", LABELS, 2, 0)


def scattered(sizes: list[int], seed: int) -> Shares:
    return np.split(generator(seed).permutation(sum(sizes)), np.cumsum(sizes)[:-1])


share_sizes = st.lists(st.integers(0, 6), min_size=1, max_size=8).filter(any)


@given(sizes=share_sizes, seed=seeds)
def test_pack_lays_shares_end_to_end(sizes: list[int], seed: int) -> None:
    shares = scattered(sizes, seed)
    order, packed = pack(shares)
    assert isinstance(packed, Partition)
    assert {order.dtype, *(part.dtype for part in packed)} == {np.dtype(np.int32)}
    np.testing.assert_array_equal(packed.sizes, sizes)
    np.testing.assert_array_equal(packed.starts, np.cumsum(sizes) - sizes)
    np.testing.assert_array_equal(order, np.concatenate(shares))


@given(sizes=share_sizes, devices=st.integers(1, 4), seed=seeds)
def test_pack_lays_shares_on_the_devices_of_their_clients_without_overlap(
    sizes: list[int], devices: int, seed: int
) -> None:
    shares = scattered(sizes, seed)
    owners = generator(seed + 1).integers(devices, size=len(sizes))
    order, packed = pack(shares, owners, devices)
    assert {order.dtype, *(part.dtype for part in packed)} == {np.dtype(np.int32)}
    np.testing.assert_array_equal(packed.sizes, sizes)
    # Every device has as many rows as the one with the most examples.
    rows = np.bincount(owners, sizes, minlength=devices).max()
    assert order.size == devices * rows and set(order) == set(range(sum(sizes)))
    positions = []
    for share, owner, start in zip(shares, owners, np.asarray(packed.starts), strict=True):
        of_client = start + np.arange(share.size)
        np.testing.assert_array_equal(order[of_client], share)
        np.testing.assert_array_equal(of_client // rows, owner)
        positions += of_client.tolist()
    assert len(set(positions)) == len(positions)


@given(labels=label_lists, clients=st.integers(1, 9), seed=seeds)
def test_labels_of_each_client_are_counted(labels: np.ndarray, clients: int, seed: int) -> None:
    shares = iid(generator(seed), labels, clients)
    expected = [[np.sum(labels[share] == label) for label in range(6)] for share in shares]
    np.testing.assert_array_equal(label_counts(shares, labels, 6), expected)
