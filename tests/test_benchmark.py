"""Models in another process: the messages between the two, the process of a user's function, and `benchmark`.

The users' folders hold modules named like ours, which raise where ours are imported in their place.
"""
import inspect
import io
import json
import os
import shlex
import signal
import struct
import subprocess
import sys
import textwrap
import threading
import time
import traceback
from pathlib import Path
from typing import Literal, get_args, get_origin, get_type_hints

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import small_models
from building.built_set import open_built_set
from evaluation import benchmark
from evaluation.model_options import ModelOptions
from evaluation.scoring_options import CardOptions, ClassOptions
from evaluation.sources import opened_model
from small_models import CLASSES, Means, expected
from support.errors import UserError

ROOT = Path(__file__).parent.parent
NAMES = ",".join(CLASSES)


# ---- messages

@settings(suppress_health_check=[HealthCheck.too_slow], max_examples=30)
@given(st.dictionaries(st.sampled_from(["kind", "text", "x"]), st.text() | st.integers()),
       st.sampled_from(benchmark.DTYPES), st.lists(st.integers(0, 3), max_size=4))
def test_messages_arrive_as_they_are(header, dtype, shape):
    array = np.arange(np.prod(shape, dtype=int)).reshape(shape).astype(dtype)
    pipe = io.BytesIO()
    benchmark.send(pipe, header | {"kind": "images"}, array)
    benchmark.send(pipe, {"kind": "end"})
    pipe.seek(0)
    received, content = benchmark.receive(pipe)
    assert {name: received[name] for name in header | {"kind": ""}} == header | {"kind": "images"}
    assert content.dtype == array.dtype and np.array_equal(content, array) and content.shape == array.shape
    assert benchmark.receive(pipe) == ({"kind": "end"}, None) and benchmark.receive(pipe) is None


def raw(header, body=b"", magic=b"FERC", length=None):
    data = json.dumps(header).encode() if not isinstance(header, bytes) else header
    return io.BytesIO(magic + struct.pack("<Q", len(data) if length is None else length) + data + body)


@pytest.mark.parametrize("message", [
    raw({"kind": "x"}, magic=b"HTTP"), raw({"kind": "x"}, length=2**40), raw([1]), raw({"kind": 3}), raw(b"{"),
    raw({"kind": "x", "shape": [2**40], "dtype": "uint8"}), raw({"kind": "x", "shape": [-1], "dtype": "uint8"}),
    raw({"kind": "x", "shape": [2**20] * 3, "dtype": "uint8"}), raw({"kind": "x", "shape": [1], "dtype": "object"}),
    raw({"kind": "x", "shape": "1", "dtype": "uint8"}), raw({"kind": "x", "shape": [1] * 9, "dtype": "uint8"})])
def test_messages_of_others_are_refused(message):
    with pytest.raises(ValueError):
        benchmark.receive(message)


def test_messages_that_are_cut_off_are_an_end():
    pipe = io.BytesIO()
    benchmark.send(pipe, {"kind": "images"}, np.zeros((2, 3), np.float32))
    whole = pipe.getvalue()
    assert benchmark.receive(io.BytesIO(whole[:-1])) is None
    assert benchmark.receive(io.BytesIO(whole[:20])) is None


def test_a_model_is_asked_through_pipes():
    images = np.random.Generator(np.random.SFC64(0)).integers(0, 256, (3, 3, 4, 4)).astype(np.uint8)
    (read, to_server), (from_server, write) = os.pipe(), os.pipe()
    ends = [os.fdopen(read, "rb"), os.fdopen(to_server, "wb"), os.fdopen(from_server, "rb"), os.fdopen(write, "wb")]
    server = threading.Thread(target=benchmark.serve, args=(benchmark.Predictor(Means()), ends[0], ends[3]))
    server.start()
    for count in (3, 1):
        assert np.allclose(benchmark.ask(ends[2], ends[1], images[:count]), expected(images[:count]), atol=1e-3)
    ends[1].close()
    server.join()
    for end in ends:
        end.close()


# ---- any model as a function of arrays

IMAGES = np.arange(2 * 3 * 2 * 2, dtype=np.uint8).reshape(2, 3, 2, 2)


def test_what_models_are_given():
    given_types = []

    def note(images):
        given_types.append(type(images))
        if isinstance(images, torch.Tensor) and given_types[0] is None:
            raise TypeError("arrays only")
        return np.zeros((len(images), 2))

    benchmark.Predictor(note)(IMAGES)
    assert given_types == [torch.Tensor]
    given_types[:] = [None]
    predictor = benchmark.Predictor(note)
    predictor(IMAGES), predictor(IMAGES)
    assert given_types[1:] == [torch.Tensor, np.ndarray, np.ndarray]
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Dropout(0.5))
    float_images = IMAGES.astype(np.float32)
    with benchmark.in_eval_mode(network):
        assert np.array_equal(benchmark.Predictor(network)(float_images), float_images.reshape(2, -1))
    assert network.training and network[1].training
    keras = type("Model", (), {"__module__": "keras.src.models", "__call__": lambda self, images: note(images)})()
    given_types[:] = [int]
    benchmark.Predictor(keras)(IMAGES)
    assert given_types[1:] == [np.ndarray]


def test_errors_of_the_model_arrive_unchanged():
    def fails(images):
        raise AttributeError("mine")

    with pytest.raises(AttributeError, match="^mine$"):
        benchmark.Predictor(fails)(IMAGES)
    with pytest.raises(benchmark.WrongOutput, match="the model is of type int, which cannot be called with images"):
        benchmark.Predictor(3)
    with pytest.raises(benchmark.WrongOutput, match="is of type str, .*; evaluate.py --model takes names and files$"):
        benchmark.Predictor("net.onnx")
    with pytest.raises(benchmark.WrongOutput, match="^the model is the class Means, not an object of it$"):
        benchmark.Predictor(Means)


@pytest.mark.parametrize("outputs, message", [
    ((np.zeros((2, 3)), 1), "returns a tuple of 2, not one array of outputs"),
    ({"logits": 1}, "returns a dict of 1, not one array of outputs"), (None, "returns nothing"), ("x", "returns a str"),
    (np.zeros((3, 4)), r"returns an array of shape \(3, 4\) for 2 images"), (1.0, r"returns an array of shape \(\)"),
    ([object()] * 2, "returns list of object"), ([[1], [2, 3]], "is no array of outputs"),
    (np.ones((2, 3), complex), "returns ndarray of complex128"),
    (torch.ones(2, 3, dtype=torch.complex64), "returns Tensor of complex64"),
    (np.full((2, 3), 1e300), r"returns numbers up to 1e\+300, which are too large for float32"),
    (torch.full((2, 3), -1e300, dtype=torch.float64), r"returns numbers up to 1e\+300, which are too large")])
@pytest.mark.filterwarnings("error")
def test_outputs_that_are_none(outputs, message):
    with pytest.raises(benchmark.WrongOutput, match=message):
        benchmark.as_outputs(outputs, 2)


def test_outputs_of_all_types():
    for outputs in (torch.ones(2, 3, dtype=torch.bfloat16), torch.ones(2, 3).double(), np.ones((2, 3), np.float16),
                    [[1.0] * 3] * 2, np.full((2, 3), np.inf)):
        assert benchmark.as_outputs(outputs, 2).dtype == np.float32
    assert benchmark.as_outputs(torch.ones(2, 3, dtype=torch.int32), 2).dtype == np.int64


def test_weights_identify_a_module():
    one, same, other = Means(), Means(), Means(2 * small_models.WEIGHTS)
    facts = [benchmark.Predictor(network).facts() for network in (one, same, other)]
    assert facts[0] == facts[1] and facts[0]["sha256"] != facts[2]["sha256"] and facts[0]["parameters"] == 24
    assert benchmark.Predictor(len).facts() == {"sha256": None, "parameters": None}


# ---- a user's folder with modules named like ours

OURS = ("models", "datasets", "support", "evaluation", "losses", "metrics", "evaluate")


@pytest.fixture
def user_folder(tmp_path):
    """A folder with modules named like ours, and network.py, whose functions use them."""
    folder = tmp_path / "user"
    for name in OURS[:4]:
        (folder / name).mkdir(parents=True)
        (folder / name / "__init__.py").write_text("MINE = True\n")
    for name in OURS[4:]:
        (folder / f"{name}.py").write_text("MINE = True\n")
    (folder / "network.py").write_text(textwrap.dedent(f"""
        import os, sys
        import numpy as np
        import {', '.join(OURS)}
        assert all(module.MINE for module in ({', '.join(OURS)}))
        assert not [path for path in sys.path if os.path.realpath(path or '.') == {str(ROOT)!r}]
        WEIGHTS = np.array({small_models.WEIGHTS.tolist()}, np.float32)
        print("what a model prints")

        def make(checkpoint=None):
            scale = 1 if checkpoint is None else float(open(checkpoint).read())
            def predict(images):
                assert images.dtype == np.uint8 and os.getcwd() == {str(folder)!r}
                return images.mean((2, 3)) @ WEIGHTS.T * scale
            return predict

        def floats(): return lambda images: images.mean((2, 3)) @ WEIGHTS.T
        def crash(): raise RuntimeError("no weights")
        def crash_later(): return lambda images: 1 / (len(images) - 2) + make()(images)
        def pair(): return lambda images: (images, images)
        def leave(): sys.exit("bye")
        def die(): return lambda images: os._exit(7)
        def needs(path): return path
        def wait():
            import time, subprocess
            subprocess.Popen(["sleep", "300"])
            open("started", "w").close()
            time.sleep(300)
        def slow():
            import time
            def predict(images):
                if len(images) > 1:
                    open("started", "a").write("x")
                    time.sleep(300 if os.path.getsize("started") > 2 else 0)
                return make()(images)
            return predict
        number = 3
        """))
    return folder


@pytest.fixture
def demo(built):
    opened = open_built_set(built)
    images = np.stack([opened.pixels(i) for i in range(4)]).transpose(0, 3, 1, 2)
    return opened, torch.from_numpy(images.copy())


def opened(demo, folder, function="make", **options):
    options = {"classes": NAMES, "trust_code": True, "folder": folder} | options
    return opened_model(ModelOptions(f"network:{function}", **options), [demo[0]], {})


def test_a_users_function_runs_beside_modules_named_like_ours(demo, user_folder, monkeypatch, tmp_path):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    with opened(demo, user_folder) as model:
        assert np.allclose(model.module(demo[1]), expected(demo[1].numpy()), atol=1e-3)
        assert (model.name, model.facts.kind, model.facts.source) == ("network:make", "factory", "network:make")
        first = model.weights_sha256
    (tmp_path / "scale").write_text("2")
    monkeypatch.chdir(user_folder)
    with opened(demo, None, checkpoint=Path("../scale")) as model:
        assert np.allclose(model.module(demo[1]), 2 * expected(demo[1].numpy()), atol=1e-2)
    assert model.weights_sha256 != first


def test_functions_in_files_take_floats(demo, user_folder):
    options = ModelOptions(f"{user_folder / 'network.py'}:make", classes=NAMES, trust_code=True)
    with opened_model(options, [demo[0]], {}) as model:
        assert np.allclose(model.module(demo[1]), expected(demo[1].numpy()), atol=1e-2)
    with opened(demo, user_folder, "floats", input="size=16,range=0..1,layout=nchw") as model:
        assert np.allclose(model.module(demo[1]), expected(demo[1].numpy() / 255), atol=0.05)


@pytest.mark.parametrize("function, message", [
    ("crash", "network:crash: RuntimeError: no weights; its traceback stands above"),
    ("leave", "network:leave: SystemExit: bye; its traceback stands above"),
    ("pair", "network:pair: the model returns a tuple of 2, not one array of outputs (N, classes); let it return the "
             "logits alone"),
    ("die", "network:die: its process has ended with exit code 7; what it printed stands above"),
    ("number", "network:number: it is of type int, not a function that returns a model"),
    ("needs", "network:needs: it cannot be called so (missing a required argument: 'path'); a function without "
              "arguments, or with an argument checkpoint, is needed"),
    ("nothing", "network:nothing: network has no nothing; it has make, floats, crash, crash_later, pair, leave, die, "
                "needs, wait, slow"),
])
def test_what_is_said_about_a_users_function(demo, user_folder, function, message):
    with pytest.raises(UserError) as caught, opened(demo, user_folder, function):
        pass
    assert str(caught.value) == message


def test_modules_and_files_that_are_absent(demo, user_folder):
    options = {"classes": NAMES, "trust_code": True, "folder": user_folder}
    for spec, message in {
            "absent:make": f"absent:make: there is no module absent; imports look into {user_folder} first (--folder "
                           f"names another one)",
            "absent.py:make": "--model absent.py:make: there is no file absent.py",
            "a-b:make": "--model a-b:make: 'a-b' is neither the name of a module nor a file that ends in .py",
            ":make": "--model :make: write MODULE:FUNCTION or FILE.py:FUNCTION"}.items():
        with pytest.raises(UserError) as caught, opened_model(ModelOptions(spec, **options), [demo[0]], {}):
            pass
        assert str(caught.value) == message


def test_a_function_in_the_projects_folder_is_refused(demo):
    for options in (dict(model="models:make", folder=ROOT), dict(model=f"{ROOT / 'losses.py'}:make")):
        options = ModelOptions(**options, classes=NAMES, trust_code=True)
        with pytest.raises(UserError, match="its folder is that of this project"), opened_model(options, [demo[0]], {}):
            pass


def processes_of(folder):
    """Processes that work in a folder."""
    processes = []
    for path in Path("/proc").glob("[0-9]*/cwd"):
        try:
            if os.readlink(path) == str(folder):
                processes.append(int(path.parent.name))
        except OSError:
            pass
    return processes


def wait_until(condition):
    deadline = time.monotonic() + 60
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
    return condition()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_the_users_process_ends_with_ours(built, user_folder, start, number):
    command = [sys.executable, str(ROOT / "evaluate.py"), "--model", "network:wait", "--trust-code", "--set",
               str(built), "--classes", NAMES]
    ours = start(command, cwd=user_folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert wait_until((user_folder / "started").exists)
    ours.send_signal(number)
    assert ours.wait(60) == (130 if number == signal.SIGINT else -number)
    if number == signal.SIGINT:
        assert ours.stderr.read().endswith("interrupted; start the same command again\n")
        assert wait_until(lambda: not processes_of(user_folder))
    else:  # the user's own child outlives a kill, as it would without us; the user's process does not
        assert wait_until(lambda: len(processes_of(user_folder)) <= 1)
        for process in processes_of(user_folder):
            os.kill(process, signal.SIGKILL)


@pytest.mark.slow
def test_an_interrupted_scoring_of_a_users_function_goes_on(built, user_folder, start, tmp_path, monkeypatch):
    """Ctrl-C while batches are computed: no process is left, and nothing half-written looks finished."""
    monkeypatch.setenv("FERC_RUNS", str(tmp_path / "runs"))
    command = [sys.executable, str(ROOT / "evaluate.py"), "--model", "network:slow", "--trust-code", "--set",
               str(built), "--classes", NAMES, "--no-check", "--batch-size", "100", "--workers", "1"]
    ours = start(command, cwd=user_folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert wait_until(lambda: (user_folder / "started").exists() and (user_folder / "started").stat().st_size > 2)
    time.sleep(1)
    ours.send_signal(signal.SIGINT)
    assert ours.wait(60) == 130
    assert ours.stderr.read().endswith("interrupted; start the same command again\n")
    assert wait_until(lambda: not processes_of(user_folder))
    files = [path.name for path in (tmp_path / "runs").rglob("*") if path.is_file()]
    assert "model.json" in files and "scores.csv" not in files and not any(name.endswith(".tmp") for name in files)
    assert not list((tmp_path / "runs").rglob("cards")) and not list((tmp_path / "runs").rglob("clean.npy"))


# ---- from Python

CALLER = """
import os, runpy, sys
sys.path.insert(0, {folder!r})
import {ours}
benchmark = runpy.run_path({file!r})["benchmark"]
import numpy as np
WEIGHTS = np.array({weights}, np.float32)

def predict(images):
    return np.asarray(images).mean((2, 3)) @ WEIGHTS.T

def run(model=predict, **options):
    return benchmark(model, {built!r}, **dict(classes={classes!r}, workers=0, no_check=True, python=sys.executable,
                                              **options))
"""


def caller(user_folder, built, code, start, **options):
    """A process that works in the user's folder and calls `run`."""
    text = CALLER.format(folder=str(user_folder), ours=", ".join(OURS), file=str(ROOT / "evaluation/benchmark.py"),
                         weights=small_models.WEIGHTS.tolist(), built=str(built), classes=CLASSES)
    (user_folder / "call.py").write_text(text + textwrap.dedent(code))
    return start([sys.executable, "call.py"], cwd=user_folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                 text=True, **options)


@pytest.mark.slow
def test_the_call_from_python_gives_the_scores_of_the_command(built, user_folder, start, tmp_path):
    """Beside modules named like ours. Nothing is stored unless it is asked for."""
    code = f"""
        frame = run(limit=3)
        assert list(frame)[:3] == ["set", "set_version", "method"] and frame["value"].dtype == float
        assert not os.path.exists("runs") and "torch" not in sys.modules
        whole = run(out={str(tmp_path / 'out')!r}, card={str(tmp_path / 'card.json')!r})
        assert evaluate.MINE and len(whole) > len(frame) / 2
        whole.to_csv("whole.csv", index=False)
        """
    done = caller(user_folder, built, code, start)
    output, errors = done.communicate()
    assert done.returncode == 0, errors
    assert json.loads((tmp_path / "card.json").read_text())
    (scores,) = (tmp_path / "out/models").glob("*/scores.csv")
    import pandas

    stored, given_frame = pandas.read_csv(scores), pandas.read_csv(user_folder / "whole.csv")
    pandas.testing.assert_frame_equal(stored, given_frame)


@pytest.mark.slow
def test_errors_in_python(built, user_folder, start):
    code = """
        def fails(images):
            if len(images) > 1:
                raise KeyError("mine")
            return predict(images)
        try:
            run(fails, limit=3)
        except KeyError as error:
            assert error.args == ("mine",)
        else:
            sys.exit("no error")
        try:
            run(output="probabilities")
        except Exception as error:
            assert type(error).__name__ == "BenchmarkError" and str(error).startswith("predict: --output probabilities")
            assert "\\n" not in str(error)
        else:
            sys.exit("no error")
        """
    done = caller(user_folder, built, code, start)
    _, errors = done.communicate()
    assert done.returncode == 0, errors


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_both_processes_end(built, user_folder, start, number):
    """Ctrl-C and a kill of the caller end evaluate.py, too."""
    code = """
        import time
        def slow(images):
            open("started", "w").close()
            time.sleep(300 if len(images) > 1 else 0)
            return predict(images)
        run(slow)
        """
    ours = caller(user_folder, built, code, start)
    assert wait_until((user_folder / "started").exists)
    time.sleep(1)
    ours.send_signal(number)
    ours.wait(60)
    assert wait_until(lambda: not processes_of(user_folder))
    if number == signal.SIGINT:
        assert "KeyboardInterrupt" in ours.stderr.read()


@pytest.mark.parametrize("keywords, message", [
    (dict(classes=["a,b", "c"]), "a name of a class holds a comma: 'a,b'"),
    (dict(classes=8), "classes is a list of names in the order of the model's outputs, not 8"),
    (dict(classes={0: "a", 1: "b"}), "classes is a list of names in the order of the model's outputs, not an object of "
                                     "type dict"),
    (dict(classes={"a", "b"}), "classes is a list of names in the order of the model's outputs, not an object of type "
                               "set"),
    (dict(classes=[0, 1]), "classes: the name of a class is a text, not 0"),
    (dict(limit=2.5), "limit is a whole number, not 2.5"), (dict(limit=True), "limit is a whole number, not True"),
    (dict(batch_size="many"), "batch_size is a whole number, not 'many'"),
    (dict(workers="all"), "workers is a whole number, not 'all'"),
    (dict(output="logit"), "output is 'logits' or 'probabilities', not 'logit'"),
    (dict(overlap="maybe"), "overlap is 'none' or 'some' or 'all' or 'unknown', not 'maybe'"),
    (dict(missing_classes="x"), "missing_classes is 'drop' or 'keep', not 'x'"),
    (dict(verify="no"), "verify is True or False, not 'no'"),
    (dict(no_check=None), "no_check is True or False, not None"),
    (dict(input={"range": "0..1"}), "input is a text such as 'size=64,colour=grey,range=-1..1', not an object of type "
                                    "dict"),
    (dict(name="a\0b"), "name holds the character of number 0"), (dict(name=5), "name is a text, not 5"),
    (dict(out=3), "out is the path of a folder, not 3"), (dict(out=""), "out is the path of a folder, not ''"),
    (dict(out=__file__), f"out is the path of a folder, and {__file__} is none"),
    (dict(card=b"x"), "card is the path of a file, not b'x'"),
    (dict(sets=None), "sets is the folder of a built set, or a list of several, not None"),
    (dict(sets=[]), "sets is an empty list: name the folder of a built set, for example data/FERPlus-C"),
    (dict(sets=["a", 3]), "sets: a folder of a built set is named by a text or a path, not by 3"),
])
def test_keywords_that_make_no_sense(keywords, message):
    with pytest.raises(benchmark.BenchmarkError) as caught:
        benchmark.benchmark(len, **{"sets": "set", **keywords})
    assert str(caught.value) == message


def test_keywords_of_other_types_and_unknown_ones():
    with pytest.raises(TypeError, match="unexpected keyword argument 'colour'"):
        benchmark.benchmark(len, "set", colour="bgr")
    benchmark.check_keywords({"limit": np.int64(2), "verify": np.bool_(True), "out": Path("x"), "card": None})
    assert benchmark.as_text(np.array(["a", "b"])) == benchmark.as_text(("a", "b")) == "a,b"


def test_words_of_keywords_are_those_of_the_options():
    hints = get_type_hints(ModelOptions) | get_type_hints(ClassOptions) | get_type_hints(CardOptions)
    for name, words in benchmark.WORDS.items():
        choices = [hint for hint in (hints[name], *get_args(hints[name])) if get_origin(hint) is Literal]
        assert [get_args(choice) for choice in choices] == [words]
    keywords = set(inspect.signature(benchmark.benchmark).parameters) - {"model", "sets", "classes"}
    assert keywords == set(benchmark.KEYWORDS)


@pytest.mark.parametrize("python, message", [
    ("/bin/false", "evaluate.py ended with exit code 1, and /bin/false has printed nothing: does it have the packages "
                   "of this project?"),
    ("/nowhere/python", "the interpreter /nowhere/python cannot be started (No such file or directory)"),
    ("/tmp", "the interpreter /tmp cannot be started (Permission denied)")])
def test_interpreters_that_do_not_work(python, message):
    with pytest.raises(benchmark.BenchmarkError) as caught:
        benchmark.benchmark(lambda images: images, "set", python=python)
    assert str(caught.value) == message


def test_advice_to_type_a_command_is_one_to_call_the_function():
    for folder in ("/a/.venv", "/a b/.venv"):
        command = shlex.join([f"{folder}/bin/python", "/a b/evaluate.py", "--model=caller:5,4", "--set", "x"])
        line = f"error: this Python (/usr/bin/python3) has no package tyro; use the project's: {command}"
        assert benchmark.message_of([line], 2, "python") == (
            f"this Python (/usr/bin/python3) has no package tyro; use the project's: benchmark(..., "
            f"python='{folder}/bin/python')")


def frames_in(error):
    """Names of the functions in the traceback of an error that are in benchmark.py."""
    return [frame.name for frame in traceback.extract_tb(error.__traceback__) if frame.filename == benchmark.__file__]


def test_tracebacks_show_the_users_code(monkeypatch):
    def fails(images):
        raise RuntimeError("mine") from KeyError("cause")

    def replace_rows_of(code):
        """Let `rows_of` be a function of benchmark.py with this code."""
        code = compile(f"def rows_of(predictor, *arguments, **keywords): {code}", benchmark.__file__, "exec")
        names = {"serve": benchmark.serve, "source": lambda: source, "io": io}
        exec(code, names)
        monkeypatch.setattr(benchmark, "rows_of", names["rows_of"])

    replace_rows_of("serve(predictor, source(), io.BytesIO())")
    for model, kind in ((fails, RuntimeError), (lambda images: None, benchmark.WrongOutput),
                        (int, benchmark.WrongOutput)):
        source = io.BytesIO()
        benchmark.send(source, {"kind": "images"}, IMAGES)
        source.seek(0)
        with pytest.raises(kind) as caught:
            benchmark.benchmark(model, "set")
        assert frames_in(caught.value) == ["benchmark"]
        assert isinstance(caught.value.__cause__, KeyError) == (model is fails)
    replace_rows_of("1 / 0")
    with pytest.raises(ZeroDivisionError) as caught:  # a fault of ours
        benchmark.benchmark(fails, "set")
    assert frames_in(caught.value) == ["benchmark", "rows_of"]


def test_the_commands_module_gives_the_function():
    import evaluate

    assert evaluate.benchmark is benchmark.benchmark


def test_the_file_alone_imports_nothing_of_ours(tmp_path):
    code = (f"import runpy, sys; runpy.run_path({str(ROOT / 'evaluation/benchmark.py')!r}); "
            f"sys.exit(any(name in sys.modules for name in {OURS!r}) or 'torch' in sys.modules)")
    assert subprocess.run([sys.executable, "-c", code], cwd=tmp_path).returncode == 0
