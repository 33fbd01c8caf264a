"""The first thing a script does: make sure that a failing or interrupted import ends in one line.

A script calls `guard()` before it imports anything that is not in Python's own library:

    from support import start

    if __name__ == "__main__":  # before the imports that take seconds, or fail outside the environment
        start.guard()

For `python -m package.module` Python imports the package's `__init__.py` first; there the condition is
`if sys.argv[:1] == ["-m"]:`, which holds only while Python looks for a module that it was asked to run.

Only Python's own library is imported here, and nothing that Python 3.9 does not know is used.
"""
import os
import shlex
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
NEEDED = (3, 11)


def guard() -> None:
    """End in one line and exit code 2 where this Python is too old or lacks a package, and in one line and exit code
    130 on Ctrl-C while modules are imported. Every other exception keeps its traceback."""
    if sys.version_info < NEEDED:
        version = ".".join(map(str, sys.version_info[:2]))
        end("error: this is Python %s (%s), and 3.11 or newer is needed; %s" % (version, sys.executable, advice()), 2)
    sys.excepthook = report


def report(kind, error, trace) -> None:
    """In place of `sys.excepthook`."""
    if was_interrupted(error):
        end("interrupted; the same command goes on from here", 130)
    package = missing_package(error)
    if package:
        end("error: this Python (%s) has no package %s; %s" % (sys.executable, package, advice()), 2)
    sys.__excepthook__(kind, error, trace)


def missing_package(error) -> str:
    """The package that an import did not find, "" where it was something else or a module of this project."""
    if not isinstance(error, ModuleNotFoundError) or not error.name:
        return ""
    package = error.name.split(".")[0]
    ours = (os.path.join(ROOT, package), os.path.join(ROOT, package + ".py"))
    return "" if any(os.path.exists(path) for path in ours) else package


def was_interrupted(error) -> bool:
    """Whether Ctrl-C is behind an exception: some packages turn it into an ImportError of their own."""
    while error is not None:
        if isinstance(error, KeyboardInterrupt):
            return True
        if not isinstance(error, ImportError):
            return False
        error = error.__cause__ or error.__context__
    return False


def advice() -> str:
    """The command to type instead of the one that was typed."""
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


def join(words) -> str:
    """Words as a shell reads them."""
    return " ".join(shlex.quote(word) for word in words)


def end(message, code) -> None:
    """Say it and leave; no exit handler of a half-imported package runs."""
    sys.stdout.flush()
    print(message, file=sys.stderr, flush=True)
    os._exit(code)
