"""Signals: the first lets a loop stop where it loses nothing, the second ends the process, and hosts stop together."""

import os
import signal
import socket
import subprocess
import sys
import time

import pytest
from script_tools import ROOT

from dreamstyler_jax.commands import cli
from dreamstyler_jax.runtime.interruption import listening, patiently, told_to_stop, until_told


@pytest.fixture
def listens():
    with listening(lambda: None):
        yield


def kill(number=signal.SIGTERM):
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_patient_loop_is_told_and_others_are_interrupted(number, listens, capfd):
    with patiently("stopping soon"):
        assert not told_to_stop()
        kill(number)
        assert told_to_stop()
        assert list(until_told([1, 2])) == []
    with pytest.raises(KeyboardInterrupt):
        kill(number)


def test_the_loop_says_at_once_what_it_will_do(listens, capfd):
    with patiently("stopping soon"):
        kill()
        end, said = time.monotonic() + 5, ""
        while not said and time.monotonic() < end:
            said = capfd.readouterr().err
        assert said == "stopping soon; a second signal ends at once\n"


def test_an_interruption_that_python_swallows_is_not_forgotten(listens):
    """As happens to one that is raised within a callback of the garbage collector."""
    with pytest.raises(KeyboardInterrupt):
        kill()
    with patiently("stopping soon"):
        assert told_to_stop()


def test_items_end_where_the_process_is_told_to_stop(listens):
    taken = []
    with patiently("stopping soon"):
        for item in until_told(range(9)):
            taken.append(item)
            if item == 2:
                kill()
    assert taken == [0, 1, 2]


def test_handlers_are_restored_and_a_later_call_is_not_told():
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with listening(lambda: None), patiently("stopping soon"):
        kill()
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
    with listening(lambda: None):
        assert not told_to_stop()


def test_the_second_signal_ends_a_process_that_is_computing():
    """While no line of Python runs, no handler does."""
    script = (
        "import ctypes\nfrom dreamstyler_jax.commands.cli import run_and_exit\n"
        "from dreamstyler_jax.runtime.interruption import patiently\n"
        "def run():\n    with patiently('stopping soon'):\n        print('ready', flush=True)\n"
        "        ctypes.CDLL(None).nanosleep((ctypes.c_long * 2)(30, 0), None)\n"
        "        [ctypes.CDLL(None).nanosleep((ctypes.c_long * 2)(30, 0), None) for _ in range(9)]\n"
        "run_and_exit(run)\n"
    )
    command, environment = [sys.executable, "-c", script], {**os.environ, "PYTHONPATH": str(ROOT)}
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=environment) as process:
        assert process.stdout and process.stderr and process.stdout.readline() == "ready\n"
        process.terminate()
        assert process.stderr.readline() == "stopping soon; a second signal ends at once\n"
        process.terminate()
        _, printed = process.communicate(timeout=10)
    assert process.returncode == cli.INTERRUPTED
    assert printed.startswith("interrupted; to continue: ")


ENDING = """
import atexit, os, signal, sys, time
from dreamstyler_jax import __main__

def end_slowly():
    print("ending", flush=True)
    time.sleep(1)

atexit.register(end_slowly)
if sys.argv[1] == "told":
    __main__.answer = lambda word: os.kill(os.getpid(), signal.SIGTERM)
__main__.main("--version")
"""


@pytest.mark.parametrize(("case", "status"), [("told", cli.INTERRUPTED), ("done", 0)])
def test_a_signal_to_a_process_that_is_ending_changes_nothing(case, status):
    command, environment = [sys.executable, "-c", ENDING, case], {**os.environ, "PYTHONPATH": str(ROOT)}
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=environment) as process:
        assert process.stdout and "ending\n" in iter(process.stdout.readline, "")
        for number in (signal.SIGINT, signal.SIGTERM):
            process.send_signal(number)
        _, printed = process.communicate(timeout=10)
    assert process.returncode == status
    assert printed.startswith("interrupted; to continue: ") == bool(printed) == (case == "told")
    assert "Traceback" not in printed


TOGETHER = """
import sys, time
from dreamstyler_jax.commands.cli import run_and_exit
from dreamstyler_jax.runtime import hosts
from dreamstyler_jax.runtime.interruption import patiently


def run():
    with hosts.joined(hosts.Meeting(sys.argv[1], 2, int(sys.argv[2]))), patiently("stopping soon"):
        for place in range(1000):
            if hosts.told_to_stop():
                print("stopped at", place, flush=True)
                raise KeyboardInterrupt
            if not place:
                print("ready", flush=True)
            time.sleep(0.02 * (1 + int(sys.argv[2])))

run_and_exit(run)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_hosts_stop_at_the_same_place_if_one_is_told(number):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    environment, pipe = {**os.environ, "PYTHONPATH": str(ROOT)}, subprocess.PIPE
    hosts = [
        subprocess.Popen(
            [sys.executable, "-c", TOGETHER, address, rank], stdout=pipe, stderr=pipe, text=True, env=environment
        )
        for rank in "01"
    ]
    for host in hosts:
        assert host.stdout and "ready\n" in iter(host.stdout.readline, ""), host.communicate()
    hosts[1].send_signal(number)
    places = [host.communicate(timeout=60)[0].splitlines()[-1] for host in hosts]
    assert places[0] == places[1] and places[0].startswith("stopped at ")
    assert [host.returncode for host in hosts] == [cli.INTERRUPTED] * 2
