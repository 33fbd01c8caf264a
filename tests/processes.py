"""No test leaves a process: `start` ends what a test began, and a check at the end of the session finds the rest."""
import os
import signal
import subprocess
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

MARK = "FERC_TEST_SESSION"  # environment variable that every process started by this session inherits
# They end with the process that uses them. Open MPI's daemon runs where mpi4py is installed: Lightning imports it.
OF_PYTHON = ("multiprocessing.resource_tracker", "multiprocessing.forkserver", "orted --hnp")


def all_processes() -> dict[int, tuple[int, int]]:
    """Process id -> (parent, session) of every process that is not over already."""
    processes = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent, _, session = path.read_text().rpartition(")")[2].split()[:4]
        except OSError:
            continue
        if state not in "ZX":
            processes[int(path.parent.name)] = int(parent), int(session)
    return processes


def read(process: int, name: str) -> str:
    """A file of /proc about a process, "" where it is gone or another user's."""
    try:
        return Path(f"/proc/{process}/{name}").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def left_behind(mark: str) -> dict[int, str]:
    """Process id -> command of the processes that this session began and that still run: its children, and all that
    inherited its mark."""
    leftovers = {}
    for process, (parent, _) in all_processes().items():
        if process != os.getpid() and (parent == os.getpid() or f"{MARK}={mark}" in read(process, "environ")):
            command = read(process, "cmdline")
            if not any(name in command for name in OF_PYTHON):
                leftovers[process] = command
    return leftovers


def kill_all(processes: list[int]) -> None:
    for process in processes:
        try:
            os.kill(process, signal.SIGKILL)
        except ProcessLookupError:
            pass


@pytest.fixture(scope="session", autouse=True)
def nothing_is_left() -> Iterator[None]:
    """Fails where a process outlives the tests, and kills it."""
    mark = uuid.uuid4().hex
    os.environ[MARK] = mark
    yield
    del os.environ[MARK]
    leftovers = left_behind(mark)
    kill_all(list(leftovers))
    assert not leftovers, f"tests left processes behind (killed now): {leftovers}"


@pytest.fixture(scope="session", autouse=True)
def interrupts_arrive() -> Iterator[None]:
    """Ctrl-C reaches the processes that tests start, also where the tests themselves were started with SIGINT ignored
    (nohup, `&`): a child inherits that."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def start() -> Iterator[Callable[..., subprocess.Popen]]:
    """`start(command, **options)`: subprocess.Popen in a session of its own, of which nothing outlives the test."""
    started: list[subprocess.Popen] = []

    def begin(command: list[str], **options) -> subprocess.Popen:
        started.append(subprocess.Popen(command, start_new_session=True, **options))
        return started[-1]

    yield begin
    for process in started:
        kill_all([number for number, (_, session) in all_processes().items() if session == process.pid])
        process.wait()
        for stream in (process.stdout, process.stderr):
            if stream:
                stream.close()
