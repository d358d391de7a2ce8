"""What has to be settled before jax starts: how a CPU convolves, in which order it works, and where
compiled programs are kept for the next process.

Floor 6. `prepare` is called by the commands before anything touches a device. XLA reads XLA_FLAGS
once, when its first backend starts, and aborts the process on a flag that it does not know.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import mmap
import os
import pathlib
import pkgutil
from collections.abc import Mapping, MutableMapping

import jax

from genjax_zoo.run.record.progress import log

CONVOLUTIONS = "--xla_cpu_experimental_ynn_fusion_type"
SCHEDULER = "--xla_cpu_enable_concurrency_optimized_scheduler"
FLAGS: Mapping[str, str] = {
    # YNNPACK's convolutions stay on one core; without them Eigen's run on all. Of a whole DDPM step
    # that is a factor of 1.6, of PixelCNN 2.3 (two cores, jax 0.10.2).
    CONVOLUTIONS: "-individual_convolution",
    # jaxlib 0.10's batched LAPACK calls (vmapped Cholesky, QR, ...) wait inside a thread of the
    # pool for others of it: as many of them at once as there are threads wait for ever. One
    # after the other they do not, on however few threads.
    SCHEDULER: "false",
}
"""What XLA is told on a CPU."""


CACHE = "GENJAX_ZOO_CACHE"
"""The variable that names the folder of compiled programs, or is "off"."""
LEAST_SECONDS = "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"
CACHE_BYTES = 2 * 2**30
"""That folder is brought down to this size whenever a command starts."""


ROOT = pathlib.Path("/")
DEVICES: Mapping[str, tuple[str, ...]] = {
    "cuda": ("dev/nvidia[0-9]*", "dev/nvidiactl", "dev/dxg"),
    "rocm": ("dev/kfd", "dev/dxg"),
    "tpu": ("dev/accel[0-9]*",),
}
"""What part of a plugin's name says whose it is -> the files by which its devices are seen. A TPU
may also be known by its vendor on the PCI bus alone."""
HIDE: Mapping[str, tuple[str, ...]] = {
    "cuda": ("CUDA_VISIBLE_DEVICES",),
    "rocm": ("HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES"),
}
"""The variables by which a user hides devices: all of them where one is empty or -1."""
GOOGLE, DISK, NETWORK = "0x1ae0", "0x01", "0x02"
"""Who makes TPUs, and the classes of what else of theirs is on the PCI bus of their machines."""


def keep_compiled(environ: Mapping[str, str] = os.environ) -> pathlib.Path | None:
    """Lets jax keep what it compiles for the next process; returns the folder, None for none.

    The folder is $GENJAX_ZOO_CACHE, or genjax_zoo/compiled in the user's cache. Where the user has
    set jax's own JAX_COMPILATION_CACHE_DIR, that holds. Even what compiles in a hundredth of a
    second is kept, for it is read faster, unless JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS says
    otherwise. A folder that cannot be written is said so, and fails nothing.
    """
    wanted = environ.get(CACHE, "")
    if wanted.lower() == "off" or environ.get("JAX_COMPILATION_CACHE_DIR"):
        return None
    home = pathlib.Path(environ.get("XDG_CACHE_HOME") or "~/.cache")
    folder = (pathlib.Path(wanted) if wanted else home / "genjax_zoo" / "compiled").expanduser()
    probe = folder / f".writable.{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"1")
        probe.unlink()
        make_room(folder)
    except OSError as error:
        log(
            f"compiled programs are not kept, for {folder} cannot be written "
            f"({error.strerror or error}); set {CACHE} to another folder, or to off."
        )
        return None
    jax.config.update("jax_compilation_cache_dir", str(folder))
    if LEAST_SECONDS not in environ:
        jax.config.update(LEAST_SECONDS.lower(), 0.0)
    return folder


def make_room(folder: pathlib.Path, most: int = CACHE_BYTES) -> None:
    """Removes the programs that were not used for longest, until the rest fits.

    jax's own bound (jax_compilation_cache_max_size) needs another package, and locks every read.
    """
    entries = [(path, path.stat()) for path in folder.glob("*-cache")]
    size = sum(stat.st_size for _, stat in entries)
    for path, stat in sorted(entries, key=lambda e: max(e[1].st_atime, e[1].st_mtime)):
        if size <= most:
            break
        path.unlink(missing_ok=True)
        size -= stat.st_size


def prepare(environ: MutableMapping[str, str] = os.environ) -> bool:
    """Adds FLAGS to XLA_FLAGS where they help; returns whether it added any.

    Left alone are: a flag that the user has set, a run that may use a GPU or TPU, and a flag that
    the jaxlib does not know; and of a CPU split into several devices how it convolves, for each has
    its own core, and YNNPACK is then the faster one.
    """
    if not cpu_only(environ):
        return False
    own = environ.get("XLA_FLAGS", "")
    is_split = "xla_force_host_platform_device_count" in own
    added = [
        f"{flag}={value}"
        for flag, value in FLAGS.items()
        if flag.lstrip("-") not in own
        and not (is_split and flag == CONVOLUTIONS)
        and known(flag, value)
    ]
    environ["XLA_FLAGS"] = " ".join([*own.split(), *added])
    return bool(added)


def cpu_only(environ: Mapping[str, str] = os.environ, root: pathlib.Path = ROOT) -> bool:
    """Whether jax can only find a CPU: it is set so, or no plugin has a device of its own.

    Many machines have libtpu or a CUDA plugin installed and no such device. A plugin that we do
    not know is taken to have one.

    Args:
      environ: the environment of the process.
      root: of the file system, where devices are looked for.
    """
    asked = environ.get("JAX_PLATFORMS") or environ.get("JAX_PLATFORM_NAME")
    if asked:
        return asked.strip().lower() == "cpu"
    return not any(has_device(plugin, root, environ) for plugin in plugins())


def plugins() -> set[str]:
    """The names of all plugins by which jax here could find anything but a CPU."""
    names = {entry.name for entry in importlib.metadata.entry_points(group="jax_plugins")}
    namespace = importlib.util.find_spec("jax_plugins")
    if namespace is not None:
        places = namespace.submodule_search_locations or ()
        names |= {module.name for module in pkgutil.iter_modules(places)}
    return names | ({"libtpu"} if importlib.util.find_spec("libtpu") else set())


def has_device(
    plugin: str, root: pathlib.Path = ROOT, environ: Mapping[str, str] = os.environ
) -> bool:
    """Whether a plugin's devices are there, by the files of their drivers, and not hidden."""
    for kind, files in DEVICES.items():
        if kind in plugin:
            if any(environ.get(name, "0").strip() in ("", "-1") for name in HIDE.get(kind, ())):
                return False
            on_the_bus = kind == "tpu" and any(map(_is_tpu, root.glob("sys/bus/pci/devices/*")))
            return on_the_bus or any(any(root.glob(file)) for file in files)
    return True


def _is_tpu(device: pathlib.Path) -> bool:
    try:
        vendor, kind = ((device / name).read_text().strip() for name in ("vendor", "class"))
    except OSError:
        return False
    return vendor == GOOGLE and not kind.startswith((DISK, NETWORK))


def known(*words: str) -> bool:
    """Whether the installed jaxlib holds these names of flags and values, read without loading it.

    A search of the library takes a tenth of a second; asking XLA itself would cost a process.
    """
    found = importlib.util.find_spec("jaxlib")
    if found is None or not found.submodule_search_locations:
        return False
    for library in pathlib.Path(found.submodule_search_locations[0]).glob("libjax_common.*"):
        with library.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as held:
            names = (word.lstrip("-") for word in words)
            return all(
                held.find(n.encode()) >= 0 or held.find(n.upper().encode()) >= 0 for n in names
            )
    return False
