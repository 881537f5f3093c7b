"""Devices of a run: by range, by class, by network; what they can hold; what they can prune to."""

from functools import partial
from typing import Any

import jax
import numpy as np
import pytest
from helpers import assert_equal, differs

from jfedsl.config import Config
from jfedsl.engine.conditions import round_conditions
from jfedsl.errors import UserError
from jfedsl.run.assemble import Experiment, build
from jfedsl.run.assemble.cuts_by_resource import links_of
from jfedsl.run.assemble.hardware import capacities_of, hardware_of, network_of
from jfedsl.run.assemble.radio import memory_of
from jfedsl.wireless.network import HARDWARE_CLASSES, NETWORKS
from jfedsl.wireless.radio import Conditions


def config(**changes: Any) -> Config:
    settings: dict[str, Any] = {
        "model": "mlp", "norm": "none", "train_examples": 200, "test_examples": 50, "clients": 4,
        "batch_size": 4, "partition": "iid",
    }  # fmt: skip
    return Config(**(settings | changes))


def first_conditions(**changes: Any) -> Conditions:
    """Of all clients in the first round."""
    e = build(config(**changes))
    state = e.init()
    of_round = jax.jit(partial(round_conditions, e.spec))
    return of_round(e.key, state.round, state.participants, state.clients)


def test_flags_change_the_preset_and_nothing_else():
    base = NETWORKS["small_cell"]
    network = network_of(config(network="small_cell", bandwidth_hz=1e6, fading="none"))
    assert base is not None and network is not None
    assert (network.up_hz, network.down_hz, network.fading) == (1e6, 1e6, "none")
    same = network._replace(up_hz=base.up_hz, down_hz=base.down_hz, fading=base.fading)
    assert same == base
    assert network_of(config(network="none")) is None


def test_flags_of_fading_and_motion_change_the_preset():
    flags = {"fading_memory": 0.9, "device_speed": 2.0, "mobility_step_s": 5.0}
    network = network_of(config(**flags))
    assert network is not None
    assert (network.fading_memory, network.device_speed, network.mobility_step) == (0.9, 2.0, 5.0)
    spec = build(config(network="wideband", device_speed=2.0)).spec
    assert spec.radio is not None and spec.radio.deployment.hardware.motion is None


def test_ranges_are_spread_and_alike_in_order():
    hardware = hardware_of(config(device_flops="1e9-4e9", device_power_dbm="10-40"))
    np.testing.assert_allclose(np.sort(hardware.flops), [1e9, 2e9, 3e9, 4e9])
    np.testing.assert_allclose(np.sort(hardware.power_dbm), [10, 20, 30, 40])
    assert (hardware.flops.argsort() == hardware.power_dbm.argsort()).all()
    assert np.isinf(hardware.memory).all()


def test_classes_are_dealt_to_all_clients():
    hardware = hardware_of(config(device_classes="3*sensor, 1*phone"))
    assert sorted(hardware.flops) == sorted(
        [HARDWARE_CLASSES["sensor"].flops] * 3 + [HARDWARE_CLASSES["phone"].flops]
    )
    phone = int(np.argmax(hardware.flops))
    assert hardware.power_dbm[phone] == HARDWARE_CLASSES["phone"].power_dbm
    assert hardware.memory[phone] == HARDWARE_CLASSES["phone"].memory


WRONG_CLASSES = [
    "3*phone", "3*phone,2*sensor", "4*toaster", "phone", "4*phone,", "2147483647*phone",
    "9" * 5000 + "*phone", "1*phone," * 20_000, "9" * 100_000,
]  # fmt: skip


@pytest.mark.parametrize("text", WRONG_CLASSES, ids=range(len(WRONG_CLASSES)))
def test_classes_that_do_not_cover_the_clients_are_refused(text):
    with pytest.raises(UserError, match="device_classes must be") as error:
        config(device_classes=text)
    assert "\n" not in str(error.value) and len(str(error.value)) < 600


def network_draws(e: Experiment) -> tuple[Any, ...]:
    """Of all clients: devices and links, and the conditions of the second round."""
    state, radio = e.init(), e.spec.radio
    assert radio is not None
    of_round = jax.jit(partial(round_conditions, e.spec))
    second = of_round(e.key, state.round + 1, state.participants, state.clients)
    return radio.deployment.hardware, second


NETWORK: dict[str, Any] = {
    "device_flops": "1e9-1e10", "device_power_dbm": "10-20", "shadowing_db": 8.0,
    "device_speed": 30.0, "fading_memory": 0.5, "outage_snr_db": 5.0,
}  # fmt: skip


@pytest.mark.parametrize("seed", [3, 2**32 - 1])
def test_a_network_with_a_seed_of_its_own_is_that_of_a_run_with_this_seed(seed: int):
    plain, moved, other = (
        build(config(**NETWORK, **seeds))
        for seeds in ({"seed": 1}, {"seed": 1, "network_seed": seed}, {"seed": seed})
    )
    assert_equal(network_draws(moved), network_draws(other))
    for mine, before in zip(*map(network_draws, (moved, plain)), strict=True):
        assert differs(mine, before)
    # Weights, examples and all other keys are those of the run's seed.
    assert_equal(moved.initial, plain.initial)
    assert_equal(moved.data.partition, plain.data.partition)
    assert_equal(moved.init(), plain.init())
    assert moved.key == plain.key


def test_the_seed_of_the_network_changes_costs_but_not_training():
    def rounds(**seeds: Any) -> Any:
        e = build(config(participants=2, rounds=2, aggregate_every=1, **seeds))
        return e.rounds(2)(e.data, e.key, e.init(), 2)

    (state, record), (same, same_record), (_, other) = (
        rounds(), rounds(network_seed=0), rounds(network_seed=1)
    )  # fmt: skip
    assert_equal((same, same_record), (state, record))
    assert_equal(other.participants, record.participants)
    assert_equal(other.losses, record.losses)
    assert differs(other.conditions.up_rate, record.conditions.up_rate)


def test_ranges_over_clients_stay_in_the_order_of_devices():
    pruned = {"prune_policy": "by_resource", "client_capacity": "0.25-1"}
    mine = config(seed=1, network_seed=2, device_flops="1e9-4e9", **pruned)
    np.testing.assert_array_equal(hardware_of(mine).flops.argsort(), capacities_of(mine).argsort())
    classes = config(seed=1, network_seed=2, device_classes="3*sensor, 1*phone")
    of_seed = config(seed=2, device_classes="3*sensor, 1*phone")
    assert_equal(hardware_of(classes), hardware_of(of_seed))


def test_cuts_by_resource_follow_the_seed_of_the_network():
    one, other = config(seed=1, network_seed=2), config(seed=2)
    assert_equal(links_of(one), links_of(other))
    assert differs(links_of(one), links_of(config(seed=1)))


def test_memory_adds_up_and_is_asked_for():
    experiment = build(config(momentum=0.9, prune_kind="none"))
    spec = experiment.spec
    side, image = spec.model[: spec.cut], experiment.image.shape
    memory = memory_of(config(), spec, side, image)
    weights = 64 * 256 + 256
    batch, signs, cut_gradient = 4 * 4 * 64, 4 * 256, 4 * 4 * 256
    assert memory == (4 * weights, 4 * weights, 4 * weights, batch, signs, cut_gradient)
    build(config(device_memory=str(memory.total), prune_kind="none"))
    with pytest.raises(UserError, match=f"--device_memory must be at least {memory.total} bytes"):
        build(config(device_memory=str(memory.total - 1), prune_kind="none"))


def test_memory_has_room_for_the_auxiliary_head() -> None:
    head = {"algorithm": "local_loss", "aux": "mlp(3000)", "prune_kind": "none"}
    with pytest.raises(UserError, match="--device_memory must be at least [0-9]{7} bytes"):
        build(config(device_memory="1000000", **head))  # 256 * 3000 weights and gradients


def test_a_fit_of_the_head_takes_flops_and_memory() -> None:
    spec = build(config(algorithm="sage", align_steps=3, network="macro_cell", momentum=0.9)).spec
    batch, entries, classes = 4, 256, 10
    # Outputs, gradient at the input, and three products for the gradient of the error.
    products = 5 * 2 * batch * entries * classes
    assert spec.radio is not None and products < spec.radio.flop_counts.fit / 3 < 1.2 * products
    never = spec._replace(options={**spec.options, "align_every": 0})
    with_fit, without = (memory_of(config(), s, s.model[: s.cut], (8, 8, 1)) for s in (spec, never))
    more = dict(zip(without._fields, np.subtract(with_fit, without).tolist(), strict=True))
    logits, at_cut = 4 * batch * classes, 4 * batch * entries
    assert 0 < more.pop("residuals") < 10 * logits, "shares of classes, in some forms"
    assert more == {
        "parameters": 0, "gradients": 0, "optimizer": 4 * (entries * classes + classes),
        "batch": 0, "cut_gradient": at_cut - logits,
    }  # fmt: skip


def test_memory_of_other_ways_to_compute():
    def residuals(**changes: Any) -> int:
        spec = build(config(prune_kind="none", **changes)).spec
        return memory_of(config(), spec, spec.model[: spec.cut], (8, 8, 1)).residuals

    signs, entries = 4 * 256, 4 * 64
    assert residuals() == residuals(remat_clients=True) == signs
    assert residuals(compute_dtype="bfloat16") == signs + 2 * entries
    assert residuals(client_backward="int8") > signs + entries
    assert residuals(algorithm="fedavg") > 2 * signs, "the whole model"


def test_a_pruned_part_fits_where_the_dense_one_does_not():
    spec = build(config()).spec
    image = (8, 8, 1)
    whole = memory_of(config(), spec, spec.model[: spec.cut], image).total
    small = {"prune_kind": "channel", "prune_rate": (0.75,), "device_memory": str(whole // 2)}
    build(config(**small))
    with pytest.raises(UserError, match="lack memory"):
        build(config(**small, prune_ramp_rounds=10))  # which starts dense


def test_capacity_follows_from_the_devices():
    slow = {"prune_kind": "channel", "prune_policy": "by_resource"}
    by_device = build(config(**slow, device_flops="2.5e9,1e10,5e9,1e10"))
    by_flag = build(config(**slow, client_capacity="0.25,1,0.5,1"))
    for one, other in zip(by_device.spec.pruner.groups, by_flag.spec.pruner.groups, strict=True):
        np.testing.assert_array_equal(one, other)
    assert len(by_device.spec.pruner.groups) > 1


def test_a_higher_channel_prune_rate_is_never_more_client_seconds():
    seconds = []
    for rate in (0.0, 0.25, 0.75):
        now = first_conditions(prune_kind="channel", prune_rate=(rate,))
        seconds.append(now.forward + now.backward)
    assert (np.diff(np.array(seconds), axis=0) < 0).all()


def test_ideal_sparse_kernels_save_what_is_pruned_of_weights_but_nothing_of_channels():
    dense = first_conditions(prune_rate=(0.5,)).forward
    half = first_conditions(prune_rate=(0.5,), mask_compute="ideal").forward
    np.testing.assert_allclose(half, dense / 2, 1e-5)
    narrow = first_conditions(prune_kind="channel", prune_rate=(0.5,)).forward
    wide = {"prune_kind": "channel", "prune_rate": (0.5,), "mask_compute": "ideal"}
    ideal = first_conditions(**wide).forward
    np.testing.assert_array_equal(ideal, narrow)
