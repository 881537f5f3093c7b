"""The settings of data and of how it is divided over clients, a part of `Config`."""

import dataclasses

from jfedsl.config.allowed import CLIENT_COUNT, COUNT, FOLDER, FRACTION, POSITIVE, OneOf, setting
from jfedsl.data import sources
from jfedsl.data.augment import AUGMENTATIONS
from jfedsl.data.datasets import DATASETS
from jfedsl.data.partition import PARTITIONS

CLIENTS = 10  # where neither the user nor the data says how many


@dataclasses.dataclass(frozen=True)
class DataFields:
    """Settings of the examples and of the clients that have them."""

    dataset: str = setting("digits", "Data set.", OneOf(DATASETS, sources.FORMS))
    data_dir: str = setting(
        "data", "Folder of prepared data sets.", FOLDER, may_change_on_resume=True
    )
    train_examples: int | None = setting(
        None, "Training examples used, a fixed choice whatever the seed; default all.", COUNT
    )
    test_examples: int | None = setting(
        None, "Test examples used, a fixed choice whatever the seed; default all.", COUNT
    )
    augment: str = setting(
        "none", "Random changes of training images: crops of the image padded by 4, and flips.",
        OneOf(AUGMENTATIONS),
    )  # fmt: skip
    clients: int = setting(
        None, f"Clients in all. Default {CLIENTS}; with --partition=natural as many as the data "
        "has.", CLIENT_COUNT,
    )  # fmt: skip
    partition: str = setting(
        "dirichlet", "How training examples are spread over clients.", OneOf(PARTITIONS)
    )
    dirichlet_alpha: float = setting(
        0.5, "Concentration of --partition=dirichlet; smaller is more skewed.", POSITIVE
    )
    classes_per_client: int = setting(2, "Classes of each client in --partition=shards.", COUNT)
    quantity_alpha: float = setting(
        0.5, "Concentration of --partition=quantity; smaller is more skewed.", POSITIVE
    )
    min_examples: int | None = setting(
        None, "Examples that every client has at least; dirichlet and quantity are drawn again "
        "until then, 200 times at most. Default: drawn once.", COUNT,
    )  # fmt: skip
    validation_fraction: float = setting(
        0.0, "Fraction of each client's training examples that is held out. Evaluations during "
        "training then use these examples, and the test set is evaluated once, at the end.",
        FRACTION,
    )  # fmt: skip
