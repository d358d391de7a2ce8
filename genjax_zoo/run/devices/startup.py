"""What has to be settled before jax starts: how a CPU convolves, and by how many threads.

Floor 6. `prepare` is called by the commands before anything touches a device. XLA reads XLA_FLAGS
once, when its first backend starts, and aborts the process on a flag that it does not know.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import mmap
import os
import pathlib
from collections.abc import MutableMapping

# YNNPACK's convolutions stay on one core; without them Eigen's run on all. Of a whole DDPM step
# that is a factor of 1.6, of PixelCNN 2.3 (two cores, jax 0.10.2).
FLAG = "--xla_cpu_experimental_ynn_fusion_type"
VALUE = "-individual_convolution"


# jaxlib 0.10's batched LAPACK calls (vmapped Cholesky, LU, ...) wait inside a thread of the pool
# for others of it: as many of them at once as there are threads wait for ever. Our tests of what
# calls LAPACK pass with two threads, so one to spare is enough for us; two a core would make
# convolutions 15 % slower.
THREADS, FEW = "PJRT_NPROC", 8


def spare_threads(environ: MutableMapping[str, str] = os.environ) -> None:
    """Gives jax's CPU pool a thread to spare where cores are few and the user has said nothing."""
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    if cores < FEW and not environ.keys() & {THREADS, "NPROC"}:
        environ[THREADS] = str(cores + 1)


def prepare(environ: MutableMapping[str, str] = os.environ) -> bool:
    """Spares threads, and adds the flag to XLA_FLAGS where it helps; returns whether it did.

    Left alone are: a flag that the user has set, a run that may use a GPU or TPU, a CPU split into
    several devices (each has its own core, and YNNPACK is then the faster one), and a jaxlib that
    does not know the flag.
    """
    spare_threads(environ)
    flags = environ.get("XLA_FLAGS", "")
    decided = FLAG.lstrip("-") in flags or "xla_force_host_platform_device_count" in flags
    if decided or not cpu_only(environ) or not flag_known():
        return False
    environ["XLA_FLAGS"] = f"{flags} {FLAG}={VALUE}".strip()
    return True


def cpu_only(environ: MutableMapping[str, str] = os.environ) -> bool:
    """Whether jax can only find a CPU: told so, or no plugin for anything else is installed."""
    asked = environ.get("JAX_PLATFORMS") or environ.get("JAX_PLATFORM_NAME")
    if asked:
        return asked.strip().lower() == "cpu"
    others = importlib.metadata.entry_points(group="jax_plugins")
    namespace = importlib.util.find_spec("jax_plugins")
    return not others and namespace is None and importlib.util.find_spec("libtpu") is None


def flag_known() -> bool:
    """Whether the installed jaxlib holds the flag's name and the value's, read without loading it.

    A search of the library takes a tenth of a second; asking XLA itself would cost a process.
    """
    found = importlib.util.find_spec("jaxlib")
    if found is None or not found.submodule_search_locations:
        return False
    for library in pathlib.Path(found.submodule_search_locations[0]).glob("libjax_common.*"):
        with library.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as held:
            names = (FLAG.lstrip("-"), VALUE.lstrip("-"))
            return all(
                held.find(n.encode()) >= 0 or held.find(n.upper().encode()) >= 0 for n in names
            )
    return False
