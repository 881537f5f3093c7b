"""Which client has which examples, and what is said of classes that nobody has."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from jfedsl.config import Config, shown
from jfedsl.config.allowed import FROM_DATA
from jfedsl.data import partition, sources
from jfedsl.data.datasets import Dataset
from jfedsl.data.labels import are_plain, shortened
from jfedsl.data.partition import PARTITIONS, Shares, ranges
from jfedsl.data.validation import HeldOut, hold_out, needed
from jfedsl.errors import UserError, flag_error
from jfedsl.run.assemble.examples import subset_of


def with_clients(config: Config, dataset: Dataset) -> Config:
    """The config with as many clients as the data has, where it leaves their number open.

    Raises:
      UserError: the data does not say who owns its examples; or a setting does not suit the number.
    """
    if config.clients != FROM_DATA:
        return config
    count = len(np.unique(_owners(config, dataset)))
    return dataclasses.replace(config, clients=count)


def counted(config: Config) -> Config:
    """As `with_clients`, but loads the data only where that is needed."""
    if config.clients != FROM_DATA:
        return config
    return with_clients(config, subset_of(config, sources.load(config.dataset, config.data_dir)))


def examples_of_clients(config: Config, dataset: Dataset) -> HeldOut:
    """Training examples of all clients, enough for a batch where that is needed; and validation.

    Raises:
      UserError: names the flag that the data cannot satisfy.
    """
    shares, fraction = shares_of(config, dataset), config.validation_fraction
    held = HeldOut(shares, np.zeros(0, int), np.zeros(0, int))
    if fraction:
        held = hold_out(shares, fraction, config.seed)
        if not held.validation.size:
            allowed = "large enough that a client holds out an example"
            reason = f"the largest client has {max(map(len, shares))} examples"
            raise flag_error("validation_fraction", fraction, allowed, reason=reason)
    small = int(np.argmin([len(share) for share in held.shares]))
    count = len(held.shares[small])
    if config.sampling == "epoch" and count < config.batch_size:
        least = needed(config.batch_size, fraction)
        more = f"; --min_examples={least} draws again" if _draws(config) else ""
        training = "training " if fraction else ""
        allowed = f"at most {count} (the {training}examples of client {small})"
        reason = f"--sampling=replacement has no limit{more}"
        raise flag_error("batch_size", config.batch_size, allowed, reason=reason)
    return held


def client_names(config: Config, dataset: Dataset) -> tuple[str, ...]:
    """The name of each client in the user's data; empty where clients have only numbers."""
    values = dataset.client_values
    if not PARTITIONS[config.partition].owned or values is None:
        return ()
    present = values[np.unique(_owners(config, dataset))]
    return () if are_plain(present) else tuple(map(str, present))


def notes_on_clients(config: Config, held: HeldOut, names: Sequence[str]) -> list[str]:
    """Who the clients are, how many examples are held out, and which clients hold out none."""
    notes = [f"clients 0 to {len(names) - 1}: {shortened(names)}"] if names else []
    return notes + _held_out_notes(config, held)


def _held_out_notes(config: Config, held: HeldOut) -> list[str]:
    if not held.validation.size:
        return []
    share = f"{config.validation_fraction:g} of each client's"
    lines = [f"validation set: {len(held.validation)} training examples, {share}"]
    if held.without.size:
        which = ranges(held.without.tolist())
        who, all_ = f"client {which} is", "it trains on all it has"
        if len(held.without) > 1:
            who, all_ = f"clients {which} are", "they train on all they have"
        lines.append(f"{who} too small to hold out an example; {all_}")
    return lines


def shares_of(config: Config, dataset: Dataset) -> Shares:
    """Index lists of all clients.

    Raises:
      UserError: names the flag that the data cannot satisfy.
    """
    _check_classes(config, dataset)
    kind, train, least = config.partition, dataset.train, config.min_examples
    if PARTITIONS[kind].owned:
        _check_owners(config, dataset)
    if config.clients > len(train.labels):  # before anything is allocated for each of them
        allowed = f"at most {len(train.labels)} (the number of training examples)"
        raise flag_error("clients", config.clients, allowed)
    option = PARTITIONS[kind].option
    value = None if option is None else getattr(config, option)
    arguments = (kind, train.labels, config.clients, config.seed, value, train.owners, least)
    try:
        return partition.split(*arguments)
    except partition.EmptyClients as error:
        allowed = f"as many as --partition={kind} can feed from {len(train.labels)} examples"
        raise flag_error("clients", config.clients, allowed, reason=str(error)) from None
    except partition.SmallClients as error:
        raise _too_few(config, error) from None
    except partition.BadShares as error:
        lists = f"--clients={config.clients} lists of positions below {len(train.labels)}"
        allowed, reason = f"a partition that makes {lists}", f"this one makes {error}"
        raise flag_error("partition", kind, allowed, reason=reason) from error


def _draws(config: Config) -> bool:
    return config.min_examples is None and PARTITIONS[config.partition].redraws


def _check_classes(config: Config, dataset: Dataset) -> None:
    if PARTITIONS[config.partition].by_class and not dataset.of_classes:
        others = ", ".join(name for name, kind in PARTITIONS.items() if not kind.by_class)
        reason = "it spreads classes, and the targets are real numbers"
        raise flag_error("partition", config.partition, f"one of {others}", reason=reason)
    classes = len(np.unique(dataset.train.labels))
    if config.partition == "shards" and config.classes_per_client > classes:
        allowed = f"at most the {classes} classes among the training examples"
        raise flag_error("classes_per_client", config.classes_per_client, allowed)


def _owners(config: Config, dataset: Dataset) -> np.ndarray:
    """The client of each training example; refuses a partition by it where it is not known."""
    owners = dataset.train.owners
    if owners is None:
        others = ", ".join(name for name, kind in PARTITIONS.items() if not kind.owned)
        allowed = f"one of {others} with --dataset={config.dataset}"
        reason = (
            "the data set does not say which client owns which example, as "
            "from_arrays(..., clients=owners) and a file with client do"
        )
        raise flag_error("partition", config.partition, allowed, reason=reason)
    return owners


def _check_owners(config: Config, dataset: Dataset) -> None:
    owners = _owners(config, dataset)
    count = len(np.unique(owners))
    if count != config.clients:
        allowed = f"{count} with --partition={config.partition}"
        reason = f"the {len(owners)} training examples have {count} owners; leave the flag out"
        raise flag_error("clients", config.clients, allowed, reason=reason)


def _too_few(config: Config, error: partition.SmallClients) -> UserError:
    kind = PARTITIONS[config.partition]
    allowed = f"at most {error.reached} with --partition={config.partition}"
    if not kind.redraws:
        allowed += f" and --clients={config.clients}"
        return flag_error("min_examples", config.min_examples, allowed)
    other, larger = "", ""
    if kind.option is not None:
        other = f", --{kind.option}={shown(getattr(config, kind.option))}"
        larger = f" or a larger --{kind.option}"
    allowed += f"{other} and --clients={config.clients} (the best of {error.draws} draws)"
    reason = f"fewer --clients{larger} would allow more"
    return flag_error("min_examples", config.min_examples, allowed, reason=reason)


def class_counts(dataset: Dataset, shares: Shares) -> tuple[np.ndarray | None, list[str]]:
    """Examples of each class that each client has, int `[C, classes]`, and notes on classes.

    None and no notes where targets are no classes.
    """
    if not dataset.of_classes:
        return None, []
    counts = partition.label_counts(shares, dataset.train.labels, dataset.classes)
    tests = np.bincount(dataset.test.labels, minlength=dataset.classes)
    return counts, notes_on_classes(counts.sum(axis=0), tests, dataset.class_names)


def notes_on_classes(held: np.ndarray, tested: np.ndarray, names: Sequence[str] = ()) -> list[str]:
    """Which classes lack examples, a line for each lack.

    Args:
      held: training examples of clients by class, int `[classes]`.
      tested: test examples by class, int `[classes]`.
      names: name of each class; empty for their numbers.
    """
    unseen, empty = (np.flatnonzero((held == 0) & there) for there in (tested > 0, tested == 0))
    notes = []
    if unseen.size:
        share = f"{tested[unseen].sum()} of {tested.sum()} test examples"
        notes.append(f"no client has examples of {_classes(unseen, names)}, which are {share}")
    if empty.size:
        notes.append(f"no examples at all of {_classes(empty, names)}")
    return notes


def _classes(numbers: np.ndarray, names: Sequence[str]) -> str:
    which = shortened([names[n] for n in numbers]) if names else ranges(numbers.tolist())
    return f"class{'' if len(numbers) == 1 else 'es'} {which}"
