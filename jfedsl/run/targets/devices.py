"""Accelerators that programs can be compiled for where there is none."""

import importlib.util
import os
from typing import Any, NamedTuple

import jax
from jax.experimental import topologies

from jfedsl.errors import UserError, flag_error, one_line

GIB = 2**30
_TPU_BYTES = {"v5e": 16 * GIB, "v5p": 95 * GIB, "v6e": 32 * GIB}  # published, of each chip
_TPU_EXTRA, _GPU_EXTRA = "pip install 'jfedsl[tpu]'", "pip install 'jfedsl[cuda]'"
# What XLA has to know of an H100 with 80 GB: its published numbers, and those that JAX shows there.
_H100 = """
gpu_device_info {
  threads_per_block_limit: 1024 threads_per_warp: 32 threads_per_core_limit: 2048
  shared_memory_per_block: 49152 shared_memory_per_core: 233472
  shared_memory_per_block_optin: 232448
  core_count: 132 fpus_per_core: 128
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  memory_bandwidth: 3352320000000 l2_cache_size: 52428800 clock_rate_ghz: 1.98
  device_memory_size: 84942979072
  cuda_compute_capability { major: 9 }
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 8 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""
_H100_BYTES = 84942979072
FORMS = "v5e:2x2, v5e:2x4, v5p:2x2x1 or another shape of v5e, v5p and v6e, or h100"


class Target(NamedTuple):
    """Accelerators that a program is compiled for.

    Attributes:
      name: as given, such as v5e:2x2.
      platform: gpu or tpu.
      devices: of `jax.experimental.topologies`; they compile, but run nothing.
      memory: bytes of each device.
    """

    name: str
    platform: str
    devices: list[Any]
    memory: int


def target_of(name: str) -> Target:
    """The accelerators of a name: TPU:SHAPE, such as v5e:2x2, or h100 for one GPU.

    Raises:
      UserError: an unknown name, or the package that compiles for it is not installed.
    """
    kind, _, shape = name.partition(":")
    if name == "h100":
        devices = _devices(name, "jax_plugins.xla_cuda13", _GPU_EXTRA, _h100)
        return Target(name, "gpu", devices, _H100_BYTES)
    if kind in _TPU_BYTES and shape.replace("x", "").isdecimal():
        devices = _devices(name, "libtpu", _TPU_EXTRA, lambda: _tpu(name))
        return Target(name, "tpu", devices, _TPU_BYTES[kind])
    raise flag_error("target", name, FORMS)


def _devices(name: str, module: str, extra: str, describe: Any) -> list[Any]:
    if not _is_installed(module):
        raise UserError(f"--target={name} needs its compiler; run: {extra}")
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")  # asks no server what machine this is
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")  # others may compile at the same time
    os.environ.setdefault("JAX_SKIP_CUDA_CONSTRAINTS_CHECK", "1")  # of drivers, which are not here
    try:
        jax.devices()  # of this process, before those of a topology
        return list(describe().devices)
    except Exception as error:  # the compilers raise errors of many kinds
        raise flag_error("target", name, FORMS, reason=one_line(str(error))) from error


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # its package is not there
        return False


def _tpu(name: str) -> Any:
    return topologies.get_topology_desc(name, platform="tpu")


def _h100() -> Any:
    return topologies.get_topology_desc("", platform="cuda", topology="1x1x1", target_config=_H100)
