"""The check of the input: an alarm for each mistake, none for the right reading, none for a collapsed model."""
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from benchmarks import input_check as measured
from datasets import load_split
from evaluation import input_check
from evaluation.class_matching import match_classes, same_classes
from evaluation.input_check import (
    SUBJECTS, CheckedImages, CheckedModel, alarms_about_outputs, best_assignment, check_model, check_outputs,
    check_shape, gain_is_certain, names_in_order, other_formats, readings_of,
)
from evaluation.input_format import InputFormat
from evaluation.logits_source import as_logits
from evaluation.model_facts import FLOOR, SUM_TOLERANCE
from metrics import softmax
from support.errors import UserError

CLASSES = ["Neutral", "Happy", "Sad", "Surprise", "Fear", "Disgust", "Anger", "Contempt"]
# A colour for each class. Red and blue differ, and so do the grey levels.
PALETTE = np.array([[230, 40, 20], [20, 40, 230], [200, 200, 30], [30, 200, 200], [120, 20, 20], [20, 20, 120],
                    [240, 120, 60], [60, 120, 240]], float)
RIGHT = InputFormat(size=8, range="-1..1")
GREY_LEVELS = np.array([0.299, 0.587, 0.114])


def faces(count=300, seed=0, grey=False):
    """Images of one colour each, with noise; the colour says the class."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(count) % 8)
    images = PALETTE[labels][:, None, None] + rng.normal(0, 40, (count, 1, 1, 3)) + rng.normal(0, 9, (count, 8, 8, 3))
    images = np.clip(images, 0, 255).astype(np.uint8)
    if grey:
        images = np.repeat(images[..., :1], 3, axis=3)
    return CheckedImages(images, labels, "drawn for this test")


def as_input(images, format):
    """Float (N, 8, 8, 3): the images as a network gets them that is read with a format."""
    values = images.astype(float)
    if format.colour == "bgr":
        values = values[..., ::-1]
    if format.colour.startswith("grey"):
        values = np.repeat((values @ GREY_LEVELS)[..., None], 3, axis=3)
    scale = {"0..255": (1, 0), "0..1": (255, 0), "-1..1": (127.5, 1)}
    if format.range == "standardised":
        return (values / 255 - np.array(format.mean)) / np.array(format.std)
    factor, shift = scale[format.range]
    return values / factor - shift


def network(values):
    """The logits of a network for inputs in -1..1, in the order red, green, blue: by distance to the colours."""
    mean = values.mean((1, 2))
    return -4 * ((mean[:, None] - (PALETTE / 127.5 - 1)) ** 2).sum(2)


def model(classes=None, names=CLASSES, output="logits", advice=None):
    return CheckedModel("net", names, CLASSES, classes or same_classes(8), output, advice or {})


def check(format=RIGHT, images=None, outputs=network, classes=None, names=CLASSES, output="logits"):
    """The check of the network, read with a format."""
    images = images or faces()

    def reader(other):
        def predict(pictures):
            if other.size != 8:
                raise RuntimeError("takes 8 pixels")
            return outputs(as_input(pictures, other))
        return predict

    return check_model(model(classes, names, output), reader(format),
                       lambda: readings_of(format, 8, images.are_grey, reader), images)


# ---- mistakes

@pytest.mark.parametrize("format, subject, option", [
    (InputFormat(size=8, colour="bgr", range="-1..1"), "colour", "--input size=8,colour=rgb,range=-1..1"),
    (InputFormat(size=8, range="0..1"), "range", "--input size=8,colour=rgb,range=-1..1"),
    (InputFormat(size=8, range="0..255"), "range", "--input size=8,colour=rgb,range=-1..1"),
    (InputFormat(size=8, colour="grey3", range="-1..1"), "colour", "--input size=8,colour=rgb,range=-1..1"),
    (InputFormat(size=8, colour="bgr", range="0..1"), "colour", "--input size=8,colour=rgb,range=-1..1")])
def test_a_wrong_reading_is_found(format, subject, option):
    result = check(format)
    (alarm,) = result.alarms
    assert (alarm.subject, alarm.option) == (subject, option)
    right = check(RIGHT).accuracy
    assert f"net is right on {100 * right:.1f} % of the images" in alarm.text and option in alarm.text
    assert f"and on {100 * result.accuracy:.1f} % as it is read now" in alarm.text


def test_the_right_reading_gives_no_alarm():
    result = check(RIGHT)
    assert result.alarms == () and result.accuracy > .6 and result.images == 300
    assert result.readings == 12  # three orders of colours by four ranges, but for the given one; and the classes
    (line,) = result.lines("net")
    assert line == (f"check of the input: net is right on {100 * result.accuracy:.1f} % of 300 images (drawn for this "
                    f"test); 12 other readings tried, no alarms")


@pytest.mark.parametrize("seed", range(3))
def test_permuted_classes_are_found(seed):
    order = np.random.default_rng(seed).permutation(8)
    names = [CLASSES[k] for k in order]  # output k is called so, and stands for CLASSES[k]
    result = check(RIGHT, classes=match_classes("net", names, "set", CLASSES), names=names)
    (alarm,) = result.alarms
    assert alarm.subject == "classes" and alarm.option == f"--classes {','.join(CLASSES)}"


def test_two_swapped_classes_are_found():
    names = [*CLASSES[:6], "Contempt", "Anger"]
    (alarm,) = check(RIGHT, classes=match_classes("net", names, "set", CLASSES), names=names).alarms
    assert alarm.option == f"--classes {','.join(CLASSES)}"


def test_an_order_with_further_outputs_is_found():
    """The model has classes that the set lacks, and one of its outputs goes by such a name."""
    def outputs(values):
        return np.concatenate([network(values), np.full((len(values), 2), -50.)], 1)

    names = ["bored", *CLASSES[1:], "tired", "Neutral"]  # output 0 stands for Neutral
    result = check(RIGHT, outputs=outputs, classes=match_classes("net", names, "set", CLASSES), names=names)
    (alarm,) = result.alarms
    given = alarm.option.removeprefix("--classes ").split(",")
    assert given[:8] == CLASSES and sorted(given[8:]) == ["bored", "tired"] and given[8] == "tired"


def test_a_better_size_is_found():
    images = faces()
    better = input_check.Reading("size", "pictures of 64 pixels", "--input size=64",
                                 lambda pictures: network(as_input(pictures, RIGHT)))
    blurred = network(as_input(images.images, RIGHT)) + np.random.default_rng(0).normal(0, 5, (300, 8))
    (alarm,) = check_outputs(model(), blurred, lambda: [better], images).alarms
    assert alarm.subject == "size" and "with pictures of 64 pixels, net is right on" in alarm.text


def test_an_alarm_names_no_option_that_is_refused():
    """A run takes neither --input nor --classes nor --output: what to do is said in place of the option."""
    advice = dict.fromkeys(SUBJECTS, "Restore the run.")
    images = faces()
    outputs = network(as_input(images.images, RIGHT))
    other = [*CLASSES[1:], CLASSES[0]]
    renamed = model(match_classes("net", other, "set", CLASSES), other, advice=advice)
    swapped = outputs[:, [1, 0, 3, 2, 5, 4, 7, 6]]
    right = input_check.Reading("colour", "grey pictures", "--input colour=grey3", lambda _: outputs)
    results = [check_outputs(renamed, outputs, list, images),
               check_outputs(model(advice=advice), swapped, lambda: [right], images),
               check_outputs(model(advice=advice), softmax(outputs), list, images),
               check_outputs(model(advice=advice, output="probabilities"), outputs, list, images),
               check_outputs(model(advice=advice), np.zeros((300, 8)), list, images)]
    alarms = [alarm for result in results for alarm in result.alarms]
    assert [alarm.subject for alarm in alarms] == ["classes", "colour", "output", "output", "output"]
    for alarm in alarms:
        assert alarm.option == "" and alarm.text.endswith(" Restore the run.") and "--" not in alarm.text


# ---- no alarm

def test_a_collapsed_model_gives_no_alarm():
    """It predicts Neutral or Happy; the better reading would only choose the more frequent of them more often."""
    labels = np.repeat([0, 1, 2, 3, 4, 5, 6, 7], [150, 60, 15, 15, 15, 15, 15, 15])
    images = CheckedImages(faces().images, np.random.default_rng(0).permutation(labels), "x")

    def collapsed(values):
        outputs = np.tile(values.mean((1, 2, 3))[:, None] % 1 - 9, 8)
        outputs[:, 1], outputs[:, 0] = 0, np.where(values.mean((1, 2, 3)) > 2, 5, -5)  # Neutral where values are large
        return outputs

    assert check(RIGHT, images, collapsed).alarms == ()
    assert check(InputFormat(size=8, range="0..255"), images, collapsed).accuracy > .4  # that reading is better


def test_a_weak_model_gives_no_alarm():
    def weak(values):
        noise = np.random.default_rng(1).normal(0, 3 * values.std(), (len(values), 1, 1, 3))
        return network(values + noise)

    result = check(RIGHT, outputs=weak)
    assert result.alarms == () and result.accuracy < .3


def test_a_model_that_hardly_learned_anything_gives_no_alarm():
    """One of its other readings is better by chance, and clearly so; but it is still close to guessing."""
    images, rng = faces(), np.random.default_rng(2)

    def outputs_with(accuracy):
        prediction = np.where(rng.random(300) < accuracy, images.labels, rng.integers(0, 8, 300))
        return 3 * np.eye(8)[prediction]

    def alarms(accuracy):
        better = outputs_with(accuracy)
        reading = input_check.Reading("range", "values in 0..1", "--input range=0..1", lambda _: better)
        return check_outputs(model(), given, lambda: [reading], images).alarms

    given = outputs_with(0)
    assert alarms(.18) == () and len(alarms(.5)) == 1


def test_kappa_by_hand():
    labels, prediction = np.array([0, 0, 1, 1]), np.array([0, 0, 0, 1])
    assert input_check.judgement("", "", "", prediction, labels, 2).kappa == pytest.approx((.75 - .5) / .5)
    assert input_check.judgement("", "", "", labels, labels, 2).kappa == 1
    assert input_check.judgement("", "", "", np.zeros(4, int), labels, 2).kappa == 0
    assert input_check.judgement("", "", "", np.zeros(4, int), np.zeros(4, int), 2).kappa == 0


def test_no_false_alarm_on_resampled_images():
    """Right readings and right classes: 60 resamples of 300 images."""
    images = faces(600)
    outputs = network(as_input(images.images, RIGHT))
    alarms = 0
    for seed in range(60):
        rows = np.random.default_rng(seed).integers(0, 600, 300)
        part = CheckedImages(images.images[rows], images.labels[rows], "x")
        alarms += len(check_outputs(model(), outputs[rows], list, part).alarms)
    assert alarms == 0


def test_grey_pictures_say_what_cannot_be_checked():
    result = check(RIGHT, faces(grey=True))
    assert result.remarks == ("the pictures are grey: the order of colours cannot be checked",)
    assert result.readings == 4 and "  the pictures are grey" in result.lines("net")[1]


# ---- outputs

def test_probabilities_called_logits_and_the_other_way_round():
    logits = network(as_input(faces().images, RIGHT))
    probabilities = softmax(logits)
    floored = np.log(np.maximum(probabilities, 1e-6))
    assert alarms_about_outputs(logits, "logits") == [] and alarms_about_outputs(floored, "probabilities") == []
    (alarm,) = alarms_about_outputs(probabilities, "logits")
    assert alarm.option == "--output probabilities" and "every row sums to 1" in alarm.text
    (alarm,) = alarms_about_outputs(np.log(np.maximum(logits + 5, 1e-6)), "probabilities")
    assert alarm.option == "--output logits" and "300 of 300 rows do not sum to 1" in alarm.text
    (alarm,) = check(RIGHT, outputs=lambda values: softmax(network(values))).alarms
    assert alarm.subject == "output"


def test_probabilities_of_a_quantised_network():
    """Steps of 1/256: a row of 8 misses 1 by up to .016. They are accepted as probabilities, and found as logits."""
    probabilities = np.round(softmax(network(as_input(faces().images, RIGHT))) * 256) / 256
    assert .001 < np.abs(probabilities.sum(1) - 1).max() <= SUM_TOLERANCE
    assert alarms_about_outputs(np.log(np.maximum(probabilities, FLOOR)), "probabilities") == []
    (alarm,) = alarms_about_outputs(probabilities, "logits")
    assert alarm.option == "--output probabilities"
    assert np.isfinite(as_logits(probabilities, "probabilities", "quantised.npy")).all()


def test_a_constant_output_is_said():
    (alarm,) = alarms_about_outputs(np.tile(np.arange(8.), (300, 1)), "logits")
    assert "the same for all 300 images" in alarm.text
    assert alarms_about_outputs(np.arange(8.)[None], "logits") == []  # one image says nothing


@pytest.mark.parametrize("outputs, words", [
    (np.zeros((300, 7)), "net has 7 outputs, and 8 classes are named"),
    (np.zeros((300, 8, 1)), r"shape \(300, 8, 1\) for 300 images"), (np.zeros(8), r"shape \(8,\) for 300 images"),
    (np.zeros((1, 8)), r"shape \(1, 8\)"),
    (np.where(np.arange(2400).reshape(300, 8) == 17, np.nan, 0), "outputs for 1 of 300 images are NaN or infinite")])
def test_outputs_that_cannot_be_scored_are_refused(outputs, words):
    with pytest.raises(UserError, match=words):
        check_shape(outputs, 300, 8, "net")
    with pytest.raises(UserError, match=words):
        check(RIGHT, outputs=lambda values: outputs)


def test_a_network_that_fails_is_one_line():
    def failing(values):
        raise RuntimeError("mat1 and mat2\nshapes cannot be multiplied")

    with pytest.raises(UserError, match=r"net cannot be run on the images of the set \(mat1 and mat2\)$"):
        check(RIGHT, outputs=failing)


# ---- parts

def test_formats_that_are_tried():
    given = InputFormat(size=64, colour="bgr", range="standardised", mean=(.1, .2, .3), std=(.4, .5, .6))
    formats = other_formats(given, 48, are_grey=False)
    assert len({format for _, _, format in formats}) == len(formats) and given not in {f for _, _, f in formats}
    swapped = next(format for _, _, format in formats if format.colour == "rgb" and format.range == "standardised")
    assert swapped.mean == (.3, .2, .1) and swapped.std == (.6, .5, .4)
    imagenet = [format for _, words, format in formats if words == "values standardised as for ImageNet"]
    assert imagenet[0].mean == (0.406, 0.456, 0.485)  # blue comes first
    assert {format.size for _, subject, format in formats} >= {64, 48, 224}
    # each states itself: the option gives the format again
    assert all(InputFormat.parse(format.description()) == format for _, _, format in formats)
    grey = other_formats(InputFormat(colour="grey", range="0..1"), None, are_grey=False)
    assert [subject for subject, _, _ in grey] == ["range"] * 3
    assert [words for _, words, _ in other_formats(InputFormat(dtype="uint8"), 48, are_grey=False)] == [
        "colours in the order blue, green, red", "grey pictures"]
    assert other_formats(InputFormat(dtype="uint8"), 48, are_grey=True) == []


def test_the_best_assignment_by_hand():
    outputs = np.eye(3)[[0, 0, 1, 1, 2, 2]]
    assert best_assignment(outputs, np.array([1, 1, 0, 0, 2, 2]), same_classes(3)) == [1, 0, 2]
    assert best_assignment(outputs, np.array([0, 1, 1, 0, 2, 2]), same_classes(3)) == [0, 1, 2]  # a tie stays


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_every_output_gets_one_name(data):
    count, shared = data.draw(st.integers(2, 7)), 0
    names = [f"own{k}" for k in range(count)]
    shared = data.draw(st.integers(2, count))
    in_set = data.draw(st.permutations(names))[:shared]
    classes = match_classes("net", names, "set", in_set)
    assigned = data.draw(st.permutations(range(count)))[:shared]
    new = names_in_order(assigned, classes, names, in_set)
    assert sorted(new) == sorted(names)
    assert [new[output] for output in assigned] == in_set
    assert names_in_order(classes.order[:shared], classes, names, in_set) == names  # as given


def test_a_gain_has_to_be_certain():
    given = np.zeros(100, bool)
    assert gain_is_certain(given, np.arange(100) < 12, .001)
    assert not gain_is_certain(given, np.arange(100) < 3, .001)
    noisy = np.arange(100) % 2 == 0
    assert not gain_is_certain(noisy, ~noisy, .001)


# ---- networks that were trained on drawn faces

@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """Drawn faces to train on and to check: ((images, labels), (images, labels))."""
    root = tmp_path_factory.mktemp("faces")
    return [measured.read_split(load_split("demo", root, name, **{name: count}), root)
            for name, count in (("train", 900), ("val", 300))]


@pytest.mark.slow
@pytest.mark.parametrize("model", measured.MODELS)
def test_a_trained_network_on_drawn_faces(drawn, model, monkeypatch):
    """A sound network: an alarm for each mistake that costs fifteen points. No alarm on the right reading, nor about a
    weak or a collapsed network."""
    monkeypatch.setattr(measured, "LARGEST_SIDE", 64)  # larger sizes take minutes
    (images, labels), (others, truth) = drawn
    network = measured.trained(images, labels, 8, *measured.MODELS[model])
    checked = CheckedImages(others, truth, "drawn faces")

    def reader(format):
        return lambda pictures: measured.logits_of(network, pictures, format)

    def alarms(format, names=CLASSES):
        readings = [input_check.Reading(subject, words, other.description(), reader(other))
                    for subject, words, other in measured.other_readings(format)]
        classes = match_classes("net", names, "set", CLASSES)
        result = check_model(CheckedModel("net", names, CLASSES, classes, "logits"), reader(format), lambda: readings,
                             checked)
        return [alarm.subject for alarm in result.alarms], result.accuracy

    found, right = alarms(measured.RIGHT)
    assert found == []
    costly = 0
    for mistake in ("BGR", "0..1 for -1..1", "0..255 for -1..1", "64 pixels for 48"):
        subjects, accuracy = alarms(measured.MISTAKES[mistake])
        if model in ("weak", "collapsed"):
            assert subjects == [], mistake
        elif right - accuracy > .15:
            costly += 1
            assert len(subjects) == 1, mistake
    assert model in ("weak", "collapsed") or costly >= 3
    subjects, _ = alarms(measured.RIGHT, [*CLASSES[1:], CLASSES[0]])
    assert subjects == ([] if model in ("weak", "collapsed") else ["classes"])
