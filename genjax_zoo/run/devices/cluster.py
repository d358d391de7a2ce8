"""Several processes that train one model: which one this is, and how they find each other.

Floor 6. A user says it of each process, or jax finds it out: in a TPU pod, under SLURM, Open MPI or
Kubernetes. Either way they meet (roll_call.py) before jax starts, so that whoever is missing has a
name.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import NamedTuple

import jax

from genjax_zoo.contract import ConfigError
from genjax_zoo.run.devices import roll_call
from genjax_zoo.typed import nearest

AUTO = "auto"
SECONDS = 300


class Place(NamedTuple):
    """Which one of several processes this is.

    Attributes:
      coordinator: host:port of process 0.
      processes: how many there are.
      process: the number of this one, from 0.
      local_devices: which of its host's devices are its own; None for all of them.
    """

    coordinator: str
    processes: int
    process: int
    local_devices: Sequence[int] | None = None


def told(coordinator: str | None, processes: int | None, process: int | None) -> Place:
    """The place that three flags tell; raises ConfigError where they do not."""
    if coordinator is None or processes is None or process is None or process >= processes:
        raise ConfigError(
            "several processes need all of --coordinator=HOST:PORT, --processes=N and "
            f"--process=0 .. N-1, got {coordinator}, {processes} and {process}; or "
            "--distributed=auto, where a cluster tells them."
        )
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise ConfigError(
            f"--coordinator={coordinator} is no HOST:PORT; give the address by which all of them "
            "see process 0, and a port that is free there, such as 10.0.0.1:1234."
        )
    return Place(coordinator, processes, process)


def found(how: str, seconds: float = SECONDS) -> Place:
    """The place that jax finds out; raises ConfigError where it finds none, or one that hangs.

    Args:
      how: "auto", or one of jax's ways alone: ompi, slurm, mpi4py, gketpu, gcetpu, k8s.
      seconds: how long it may take.
    """
    # jax has no public door to this but `jax.distributed.initialize`, which connects at once.
    from jax._src.clusters import ClusterEnv

    ways = {way.name: way for way in ClusterEnv._cluster_types if way.name != "tpu"}
    if how != AUTO and how not in ways:
        raise ConfigError(nearest(how, [AUTO, *ways], "value of --distributed:"))
    way = None if how == AUTO else how
    address = os.environ.get("JAX_COORDINATOR_ADDRESS")
    try:
        address, processes, process, local = ClusterEnv.auto_detect_unset_distributed_params(
            address, None, None, None, way, int(seconds)
        )
    except (KeyError, ValueError, RuntimeError) as error:
        raise ConfigError(
            f"--distributed={how}: jax sees a cluster, and not what it should tell of this "
            f"process: {type(error).__name__} {error}. Start it by srun or mpirun, choose one of "
            f"{', '.join(ways)}, or give --coordinator, --processes and --process."
        ) from error
    if address is None or processes is None or process is None:
        raise ConfigError(
            f"--distributed={how}: jax finds no cluster that this process belongs to (TPU pod, "
            "SLURM, Open MPI, Kubernetes). Start it by srun or mpirun, or give --coordinator, "
            "--processes and --process."
        )
    if _on_several_hosts(processes) and roll_call.is_loopback(address.rpartition(":")[0]):
        raise ConfigError(
            f"--distributed={how}: process 0 is said to be at {address}, which to each host is "
            f"itself, and the {processes} processes are on several; set "
            "JAX_COORDINATOR_ADDRESS=HOST:PORT to where the others see it."
        )
    return Place(address, processes, process, local)


def _on_several_hosts(processes: int) -> bool:
    """As the cluster tells it. In TPU pods and Kubernetes each process has a host of its own."""
    if "OMPI_COMM_WORLD_LOCAL_SIZE" in os.environ:
        return int(os.environ["OMPI_COMM_WORLD_LOCAL_SIZE"]) < processes
    return int(os.environ.get("SLURM_STEP_NUM_NODES", processes)) > 1


def join(place: Place, seconds: float = SECONDS) -> None:
    """Makes this process one of several, before jax finds its devices.

    Raises ZooError, after so many seconds, which names the processes that did not come.
    """
    roll_call.meet(place.coordinator, place.processes, place.process, seconds)
    jax.distributed.initialize(
        place.coordinator,
        place.processes,
        place.process,
        place.local_devices,
        initialization_timeout=max(int(seconds), 1),
    )
