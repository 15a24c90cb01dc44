"""This machine's own addresses and no others: for every Python that finds this file on its path when it begins.

A refusal is raised where it happens and written down as well, since libraries may swallow it. Only what goes through
Python's sockets is noticed.
"""

import ipaddress
import os
import socket
import sys

REFUSALS = "EASYANIMATE_TESTS_REFUSED"  # names the file that refusals are written to
REACHING = {  # audit event -> which of its arguments is the address or the name
    "socket.connect": 1,
    "socket.sendto": 1,
    "socket.sendmsg": 1,
    "socket.getaddrinfo": 0,
    "socket.gethostbyname": 0,
    "socket.gethostbyaddr": 0,
    "socket.getnameinfo": 0,
}


class NetworkForbidden(RuntimeError):
    """Something reached for another machine."""


def is_here(host: str | bytes | None) -> bool:
    """Whether this is an address or a name of this machine."""
    name = host.decode() if isinstance(host, bytes) else host
    if not name or name in ("localhost", socket.gethostname()):
        return True
    try:
        address = ipaddress.ip_address(name.partition("%")[0])
    except ValueError:
        return False
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    return not address.is_multicast and _can_bind(str(address), family)


def _can_bind(address: str, family: socket.AddressFamily) -> bool:
    """Only to its own addresses a machine lets bind."""
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((address, 0))
        except OSError:
            return False
    return True


def refuse_others(event: str, arguments: tuple) -> None:
    """An audit hook that lets nothing reach another machine."""
    if event not in REACHING:
        return
    if isinstance(arguments[0], socket.socket) and arguments[0].family not in (socket.AF_INET, socket.AF_INET6):
        return
    where = arguments[REACHING[event]]
    if not is_here(where[0] if isinstance(where, tuple) else where):
        refusal = f"Tests may not use the network, but {event} went to {where!r}."
        if os.environ.get(REFUSALS):
            with open(os.environ[REFUSALS], "a", encoding="utf-8") as file:
                file.write(f"{refusal} ({' '.join(sys.argv[:2])})\n")
        raise NetworkForbidden(refusal)


sys.addaudithook(refuse_others)
