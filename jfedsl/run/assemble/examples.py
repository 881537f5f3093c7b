"""The examples that a run uses, where they lie, and the statistics of all training images."""

import jax

from jfedsl.config import Config
from jfedsl.data import datasets, pixels
from jfedsl.data.datasets import Dataset, Split
from jfedsl.data.pixels import Pixels
from jfedsl.data.stored import StoredImages
from jfedsl.engine.evaluation_set import TestSet, fold_test_set, test_spec
from jfedsl.errors import flag_error
from jfedsl.run.processes import distributed
from jfedsl.sharding.slots import SlotLayout, put


def pixels_of(dataset: Dataset) -> Pixels:
    """Statistics of all training images; of stored ones each process reads its part."""
    images = dataset.train.images
    if not dataset.normalise:
        return Pixels(None, None)
    if not isinstance(images, StoredImages):
        return pixels.pixel_statistics(images)
    sums = pixels.pixel_sums(images, jax.process_index(), jax.process_count())
    return pixels.from_sums(distributed.total(sums), images)


def check_augment(config: Config, dataset: Dataset) -> None:
    """Refuses random changes of what is no image.

    Raises:
      UserError: names the flag and what inputs are.
    """
    shape = dataset.train.images.shape[1:]
    if config.augment == "none":
        return
    if len(shape) != 3:
        allowed = f"none with inputs of shape {list(shape)}"
        raise flag_error("augment", config.augment, allowed, reason="images are [H, W, C]")
    if dataset.integer_inputs:
        allowed = "none with inputs that are whole numbers, such as token ids"
        raise flag_error("augment", config.augment, allowed)


def subset_of(config: Config, dataset: Dataset) -> Dataset:
    """As many examples of each split as are asked for."""

    def some(split: Split, flag: str) -> Split:
        wanted = getattr(config, flag)
        if wanted is None:
            return split
        if wanted > len(split.labels):
            allowed = f"at most the {len(split.labels)} examples of {config.dataset}"
            raise flag_error(flag, wanted, allowed)
        return datasets.subset(split, wanted)

    train, test = some(dataset.train, "train_examples"), some(dataset.test, "test_examples")
    return dataset._replace(train=train, test=test)


def on_devices(config: Config, split: Split, slots: SlotLayout) -> TestSet:
    """The examples of a split in batches, spread over devices as far as batches can be shared."""
    inputs, size = split.images[:], config.eval_batch_size
    test = fold_test_set(inputs, split.targets, size, split.byte_counts)
    placed: TestSet = put(slots.mesh, test, test_spec(test, slots))
    return placed
