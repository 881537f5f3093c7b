"""What a run makes of the clients its data names, and of classes that nobody has."""

import dataclasses
from typing import Any

import numpy as np
import pytest
from helpers import plain

from jfedsl.data.datasets import DATASETS, from_arrays, load
from jfedsl.data.partition import PARTITIONS, Kind
from jfedsl.errors import UserError
from jfedsl.run.assemble.examples import subset_of
from jfedsl.run.assemble.shares import (
    client_names,
    examples_of_clients,
    notes_on_classes,
    notes_on_clients,
    shares_of,
    with_clients,
)

OWNERS = np.array(["ann", "bob", "cid", "dot"])[np.random.default_rng(0).integers(0, 4, 200)]
INPUTS = np.arange(400.0).reshape(200, 2)
LABELS = np.arange(200) % 5
OWNED = from_arrays((INPUTS, LABELS), (INPUTS, LABELS), clients=OWNERS)


def test_natural_clients_are_the_owners_and_stay_so_in_a_subset() -> None:
    config = plain(partition="natural", clients=4, train_examples=120)
    some = subset_of(config, OWNED).train
    shares = shares_of(config, subset_of(config, OWNED))
    for name, share in zip(["ann", "bob", "cid", "dot"], shares, strict=True):
        positions = (some.images[share, 0] / 2).astype(int)
        assert len(share) > 9 and set(OWNERS[positions]) == {name}
    assert sum(map(len, shares)) == 120


def test_natural_clients_are_counted_where_their_number_is_open() -> None:
    config = plain(
        partition="natural",
        clients=None,
        client_capacity="1,0.5,0.5,0.25",
        prune_policy="by_resource",
        prune_kind="mask",
    )
    counted = with_clients(config, OWNED)
    assert (config.clients, counted.clients) == (0, 4)
    assert len(shares_of(counted, OWNED)) == 4
    assert with_clients(plain(), OWNED).clients == 4, "as given"
    with pytest.raises(UserError, match="^--client_capacity must be one value, --clients=4 values"):
        with_clients(dataclasses.replace(config, client_capacity="1,0.5"), OWNED)
    with pytest.raises(UserError, match="^--participants must be at most --clients=4, not 5"):
        with_clients(dataclasses.replace(config, participants=5), OWNED)
    with pytest.raises(UserError, match="^--partition must be one of iid.*=digits"):
        with_clients(config, load("digits", ""))


def test_clients_that_the_data_names_are_named() -> None:
    config = plain(partition="natural", train_examples=120)
    dataset = subset_of(config, OWNED)
    names = client_names(config, dataset)
    assert names == ("ann", "bob", "cid", "dot")
    (note,) = notes_on_clients(config, examples_of_clients(config, dataset), names)
    assert note == "clients 0 to 3: ann, bob, cid, dot"
    some = dataset.train._replace(owners=np.array([3, 1])[np.arange(120) % 2])
    assert client_names(config, dataset._replace(train=some)) == ("bob", "dot"), "those present"
    assert client_names(plain(), OWNED) == (), "other clients than the data names"
    numbered = from_arrays((INPUTS, LABELS), (INPUTS, LABELS), clients=np.arange(200) % 4)
    assert client_names(config, numbered) == ()


def own(rng: Any, labels: Any, clients: int) -> Any:
    return [np.arange(8)] * (clients - 1)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"partition": "natural", "clients": 9}, "--clients must be 4 with --partition=n"),
        ({"partition": "natural", "dataset": "digits"}, "--partition must be one of "),
        ({"partition": "natural", "min_examples": 99}, "--min_examples must be at most 4"),
        (
            {"partition": "dirichlet", "min_examples": 51},
            r"--min_examples must be at most \d+ with --partition=dirichlet, "
            r"--dirichlet_alpha=0.5 and --clients=4 .the best of 200 "
            r"draws., not 51; fewer --clients or a larger --dirichlet_alpha would allow more",
        ),
        (
            {"partition": "iid", "clients": 2**31 - 1},
            "--clients must be at most 200",
        ),
        ({"partition": "own"}, "--partition must be a partition that makes --clients=4 lists of "),
        (
            {"partition": "dirichlet", "dirichlet_alpha": 0.01, "clients": 9},
            "--clients must be as many as --partition=dirichlet can feed from 200 examples, not 9;",
        ),
        (
            {"partition": "dirichlet", "batch_size": 60},
            r"--batch_size must be at most \d+ .the examples of client \d.*; --min_examples=60 dr",
        ),
    ],
)
def test_shares_that_cannot_be_are_refused(
    changes: dict[str, Any], text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(PARTITIONS, "own", Kind(own))
    monkeypatch.setitem(DATASETS, "owned", lambda data_dir: OWNED)
    config = plain(**{"dataset": "owned", **changes})
    with pytest.raises(UserError, match=f"^{text}"):
        examples_of_clients(config, load(config.dataset, ""))


def test_arrays_that_a_loader_cannot_take_are_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = (INPUTS, np.eye(5)[np.arange(200) % 5])
    monkeypatch.setitem(DATASETS, "rows", lambda data_dir: from_arrays(rows, rows))
    with pytest.raises(UserError, match=r"^--dataset=rows: train labels: .* labels.argmax\(1\)"):
        load("rows", "")


def test_a_file_that_a_loader_cannot_read_is_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(DATASETS, "mine", lambda data_dir: open("/nowhere/x.npy"))
    with pytest.raises(UserError, match=r"^--dataset=mine: .* No such file .*: '/nowhere/x.npy'$"):
        load("mine", "")


def test_classes_that_nobody_has_are_noted() -> None:
    tested = np.array([0, 4, 5, 6, 0, 7])
    assert notes_on_classes(np.array([1, 1, 1, 1, 1, 1]), tested) == []
    assert notes_on_classes(np.array([0, 3, 0, 0, 0, 1]), tested) == [
        "no client has examples of classes 2-3, which are 11 of 22 test examples",
        "no examples at all of classes 0, 4",
    ]
    (note, _) = notes_on_classes(np.array([0, 3, 0, 0, 0, 1]), tested, list("abcdef"))
    assert note == "no client has examples of classes c, d, which are 11 of 22 test examples"
