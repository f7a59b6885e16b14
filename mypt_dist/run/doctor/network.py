"""Can ranks find each other? Names, ports and interfaces of this machine, and the way to the tracker."""

import os
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from mypt_dist.run.doctor.check import Check, Result, fail, ok, skip, warn
from mypt_dist.tracking.redact import without_secrets

CONNECT_S = 3.0

INTERFACE_VARIABLES = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")


def address(name: str | None) -> Result:
    """Whether ``name``, of the machine where ranks meet, is known. Null: there is no launcher."""
    if name is None:
        return skip("MASTER_ADDR is not set: one process")
    try:
        found = sorted({str(entry[4][0]) for entry in socket.getaddrinfo(name, None)})
    except OSError as error:
        return fail(f"{name}: {error.strerror}", "give --address a name or number that this machine can resolve")
    return ok(f"{name} is {', '.join(found)}")


def own_name(name: str) -> Result:
    """Whether this machine's own ``name`` is known: gloo asks for it."""
    try:
        found = str(socket.getaddrinfo(name, None)[0][4][0])
    except OSError:
        return warn(f"{name} cannot be resolved", f"add '127.0.0.1 {name}' to /etc/hosts, or set GLOO_SOCKET_IFNAME")
    return ok(f"{name} is {found}")


def interfaces(environ: Mapping[str, str], present: Sequence[str]) -> Result:
    """Whether the interfaces that variables name are among those ``present``."""
    for variable in INTERFACE_VARIABLES:
        asked = environ.get(variable, "")
        # NCCL: a prefix, = for a whole name, ^ for all but these.
        names = [] if asked.startswith("^") else [name.lstrip("=") for name in asked.split(",") if name]
        if names and not any(here.startswith(name) for name in names for here in present):
            return fail(f"{variable}={asked}, here are {', '.join(present)}", f"unset {variable}, or name one of them")
    return ok(", ".join(present))


def port(number: int | None, *, under_launcher: bool) -> Result:
    """Whether another program listens on the port where ranks meet."""
    if under_launcher:
        return skip("the launcher holds it now")
    if number is None:
        return skip("any free one is taken")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", number))
        except OSError as error:
            return fail(f"{number}: {error.strerror}", "give another --port, or end the run that holds it")
    return ok(f"{number} is free")


def tracker(uri: str | None) -> Result:
    """Whether something answers at the tracker's ``uri``. Never worse than a warning: training goes on without."""
    if uri is None:
        return skip("no MLflow tracker in the run file")
    parts = urlsplit(uri)
    shown = without_secrets(uri)
    if parts.scheme == "sqlite":
        folder = Path(parts.path[1:] or ".").parent
        if folder.is_dir() and os.access(folder, os.W_OK):
            return ok(shown)
        return warn(f"{shown}: {folder} is not a folder that can be written to", "make it, or set the tracker's uri")
    if parts.scheme not in ("http", "https") or parts.hostname is None:
        return skip(f"{shown.partition(':')[0]} is not looked at")
    try:
        where = (parts.hostname, parts.port or (443 if parts.scheme == "https" else 80))
        with socket.create_connection(where, timeout=CONNECT_S):
            return ok(f"{shown} answers")
    except OSError as error:
        return warn(
            f"{shown}: {error}", "start the server; until then metrics stay in the run's folder: mypt runs sync"
        )


def network_checks(environ: Mapping[str, str], uri: str | None) -> list[Check]:
    """``uri`` of the run's MLflow tracker, None without one."""
    launched = bool(environ.get("WORLD_SIZE"))
    number = environ.get("MASTER_PORT", "")
    return [
        Check("address", "ranks that never meet", lambda: address(environ.get("MASTER_ADDR"))),
        Check("host name", "gloo that listens where nobody can reach it", lambda: own_name(socket.gethostname())),
        Check("interfaces", "ranks that talk over the wrong network", lambda: interfaces(environ, _interfaces())),
        Check(
            "port",
            "'Address already in use'",
            lambda: port(int(number) if number.isdigit() else None, under_launcher=launched),
        ),
        Check("tracker", "numbers that nobody sees", lambda: tracker(uri)),
    ]


def _interfaces() -> list[str]:
    return [name for _, name in socket.if_nameindex()]
