"""Accuracies on the digits that only whole training runs show; a minute each, hence slow."""

import numpy as np
import pytest
from helpers import parse

from jfedsl.run import training

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("standard_promotion")]
SEEDS = (0, 1, 2)
UNCOMPRESSED = ["--smashed_bits=32", "--client_gradient_bits=32", "--cut_gradient_bits=32"]


def final(tmp_path, *arguments):
    """Final accuracies `[seeds]`, as tested and as deployed."""
    accuracies = []
    for seed in SEEDS:
        folder = tmp_path / f"{len(list(tmp_path.iterdir()))}"
        config = parse([*arguments, f"--seed={seed}", f"--workdir={folder}", "--progress=none"])
        summary = training.train(config)
        accuracies.append((summary["final_accuracy"], summary["final_accuracy_deployed"]))
    return np.array(accuracies).T


@pytest.mark.parametrize("kind", ["channel", "mask"])
@pytest.mark.parametrize("schedule", ["cosine", "constant"])
def test_taylor_scores_train_as_well_as_magnitudes(tmp_path, kind, schedule):
    common = ["--model=cnn", "--cut=pool2", f"--prune_kind={kind}", "--prune_rate=0.5"]
    common += [*UNCOMPRESSED, f"--learning_rate_schedule={schedule}"]
    taylor, magnitude = (
        final(tmp_path, *common, f"--prune_score={score}")[0] for score in ("taylor", "magnitude")
    )
    assert taylor.mean() > magnitude.mean() - 0.01, (taylor, magnitude)
    assert np.all(taylor > magnitude - 0.02), (taylor, magnitude)


@pytest.mark.parametrize(("keep", "least"), [(0.05, 0.94), (0.1, 0.97)])
def test_a_model_trained_behind_top_k_is_good_behind_top_k(tmp_path, keep, least):
    links = [f"--smashed=topk({keep},each=example)", "--cut_gradient=none"]
    tested, deployed = final(tmp_path, *links, "--client_gradient=none", "--prune_kind=none")
    assert np.all(deployed >= least), deployed
    assert deployed.mean() > tested.mean() + 0.01, (tested, deployed)


def test_unbiased_compressors_are_tested_alike_either_way(tmp_path):
    tested, deployed = final(tmp_path, "--smashed=dropout(0.2)|uniform(8)")
    assert np.all(np.abs(tested - deployed) < 0.01), (tested, deployed)
