"""The first thing a script does: make sure that a failing or interrupted import ends in one line.

A script calls `explain_failed_imports()` before it imports anything that is not in Python's own library:

    from support import start

    if __name__ == "__main__":  # before the imports that take seconds, or fail outside the environment
        start.explain_failed_imports()

For `python -m package.module` Python imports the package's `__init__.py` first. So datasets/__init__.py calls the
function, too, under `if sys.argv[:1] == ["-m"]:`. That condition is true only while Python looks for the module that it
was asked to run.

Only Python's own library is imported here, and nothing that Python 3.9 does not know is used.
"""
import os
import shlex
import sys
from types import TracebackType
from typing import List, Optional, Type

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
NEEDED = (3, 11)


def explain_failed_imports() -> None:
    """If this Python is too old or lacks a package, print one line and exit with code 2. From here on, Ctrl-C while
    modules are imported prints one line and exits with code 130. Every other exception keeps its traceback."""
    if sys.version_info < NEEDED:
        version = ".".join(map(str, sys.version_info[:2]))
        message = "error: this is Python %s (%s), and 3.11 or newer is needed; %s"
        exit_with(message % (version, sys.executable, advice()), 2)
    sys.excepthook = report


def report(kind: Type[BaseException], error: BaseException, trace: Optional[TracebackType]) -> None:
    """Replaces `sys.excepthook`: Python calls it with an exception that was not caught."""
    if was_interrupted(error):
        exit_with("interrupted; start the same command again", 130)
    package = missing_package(error)
    if package:
        exit_with("error: this Python (%s) has no package %s; %s" % (sys.executable, package, advice()), 2)
    sys.__excepthook__(kind, error, trace)


def missing_package(error: BaseException) -> str:
    """The package that is not installed, "" where the error is another one or a module of this project is missing."""
    if not isinstance(error, ModuleNotFoundError) or not error.name:
        return ""
    package = error.name.split(".")[0]
    ours = (os.path.join(ROOT, package), os.path.join(ROOT, package + ".py"))
    return "" if any(os.path.exists(path) for path in ours) else package


def was_interrupted(error: Optional[BaseException]) -> bool:
    """Whether Ctrl-C is behind an exception: some packages turn it into an ImportError of their own."""
    while error is not None:
        if isinstance(error, KeyboardInterrupt):
            return True
        if not isinstance(error, ImportError):
            return False
        error = error.__cause__ or error.__context__
    return False


def advice() -> str:
    """What to do, with the command to type: the end of the message."""
    environment = os.path.join(ROOT, ".venv")
    inside = os.getcwd() == ROOT
    python = os.path.join(".venv" if inside else environment, "bin", "python")
    if os.path.realpath(sys.prefix) == os.path.realpath(environment):
        requirements = os.path.join("" if inside else ROOT, "requirements.txt")
        return "install it: " + join([python, "-m", "pip", "install", "-r", requirements])
    typed = getattr(sys, "orig_argv", [sys.executable, *sys.argv])[1:]
    command = join([python, *typed])
    if os.path.exists(os.path.join(environment, "installed")):
        return "use the project's: " + command
    setup = join(["bash", "run.sh" if inside else os.path.join(ROOT, "run.sh"), "--setup"])
    return "install the packages once (%s), then: %s" % (setup, command)


def join(words: List[str]) -> str:
    """Words as one line that a shell splits into the same words."""
    return " ".join(shlex.quote(word) for word in words)


def exit_with(message: str, code: int) -> None:
    """Print a message to standard error and end the process at once. The exit handlers of packages are not called,
    because a package may be imported only in part."""
    if sys.stdout is not None:  # None: the shell has closed it (`>&-`)
        sys.stdout.flush()
    if sys.stderr is not None:
        print(message, file=sys.stderr, flush=True)
    os._exit(code)
