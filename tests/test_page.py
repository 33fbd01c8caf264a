"""The HTML page: what is in it equals the files it was made from; nothing from files can break out of its place; and in
headless Chromium, where that is installed, it does what it says, by mouse and by keyboard, and fetches nothing."""
import base64
import contextlib
import csv
import hashlib
import html.parser
import io
import json
import os
import re
import shutil
import statistics

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import metrics
import processes
import report
import reporting.report
from building.built_set import open_built_set
from corruptions import CELLS
from datasets.images import read_image
from evaluation.class_matching import same_classes
from evaluation.predictions import made_from, predictions_file, write_array, write_origin
from evaluation.scores import score
from reporting import page, page_data, page_samples
from support.errors import UserError
from support.files import write_rows
from support.random_streams import keyed_rng
from cases import mostly_slow
from sealing import reseal
from test_figures import of_another
from test_report import NoFigures

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")


def make_run(runs, built, script, loss, seed, noise=0.0, **others):
    """A run as training and evaluation leave it, with logits drawn here."""
    folder = runs / f"{script}-{loss}-{noise}-{seed}".replace("/", "_")
    folder.mkdir(parents=True)
    args = {"script": script, "dataset": "demo", "loss": loss, "seed": seed, "noise": noise, "protocol": "paper",
            "image_size": 32, "epochs": 1, "runs": "runs"} | others
    (folder / "args.json").write_text(json.dumps(args))
    (folder / "metrics.csv").write_text("epoch\n0\n")
    out = folder / "predictions" / built.folder.name
    origin = made_from(built, None, "weights", "32-true", same_classes(len(built.classes)))
    write_origin(out, origin | {"verified": True, "digests": {}}, built)
    labels = built.frame["expression"].to_numpy(np.int64)
    write_array(out / "labels.npy", labels)
    truth = np.eye(len(built.classes))[labels]
    for cell in (None, *built.cells):
        rng = keyed_rng("test_page", script, loss, seed, *(cell or ()))
        path = predictions_file(out, cell)
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, (3 * truth * rng.random(truth.shape) + rng.normal(size=truth.shape)).astype(np.float32))
    write_rows(folder / "scores.csv", score(built, out, None))
    return folder


def make_page(runs, **options):
    """(the HTML, the data in it)"""
    path = runs.parent / "page.html"
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()) as out:
        patch.setattr(reporting.report, "Drawing", NoFigures)
        patch.setattr(metrics, "ece_floor", lambda *_, **__: 0.1)
        assert report.main(report.Args(runs, html=path, **options)) == 0
    assert f"page: {path} (" in out.getvalue()
    text = path.read_text(encoding="utf-8")
    return text, json.loads(elements(text)["data"])


def elements(text):
    """{id or number of a script element: its text}, as a browser's parser would find them."""
    found = {}

    class Parser(html.parser.HTMLParser):
        inside = None

        def handle_starttag(self, tag, attributes):
            if tag == "script":
                self.inside = dict(attributes).get("id", len(found))
                found[self.inside] = ""

        def handle_endtag(self, tag):
            self.inside = None

        def handle_data(self, data):
            if self.inside is not None:
                found[self.inside] += data
    Parser().feed(text)
    return found


@pytest.fixture(scope="module")
def example(built, tmp_path_factory):
    """Two algorithms, two losses, two seeds of one, one with noise; a run of SCN is missing."""
    runs, demo = tmp_path_factory.mktemp("page") / "runs", open_built_set(built)
    for loss in ("ce", "maxent+mbls"):
        for seed in (0, 1):
            make_run(runs, demo, "baseline", loss, seed)
    scn = make_run(runs, demo, "SCN", "ce", 0)
    rewrite(scn / "scores.csv", lambda text: re.sub("(clean,,mce),[^,\\n]*", r"\1,0.0", text))  # zero is a score
    make_run(runs, demo, "baseline", "ce", 0, noise=0.2)
    return runs, *make_page(runs)


@pytest.fixture
def copy(example, tmp_path, monkeypatch):
    """Two runs of the example, to damage, without what takes long."""
    monkeypatch.setattr(page_samples, "SAMPLES", 2)
    for name in ("baseline-ce-0.0-0", "baseline-maxent+mbls-0.0-0"):
        shutil.copytree(example[0] / name, tmp_path / "runs" / name)
    return tmp_path / "runs"


def move_set(runs, built, folder):
    """Let the runs' predictions speak of a copy of their set; its files are links: see `rewrite`."""
    shutil.copytree(built, folder, copy_function=os.link)
    for path in runs.glob("*/predictions/*/set.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"folder": str(folder)}))
    return folder


def rewrite(path, change):
    text = change(path.read_text())
    path.unlink()
    path.write_text(text)


def scores_of(folder):
    return list(csv.DictReader((folder / "scores.csv").open(encoding="utf-8")))


# --- the data

def test_every_score_is_in_the_page(example):
    runs, _, data = example
    places = {(name, str(severity or "")): index for index, (name, severity) in enumerate(data["places"])}
    assert len(data["scores"]) == len(data["runs"]) == 6
    for one in data["scores"]:
        folder = runs.parent / data["runs"][one["run"]]["folder"]
        rows = scores_of(folder)
        for row in rows:
            value = one["values"][row["metric"]][places[row["corruption"], row["severity"]]]
            assert value == pytest.approx(float(row["value"]), rel=1e-14)  # versions of pandas read last digits apart
        assert len(rows) == sum(value is not None for column in one["values"].values() for value in column) > 1000


def test_rows_are_means_over_seeds(example):
    runs, _, data = example
    rows = {(row["algorithm"], row["loss"], row["noise"]): row for row in data["rows"]}
    assert list(rows) == [("baseline", "ce", 0), ("baseline", "maxent+mbls", 0), ("baseline", "ce", .2),
                          ("baseline", "maxent+mbls", .2), ("SCN", "ce", 0), ("SCN", "maxent+mbls", 0)]
    by_seed = [[float(row["value"]) for row in scores_of(runs / f"baseline-ce-0.0-{seed}")
                if (row["corruption"], row["metric"]) == ("mean", "ece")] for seed in (0, 1)]
    values = [value for (value,) in by_seed]
    assert rows["baseline", "ce", 0]["ece_corrupted"] == pytest.approx(
        [statistics.mean(values), statistics.stdev(values)])
    assert rows["SCN", "ce", 0]["seeds"] == 1 and rows["SCN", "ce", 0]["nll_clean"][1] is None
    missing = rows["SCN", "maxent+mbls", 0]
    assert missing["seeds"] == 0 and {missing[f"{name}_clean"] for name in page_data.SHOWN_METRICS} == {None}
    assert any("train_SCN.py" in line for line in data["missing"])


def test_samples_are_those_of_the_set(example, built):
    runs, _, data = example
    demo, (block,) = open_built_set(built), data["blocks"]
    explorer, order = block["explorer"], list(demo.frame["id"])
    chosen = [order.index(name) for name in explorer["ids"]]
    assert block["demo"] and sorted(explorer["labels"]) == list(range(8))
    assert [demo.frame["expression"][i] for i in chosen] == explorer["labels"]
    place = 1 + CELLS.index(("snow", 4))
    np.testing.assert_allclose(np.array(explorer["targets"][place]) / 1000, demo.soft_labels_of("snow", 4)[chosen],
                               atol=6e-4)
    np.testing.assert_allclose(np.array(explorer["targets"][0]) / 1000, demo.labels_before_softening[chosen], atol=6e-4)
    for index, run in enumerate(data["runs"]):
        logits = np.load(runs.parent / run["folder"] / "predictions/Demo-C/snow/4.npy")[chosen]
        np.testing.assert_allclose(np.array(explorer["predictions"][str(index)][place]) / 1000,
                                   metrics.softmax(logits), atol=6e-4)
    for one, i in enumerate(chosen):
        for form in (("snow", 4), ("contrast", 5), ()):
            place = 1 + CELLS.index(form) if form else 0
            data = base64.b64decode(explorer["pictures"][one][place].removeprefix("data:image/webp;base64,"))
            shown = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
            wanted = read_image(demo.image_path(i, *form), 32)
            assert shown.shape == wanted.shape and np.abs(shown.astype(float) - wanted).mean() < 10


def test_reliability_counts_and_ece(example):
    runs, _, data = example
    by_key = {(one["algorithm"], one["loss"], one["domain"]): one for one in data["blocks"][0]["reliability"]}
    assert len(by_key) == 6  # the noisy run has none
    one = by_key["SCN", "ce", "corrupted"]
    (pooled,) = [float(row["value"]) for row in scores_of(runs / "SCN-ce-0.0-0")
                 if (row["corruption"], row["metric"]) == ("pooled", "ece")]
    assert sum(one["count"]) == 85 * 16 and one["ece"] == pytest.approx(pooled)
    assert all((count == 0) == (mean is None) for count, mean in zip(one["count"], one["accuracy"], strict=True))
    assert sum(by_key["baseline", "ce", "clean"]["count"]) == 2 * 16  # two seeds


def test_tables_and_settings_travel(example):
    runs, _, data = example
    assert data["tables"] == {path.name: path.read_text() for path in (runs / "report").glob("*.csv")} != {}
    for run in data["runs"]:
        args = json.loads((runs.parent / run["folder"] / "args.json").read_text())
        assert run["settings"] == {key: value if isinstance(value, str) else json.dumps(value)
                                   for key, value in args.items()}


@pytest.mark.slow
def test_a_set_without_images_gives_the_same_pictures(copy, built):
    folder = move_set(copy, built, copy.parent / "without" / "Demo-C")
    whole = make_page(copy)[1]["blocks"][0]["explorer"]
    shutil.rmtree(folder / "images")
    assert make_page(copy)[1]["blocks"][0]["explorer"] == whole and whole["pictures"][0][85]


@pytest.mark.slow
def test_pictures_of_others_only_on_request(copy, monkeypatch):
    """Whatever the runs were trained on: what a set was built from decides."""
    monkeypatch.setattr(page_samples, "open_built_set", of_another("ferplus"))
    text, data = make_page(copy)
    assert "data:image/webp" not in text and "--with-images" in " ".join(data["missing"])
    explorer = data["blocks"][0]["explorer"]
    assert explorer["predictions"]["0"] and {p for one in explorer["pictures"] for p in one} == {None}
    text, data = make_page(copy, with_images=True)
    assert text.count("data:image/webp") == 2 * 86 and not data["missing"]


@pytest.mark.parametrize("damage", mostly_slow(
    ["no set", "another version", "picture", "predictions", "classes", "not evaluated"], fast=[1, 3, 5]))
def test_what_is_missing_is_named_and_the_page_is_written(copy, built, damage):
    folder = move_set(copy, built, copy.parent / "damaged" / "Demo-C")
    if damage == "no set":
        shutil.rmtree(folder)
    elif damage == "another version":
        reseal(folder, lambda manifest: manifest.update(set_version="0"))
    elif damage == "picture":
        shutil.rmtree(folder / "images/snow")
    elif damage == "predictions":
        (copy / "baseline-ce-0.0-0/predictions/Demo-C/saturate/3.npy").write_bytes(b"no")
    elif damage == "classes":
        path = copy / "baseline-ce-0.0-0/predictions/Demo-C/saturate/3.npy"
        np.save(path, np.load(path)[:, :5])
    else:
        for path in copy.glob("*/scores.csv"):
            path.unlink()
    data = make_page(copy)[1]
    words = {"no set": "no FER-C set", "another version": "now holds another version", "not evaluated": "not evaluated",
             "picture": "no pictures in the page"}.get(damage, "predictions on Demo-C .* unusable")
    assert re.search(words, "\n".join(data["missing"]))
    explorer = data["blocks"][0]["explorer"] if data["blocks"] else None
    if damage in ("no set", "another version", "not evaluated"):
        assert explorer is None
    elif damage == "picture":
        assert explorer["pictures"][0] == [None] * 86 and list(explorer["predictions"]) == ["0", "1"]
    else:
        assert explorer["pictures"][0][0] and list(explorer["predictions"]) == ["1"]


# --- safety

@given(st.dictionaries(st.text(max_size=9), st.text(max_size=9), max_size=3))
@settings(max_examples=30, deadline=None)
def test_json_stays_in_its_place(value):
    text = page.to_json([value, "</script><!--<script>&\u2028\u2029\ud800"])
    assert not re.search("[<>&\u2028\u2029\ud800-\udfff]", text)
    assert json.loads(text)[0] == value


HOSTILE = "</script><script>window.pwned=1</script><img src=x onerror=window.pwned=1>{{data}}$&\u2028'\"`"


@pytest.fixture(scope="module")
def hostile(built, tmp_path_factory):
    """Names of others that try to be more than names: of algorithm, loss, settings, set and classes."""
    root = tmp_path_factory.mktemp("hostile")
    demo = root / "x<img src=x onerror=window.pwned=1>"
    shutil.copytree(built, demo, copy_function=os.link)
    reseal(demo, lambda manifest: manifest["classes"].__setitem__(manifest["classes"].index("Neutral"), HOSTILE))
    folder = make_run(root / "runs", open_built_set(demo), "baseline", "ce", 0)
    args = json.loads((folder / "args.json").read_text())
    (folder / "args.json").write_text(json.dumps(args | {"script": HOSTILE, "loss": HOSTILE, HOSTILE: [HOSTILE]}))
    return root / "page.html", *make_page(root / "runs")


def test_hostile_names_stay_names(hostile, example):
    _, text, data = hostile
    assert data["rows"][0]["algorithm"] == HOSTILE and data["blocks"][0]["explorer"]["classes"][0] == HOSTILE
    assert "window.pwned=1</script>" not in text and "<img src=x" not in text
    assert len(elements(text)) == len(elements(example[1])) == 4


def test_only_its_own_scripts_may_run(example):
    text = example[1]
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', text)[1]
    assert policy.startswith("default-src 'none'; ") and text.index(policy) < text.index("<script")
    scripts = [script for name, script in elements(text).items() if name != "data"]
    sums = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    assert re.search("script-src (.*)", policy)[1].split() == [f"'sha256-{value}'" for value in sums]
    assert "http" not in policy and "sourceMappingURL" not in text
    assert not re.search(r"<(link|img|script|iframe)[^>]+(src|href)=(?!\"data:,)", text)


def test_vendored_files_are_the_listed_ones():
    listed = dict(re.findall(r"\| `(vendor/\S+)`.* ([0-9a-f]{64}) \|", (page.PARTS / "VENDORED.md").read_text()))
    files = {path for path in page.PARTS.glob("vendor/*") if path.suffix != ".LICENSE"}
    assert {f"vendor/{path.name}": hashlib.sha256(path.read_bytes()).hexdigest() for path in files} == listed


def test_licences_are_in_the_page(example):
    assert "Copyright (c) 2015-2026 Oli Folkerd" in example[1] and "Chart.js Contributors" in example[1]


@pytest.mark.parametrize("name", ["page.txt", "page", "folder.html"])
def test_refusals_come_before_anything_is_written(copy, name):
    (copy.parent / "folder.html").mkdir()
    with pytest.raises(UserError, match="ends in .html"):
        report.main(report.Args(copy, html=copy.parent / name))
    assert not (copy / "report").exists()


# --- in the browser

@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    if not (CHROMIUM and DRIVER):
        pytest.skip("no chromium and chromedriver found (Debian: apt install chromium chromium-driver)")
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    driver.downloads = tmp_path_factory.mktemp("downloads")
    driver.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(driver.downloads)})
    yield driver
    driver.quit()
    leftovers = processes.left_behind(os.environ[processes.MARK])
    crash_handlers = [number for number, command in leftovers.items() if "crashpad" in command]
    processes.kill_all(crash_handlers)  # they outlive the browser


class Page:
    """A page in the browser, spoken to as a person would: by what can be seen, clicked and typed."""

    def __init__(self, driver, path):
        self.driver, self.path = driver, path
        self.look()

    def look(self, width=1400, height=1000, scheme="light"):
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {
            "width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500})
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {
            "features": [{"name": "prefers-color-scheme", "value": scheme}]})
        self.driver.get(f"file://{self.path}")
        # Tabulator draws its rows after the page is loaded.
        self.wait(lambda: self.run("""return [...document.querySelectorAll(".tabulator")]
            .every(x => x.querySelector(".tabulator-row, .tabulator-placeholder"))"""))

    def run(self, script, *values):
        return self.driver.execute_script(script, *values)

    def find(self, selector):
        found = self.driver.find_element("css selector", selector)
        self.run("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", found)
        return found

    def texts(self, selector):
        return self.run("return [...document.querySelectorAll(arguments[0])].map(x => x.textContent)", selector)

    def choose(self, label, text):
        self.run("""const [label, text] = arguments;
                    const found = [...document.querySelectorAll("label")].find(x => x.firstChild.textContent === label);
                    const select = found.querySelector("select");
                    select.value = [...select.options].find(x => x.textContent === text).value;
                    select.dispatchEvent(new Event("change"));""", label, text)

    def press(self, *keys):
        from selenium.webdriver import ActionChains
        ActionChains(self.driver).send_keys(*keys).perform()

    def hover(self, element):
        from selenium.webdriver import ActionChains
        ActionChains(self.driver).move_to_element(element).perform()

    def column(self, field):
        return self.run("""const cells = `#table .tabulator-row [tabulator-field="${arguments[0]}"]`;
                           return [...document.querySelectorAll(cells)].filter(x => x.offsetParent)
                                      .map(x => x.textContent)""", field)

    def wait(self, condition):
        from selenium.webdriver.support.ui import WebDriverWait
        WebDriverWait(self.driver, 20, poll_frequency=0.05).until(lambda _: condition())

    def check_quiet(self):
        """Nothing on the console, no request but for the page itself and what it holds."""
        assert self.driver.get_log("browser") == []
        events = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        urls = {event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"}
        assert f"file://{self.path}" in urls
        assert not [url for url in urls if not url.startswith(("file://" + str(self.path), "data:", "blob:"))]


@pytest.fixture
def opened(browser, example):
    view = Page(browser, example[0].parent / "page.html")
    yield view
    view.check_quiet()


@pytest.mark.slow
def test_sorting_by_mouse_and_keyboard(opened, example):
    shown = [f"{100 * row['ece_corrupted'][0]:.1f}" for row in example[2]["rows"] if row["ece_corrupted"]]
    up, down = sorted(shown, key=float), sorted(shown, key=float, reverse=True)

    def values():
        return [text.split(" ")[0] for text in opened.column("ece_corrupted")]

    heading = opened.find(".tabulator-col[tabulator-field=ece_corrupted]")
    heading.click()
    assert values() == [*down, "—", "—"] and heading.get_attribute("aria-sort") == "descending"
    heading.click()
    assert values() == [*up, "—", "—"] and heading.get_attribute("aria-sort") == "ascending"
    opened.run("document.querySelector('.tabulator-col[tabulator-field=algorithm]').focus()")
    opened.press("\ue007")  # Enter
    assert opened.column("algorithm") == ["baseline"] * 4 + ["SCN"] * 2 or opened.column("algorithm") == [
        "SCN"] * 2 + ["baseline"] * 4
    first = opened.column("algorithm")[0]
    opened.press(" ")
    assert opened.column("algorithm")[0] != first


def test_numbers_are_rounded_as_in_the_tables(opened):
    rng = keyed_rng("test_page", "rounding")
    values = [*np.arange(0, 4, 1 / 64).tolist(), 56.25, 6.25, 0.5, 1.5, 0.0625, *(100 * rng.random(200)).tolist()]
    for digits in (0, 1, 3):
        shown = opened.run("return arguments[0].map(value => fixed(value, arguments[1]))", values, digits)
        assert shown == [f"{value:.{digits}f}" for value in values]


def test_filtering_and_choosing_metrics(opened):
    assert len(opened.column("algorithm")) == 6
    opened.choose("Algorithm", "baseline")
    assert opened.column("algorithm") == ["baseline"] * 4 and opened.texts("#count") == ["4 of 6 rows"]
    opened.choose("Label noise", "20 %")
    opened.choose("Loss", "ce (uncalibrated)")
    assert [opened.column(field) for field in ("loss", "noise", "seeds")] == [["ce"], ["20 %"], ["1"]]
    opened.choose("Set", "Demo-C (demo)")
    opened.choose("Algorithm", "SCN")
    assert opened.column("loss") == [] and "No row fits" in opened.texts(".tabulator-placeholder")[0]
    opened.choose("Algorithm", "all")
    assert len(opened.column("loss")) == 1 and not opened.column("brier_clean")
    opened.find("#metrics input[value=brier]").click()
    opened.find("#metrics input[value=nll]").click()
    assert len(opened.column("brier_clean")) == 1 and not opened.column("nll_clean")


def test_the_explorer_by_mouse_and_keyboard(opened, example):
    data = example[2]
    explorer = data["blocks"][0]["explorer"]

    def is_shown(corruption, severity):
        place = [tuple(place) for place in data["places"]].index((corruption, severity))
        assert opened.texts("#grid button[aria-pressed=true]") == [opened.texts("#grid button")[place]]
        images = "[...document.querySelectorAll('.sample img')]"
        assert opened.run(f"return {images}.map(x => x.src)") == [one[place] for one in explorer["pictures"]]
        opened.wait(lambda: opened.run(f"return {images}.every(x => x.complete && x.naturalWidth === 32)"))
        run = next(one for one in data["scores"] if data["runs"][one["run"]]["loss"] == "ce")
        columns = [explorer["targets"][place][0], explorer["predictions"][str(run["run"])][place][0]]
        bars = opened.run("return [...document.querySelector('.sample').querySelectorAll('tbody tr')]"
                          ".map(x => [...x.cells].map(y => y.textContent))")
        assert [row[0] for row in bars] == explorer["classes"]
        for at, column in enumerate(columns, 1):
            np.testing.assert_allclose([float(row[at]) for row in bars], np.array(column) / 10, atol=0.51)
        accuracy = run["values"]["accuracy"][place]
        assert opened.texts("#cell-scores tbody tr:first-child td")[2] == f"{100 * accuracy:.1f}"

    opened.find("#grid button[aria-label^='Snow, severity 4']").click()
    assert opened.texts("#place") == ["Snow, severity 4"]
    is_shown("snow", 4)
    right, left, up, down, end = "\ue014", "\ue012", "\ue013", "\ue015", "\ue010"
    for keys, place in ((right, ("snow", 5)), (right, ("snow", 5)), (down, ("brightness", 5)),
                        (left, ("brightness", 4)), (up * 12, ("clean", 0)), (down, ("gaussian_noise", 1)),
                        (end, ("gaussian_noise", 5))):
        opened.press(*keys)
        name = f"{place[0].capitalize().replace('_', ' ')}, severity {place[1]}" if place[1] else "Clean"
        assert opened.texts("#place") == [name]
        is_shown(*place)
        assert opened.run("return document.activeElement.ariaLabel").startswith(f"{name}: NLL ")
    before = opened.texts(".sample:first-child tbody td:nth-child(3)")
    opened.choose("Model A", "SCN, ce, seed 0")
    assert opened.texts(".sample:first-child tbody td:nth-child(3)") != before
    opened.choose("Model B", "none")
    assert opened.texts(".sample:first-child thead th") == ["%", "label", "A"]
    opened.choose("Grid shows", "NLL")
    nll = next(one for one in data["scores"] if data["runs"][one["run"]]["algorithm"] == "SCN")
    assert opened.texts("#grid button") == [f"{value:.2f}" for value in nll["values"]["nll"][:86]]


@pytest.mark.slow
def test_reliability_by_pointing_and_keyboard(opened, example):
    opened.hover(opened.find("#eces tr:nth-child(2) td:nth-child(2) button"))
    assert opened.texts("#diagram-title") == ["SCN, clean images, Demo-C (demo)"]
    opened.hover(opened.find("#diagram-title"))
    assert opened.texts("#diagram-title") == ["baseline, corrupted images, Demo-C (demo)"]  # what was chosen
    opened.find("#eces tr:nth-child(1) td:nth-child(2) button").click()
    opened.hover(opened.find("#diagram-title"))
    assert opened.texts("#diagram-title") == ["baseline, clean images, Demo-C (demo)"]
    opened.press("\ue004")  # Tab
    assert opened.texts("#diagram-title") == ["baseline, corrupted images, Demo-C (demo)"]
    data = {one["loss"]: one for one in example[2]["blocks"][0]["reliability"]
            if (one["algorithm"], one["domain"]) == ("baseline", "corrupted")}
    assert opened.texts("#bins tbody td:nth-child(2)") == [str(n) for n in data["ce"]["count"]]
    assert opened.texts("#bins tbody td:nth-child(5)") == [str(n) for n in data["maxent+mbls"]["count"]]
    assert f"ECE {100 * data['ce']['ece']:.1f}" in opened.find("#diagram").get_attribute("aria-label")
    drawn = opened.run("""const chart = Chart.getChart("diagram"), {x, y} = chart.scales;
        return chart.getDatasetMeta(0).data.map(at => [x.getValueForPixel(at.x), y.getValueForPixel(at.y)])""")
    full = np.array(data["ce"]["count"]) > 0
    wanted = np.array([data["ce"]["confidence"], data["ce"]["accuracy"]], float).T[full]
    np.testing.assert_allclose(drawn, wanted, atol=1e-6)


@pytest.mark.slow
def test_settings_and_downloads(opened, example, browser):
    runs, _, data = example
    opened.find("#run-list details:nth-child(1) summary").click()
    opened.wait(lambda: opened.texts("#run-list details:nth-child(1) td"))
    run = data["runs"][data["order"][0]]
    keys, values = (opened.texts(f"#run-list details:nth-child(1) {cell}") for cell in ("th", "td"))
    assert dict(zip(keys, values, strict=True)) == {"folder": run["folder"]} | run["settings"]
    names = [*data["tables"], "scores.csv"]
    for index in range(len(names)):
        opened.find(f"#files button:nth-child({index + 1})").click()
    opened.wait(lambda: sorted(path.name for path in browser.downloads.iterdir()) == sorted(names))
    for name, text in data["tables"].items():
        assert (browser.downloads / name).read_text() == text
    rows = list(csv.DictReader((browser.downloads / "scores.csv").open(encoding="utf-8")))
    keys = ("set", "set_version", "corruption", "severity", "metric")
    got = {tuple(row[key] for key in ("algorithm", "loss", "noise", "seed", *keys)): float(row["value"])
           for row in rows}
    wanted = {(run["algorithm"], run["loss"], f"{run['noise']:g}", str(run["seed"]), *(row[key] for key in keys)):
              float(row["value"]) for run in data["runs"] for row in scores_of(runs.parent / run["folder"])}
    assert got == wanted and len(rows) == len(got)


@pytest.mark.parametrize("width, scheme", mostly_slow([(390, "light"), (390, "dark"), (1400, "dark")], fast=[1]))
def test_a_phones_width_and_the_dark(opened, width, scheme):
    opened.look(width, 844, scheme)
    assert opened.run("return document.documentElement.scrollWidth - document.documentElement.clientWidth") == 0
    wide = opened.run("""return [...document.querySelectorAll("main *")]
        .filter(x => x.getBoundingClientRect().right > innerWidth + 1 && !x.closest(".tabulator, .scroll"))
        .map(x => x.outerHTML.slice(0, 80))""")
    assert wide == []
    ground = opened.run("return getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)")
    assert (max(ground) < 60) == (scheme == "dark")


@pytest.mark.parametrize("what", ["hostile", "nothing evaluated"])
def test_other_pages_open_too(browser, hostile, copy, what):
    if what == "hostile":
        view = Page(browser, hostile[0])
        assert view.run("return window.pwned") is None
        assert HOSTILE in view.column("algorithm") and HOSTILE in view.texts(".sample tbody th")
        view.find("#run-list summary").click()
        view.wait(lambda: HOSTILE in view.texts("#run-list th"))
        assert not view.run("return document.querySelectorAll('img:not(.sample img)').length")
    else:
        for path in copy.glob("*/scores.csv"):
            path.unlink()
        make_page(copy)
        view = Page(browser, copy.parent / "page.html")
        assert view.texts(".tabulator-placeholder") == ["No evaluated run yet."]
        assert len(view.texts("#gaps li")) == 2 and len(view.texts("#run-list details")) == 2
    view.check_quiet()

