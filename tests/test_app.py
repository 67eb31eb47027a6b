"""app.py: options, and errors in one line."""

import socket
import subprocess
import sys

import pytest
from picture_files import ROOT

from gemma_lisa import app
from gemma_lisa.interfaces.web.cards import CARDS
from gemma_lisa.safety.errors import UsageError


@pytest.mark.slow
def test_an_unknown_model_is_refused_in_one_line():
    done = subprocess.run(
        [sys.executable, "app.py", "--model", "no/such/folder"], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 1
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert "no/such/folder" in line and "Traceback" not in done.stderr
    assert "The page is at" not in done.stdout


@pytest.mark.slow
def test_a_wrong_option_is_refused_in_one_line():
    done = subprocess.run(
        [sys.executable, "app.py", "--port", "x"], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1


def test_the_default_address_serves_this_machine_only():
    args = app.parse([])
    assert (args.model, args.host, args.port, args.share) == (None, "127.0.0.1", 7860, False)


@pytest.mark.parametrize(
    ("options", "name", "where"),
    [
        ([], None, {"host": "127.0.0.1", "port": 7860, "share": False}),
        (["--model", "outputs/demo", "--port", "8080"], "demo", {"host": "127.0.0.1", "port": 8080, "share": False}),
        (
            ["--model", "google/my-gemma-lisa", "--host", "0.0.0.0", "--share"],
            "my-gemma-lisa",
            {"host": "0.0.0.0", "port": 7860, "share": True},
        ),
    ],
)
def test_the_given_model_is_served_at_the_given_address(monkeypatch, options, name, where):
    served = []
    monkeypatch.setattr(app, "check_address", lambda host, port: None)
    monkeypatch.setattr(app, "load_asked", lambda args: (f"model of {args.model}", "processor"))
    monkeypatch.setattr("gemma_lisa.interfaces.web.server.serve", lambda *args, **more: served.append((args, more)))
    app.main(options)
    model = f"model of {options[1]}" if name else "model of None"
    assert served == [((model, "processor", name), where | {"cards": CARDS})]


def test_a_port_in_use_is_refused_before_the_model_is_loaded(monkeypatch):
    monkeypatch.setattr(app, "load_asked", lambda args: pytest.fail("the model was loaded"))
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(UsageError, match=f"^port {port} is in use; choose another with --port.$"):
            app.main(["--port", str(port)])
    app.check_address("127.0.0.1", port)  # free again


def test_a_host_of_another_machine_is_refused():
    for host in ("192.0.2.1", "no-such-host.invalid"):
        with pytest.raises(UsageError, match=f"--host {host} is not an address of this machine .* use 127.0.0.1"):
            app.check_address(host, 7860)


@pytest.mark.parametrize("number", ["0", "65536", "x"])
def test_a_number_that_is_not_a_port_is_refused(number):
    with pytest.raises(UsageError, match="argument --port: must be"):
        app.parse(["--port", number])
