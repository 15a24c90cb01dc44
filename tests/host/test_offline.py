"""Nothing that a test starts reaches another machine."""

import socket
import subprocess
import sys

import pytest

from support.pack import offline
from tools.workflows import client
from tools.workflows.author import node

REACHES = {
    "another machine": "socket.create_connection(('1.1.1.1', 80), timeout=2)",
    "another machine, by number only": "socket.socket().connect(('1.1.1.1', 80))",
    "another machine, without a connection": "socket.socket(type=socket.SOCK_DGRAM).sendto(b'?', ('1.1.1.1', 53))",
    "IPv6": "socket.socket(socket.AF_INET6).connect(('2606:4700:4700::1111', 80))",
    "a name": "socket.getaddrinfo('example.com', 80)",
    "a name, the old way": "socket.gethostbyname('example.com')",
}


@pytest.mark.parametrize("what", REACHES)
def test_it_is_refused_here(what, refused):
    with pytest.raises(offline.NetworkForbidden, match="Tests may not use the network"):
        exec(REACHES[what], {"socket": socket})
    assert "Tests may not use the network" in refused.read_text()
    refused.unlink()


def test_it_is_refused_in_what_tests_start_even_if_that_hides_it(refused):
    hidden = "import contextlib, socket\nwith contextlib.suppress(Exception):\n    " + REACHES["a name"]
    subprocess.run([sys.executable, "-c", hidden], check=True)
    assert "'example.com'" in refused.read_text()
    refused.unlink()


def test_this_machine_may_be_reached():
    for host in ("127.0.0.1", "localhost", socket.gethostname()):
        with socket.create_server(("", 0)) as listening, socket.create_connection((host, listening.getsockname()[1])):
            pass


@pytest.mark.parametrize("what", ["another machine, by number only", "a name"])
def test_it_is_refused_in_a_server_and_in_what_that_starts(server, refused, what):
    line = "import socket; " + REACHES[what]
    outputs = client.run(server, {"online": node("EasyAnimateTestOnline", line=line, number=0)})
    here, below = outputs["online"]["ended"]
    assert here.startswith("NetworkForbidden: Tests may not use the network")
    assert "NetworkForbidden: Tests may not use the network" in below
    assert len(refused.read_text().splitlines()) == 2
    refused.unlink()
