"""All processes of a run meet before jax lets them: it waits in silence for one that never comes,
and then aborts those that are there without a word of whom it missed.

Floor 6. Process 0 listens where jax's coordinator is going to, each of the others tells it its
number, and all are told one verdict: everybody is here, or the sentence that says who is not.
"""

from __future__ import annotations

import contextlib
import json
import socket
import time
from collections.abc import Sequence
from typing import Any

from genjax_zoo.contract import ZooError

RETRY_SECONDS, LINE_SECONDS, LINE_BYTES = 0.2, 2.0, 4096
GRACE_SECONDS = 5.0
"""How much longer than process 0 the others wait, for its verdict."""
LONGER = "Start all of them together and look at what they say, or wait longer by "
LONGER += "--distributed_seconds."


def meet(coordinator: str, processes: int, process: int, seconds: float) -> None:
    """Waits until all processes are here.

    Args:
      coordinator: host:port of process 0.
      processes: how many there are.
      process: the number of this one.
      seconds: how long each waits.

    Raises ZooError in every process that is here, which says who is missing or does not belong.
    """
    if processes == 1:
        return
    deadline = time.monotonic() + seconds
    if process == 0:
        verdict = _hear(coordinator, processes, deadline, f"within {seconds:g} s")
    else:
        verdict = _report(coordinator, [process, processes], deadline, f"within {seconds:g} s")
    if verdict:
        raise ZooError(verdict)


def _hear(coordinator: str, processes: int, deadline: float, when: str) -> str:
    """Process 0: hears the others, and tells them the verdict, which is "" where all are here."""
    port = int(coordinator.rpartition(":")[2])
    with contextlib.ExitStack() as stack:
        try:
            server = stack.enter_context(_server(port))
        except OSError as error:
            return (
                f"process 0 cannot listen on port {port} for the other processes: "
                f"{error.strerror}. End what does, or choose another port (--coordinator, or the "
                "variable JAX_COORDINATOR_PORT)."
            )
        peers: list[socket.socket] = []
        here, verdict = {0}, ""
        while not verdict and len(here) < processes:
            server.settimeout(max(deadline - time.monotonic(), 1e-3))
            try:
                peer = stack.enter_context(server.accept()[0])
            except TimeoutError:
                absent = sorted(set(range(processes)) - here)
                verdict = (
                    f"{_named(absent)} of 0 .. {processes - 1} did not come to process 0 at "
                    f"{coordinator} {when}. {LONGER}"
                )
                break
            # Whatever else knocks at an open port is no process of ours.
            match _line(peer):
                case [int(number), int(of)]:
                    peers.append(peer)
                    verdict = _objection(number, of, processes, here)
                    here.add(number)
        for peer in peers:
            _tell(peer, verdict)
        for peer in peers:
            # Whoever hangs up first holds the port for a minute, and jax needs it at once.
            _line(peer)
        return verdict


def _objection(number: int, of: int, processes: int, here: set[int]) -> str:
    """What is said of a process that does not belong; "" of one that does."""
    if of != processes:
        what = f"process {number} was told of {of} processes, and process 0 of {processes}"
    elif number not in range(processes):
        what = f"a process was told that it is number {number} of 0 .. {processes - 1}"
    elif number in here:
        what = f"two processes were told that they are number {number} of 0 .. {processes - 1}"
    else:
        return ""
    return f"{what}. Give all of them the same --processes, and each a --process of its own."


def _report(coordinator: str, who: list[int], deadline: float, when: str) -> str:
    """Any other process: tells process 0 its number and their count; returns the verdict."""
    host, _, port = coordinator.rpartition(":")
    why = "nobody answers there"
    while time.monotonic() < deadline:
        try:
            with socket.create_connection((host.strip("[]"), int(port)), LINE_SECONDS) as peer:
                _tell(peer, who)
                peer.settimeout(max(deadline - time.monotonic(), 0) + GRACE_SECONDS)
                verdict = _line(peer, None)
            if isinstance(verdict, str):
                return verdict
            why = "it hung up, or is no process of this run"
        except OSError as error:
            why = error.strerror or str(error)
        time.sleep(RETRY_SECONDS)
    return (
        f"process {who[0]} of 0 .. {who[1] - 1} did not reach process 0 at {coordinator} {when}: "
        f"{why}. {LONGER}{_hint(host)}"
    )


def _hint(host: str) -> str:
    if not is_loopback(host):
        return ""
    return f" On several hosts, {host} is each one itself: name process 0's as the others see it."


def is_loopback(host: str) -> bool:
    """Whether a name or an address is this machine's own, whoever looks it up."""
    try:
        found = socket.getaddrinfo(host.strip("[]"), None)
    except OSError:
        return False
    addresses = [str(address[0]) for *_, address in found]
    return all(a.startswith("127.") or a == "::1" for a in addresses)


def _named(numbers: Sequence[int], most: int = 10) -> str:
    """process 3; processes 1, 2, 5."""
    rest = f", ... ({len(numbers)} of them)" if len(numbers) > most else ""
    listed = ", ".join(map(str, numbers[:most])) + rest
    return f"process{'es' if len(numbers) > 1 else ''} {listed}"


def _server(port: int) -> socket.socket:
    """Listens on all addresses of this machine, as jax's coordinator does."""
    if socket.has_dualstack_ipv6():
        with contextlib.suppress(OSError):
            return socket.create_server(
                ("", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=4096
            )
    return socket.create_server(("", port), backlog=4096)


def _tell(peer: socket.socket, what: Any) -> None:
    with contextlib.suppress(OSError):
        peer.sendall(json.dumps(what).encode() + b"\n")


def _line(peer: socket.socket, seconds: float | None = LINE_SECONDS) -> Any:
    """What a peer says, or None of silence and of what nobody here says."""
    if seconds is not None:
        peer.settimeout(seconds)
    with contextlib.suppress(OSError, ValueError), peer.makefile("rb") as file:
        return json.loads(file.readline(LINE_BYTES))
    return None
