"""The check of the input: is a model read as it was trained?

Most wrong results of a model of somebody else come from four mistakes: another order of colours, another range of
values, another size, another order of classes. None of them raises an error; the accuracy is only lower. So, before
scoring, `check_model` looks at a few hundred clean images: it reads them in other ways (`readings_of`), and compares
the accuracies. It also looks for outputs that cannot be what they are called (`alarms_about_outputs`). It warns with
both numbers and with the option that would change it. It changes nothing.

When an alarm comes. Another reading has to gain at least `LEAST_GAIN` in accuracy, and the lower bound of a paired
bootstrap over the images has to be above 0, at the level `LEVEL` divided by the number of readings that are compared.
There is no alarm where the model, under the better reading, predicts fewer than half of the classes, or agrees with the
labels hardly more than by chance (Cohen's kappa below `LEAST_KAPPA`): a model that answers with one or two classes, or
that has hardly learned anything, says nothing about its input.

Order of classes: the best assignment of outputs to classes is the one with the most right predictions (Hungarian
matching). It is fitted on one half of the images and judged on the other, and the other way round, so that no image is
judged with an assignment that it helped to find.

The core takes arrays and plain functions from images to outputs. Nothing here imports torch.
"""
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from scipy.optimize import linear_sum_assignment

from evaluation.class_matching import ClassMatch
from evaluation.input_format import RANGES, InputFormat
from evaluation.model_facts import FLOOR, SUM_TOLERANCE
from support.errors import UserError, first_line
from support.random_streams import keyed_rng

SUBJECTS = ("colour", "range", "size", "classes", "output")  # of alarms
LEAST_GAIN = 0.05  # in accuracy
LEAST_KAPPA = 0.25  # of the better reading
LEVEL = 0.01  # of all comparisons together
RESAMPLES = 20_000
SIZES = (48, 64, 96, 112, 128, 160, 224, 260, 299)  # usual sides of pictures, in pixels
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's red, green and blue (torchvision)
GREY_MEAN, GREY_STD = (0.449,), (0.226,)  # means of the three
SAME_OUTPUT = 1e-6  # outputs that differ by less than this, relative to the largest, are one output

Predict = Callable[[np.ndarray], np.ndarray]
"""from images, uint8 (N, S, S, 3), RGB, to the model's outputs, float (N, outputs): logits, or the logarithms of
probabilities"""


@dataclass(frozen=True)
class Alarm:
    """A mistake that the outputs point to."""

    subject: str
    """one of SUBJECTS; colour where both colour and range differ"""
    text: str
    """one or two lines: what was seen, with its numbers, and the option that would change it, or else what to do"""
    option: str
    """the option, as it is typed; "" where no option helps"""


@dataclass(frozen=True)
class CheckedModel:
    """What a check has to know about a model besides its outputs."""

    name: str
    classes: Sequence[str]
    """names of the classes, in the order of the outputs"""
    set_classes: Sequence[str]
    """names of the set's classes"""
    match: ClassMatch
    """how the two are matched"""
    output: str
    """"logits" or "probabilities", as the source or --output says"""
    advice: Mapping[str, str] = field(default_factory=dict)
    """{subject of an alarm: what to do, as a sentence}, for subjects that no option of evaluate.py changes"""


@dataclass(frozen=True)
class CheckedImages:
    """The clean images of a check. Those of classes that the model does not know are left out."""

    images: np.ndarray
    """uint8 (N, S, S, 3), RGB"""
    labels: np.ndarray
    """int64 (N,): positions of the classes among those that model and set share (`ClassMatch.known`)"""
    source: str
    """which images these are, in words"""

    @property
    def are_grey(self) -> bool:
        """Whether no image has any colour."""
        return bool((self.images == self.images[..., :1]).all())


@dataclass(frozen=True)
class CheckResult:
    """What a check found."""

    images: int
    """that it looked at"""
    source: str
    """which images these are, in words"""
    accuracy: float
    """under the reading as given"""
    readings: int
    """how many other readings were compared; all orders of the classes are one, also where the given order was best"""
    alarms: tuple[Alarm, ...]
    remarks: tuple[str, ...]
    """what could not be checked, in words"""

    def lines(self, name: str) -> list[str]:
        """What is printed about it. name: of the model."""
        tried = f"{self.readings} other reading{'s' * (self.readings != 1)} tried"
        alarms = f"{len(self.alarms) or 'no'} alarm{'s' * (len(self.alarms) != 1)}"
        lines = [f"check of the input: {name} is right on {100 * self.accuracy:.1f} % of {self.images} images "
                 f"({self.source}); {tried}, {alarms}"]
        lines += [f"  {remark}" for remark in self.remarks]
        return lines + [f"WARNING ({alarm.subject}): {alarm.text}" for alarm in self.alarms]


@dataclass(frozen=True)
class Reading:
    """Another way to read the same pictures, or to name the same outputs."""

    subject: str
    """as in `Alarm`"""
    words: str
    """what it is, after "with" """
    option: str
    """that reads the pictures so"""
    predict: Predict


# ---- what the outputs are

def check_shape(outputs: np.ndarray, images: int, count: int, name: str) -> None:
    """Raises UserError unless the outputs are a row of `count` finite numbers for each image. name: of the model."""
    if outputs.ndim != 2 or len(outputs) != images:
        raise UserError(f"{name} gives an array of shape {outputs.shape} for {images} images; it has to be one row for "
                        f"each image, with one number for each class")
    if outputs.shape[1] != count:
        raise UserError(f"{name} has {outputs.shape[1]} outputs, and {count} classes are named: name all of them, in "
                        f"the order of the outputs, with --classes")
    broken = int((~np.isfinite(outputs)).any(1).sum())
    if broken:
        raise UserError(f"{name}: the outputs for {broken} of {images} images are NaN or infinite. Does the range of "
                        f"the input fit (--input range=...), and are the weights those of the network?")


def alarms_about_outputs(outputs: np.ndarray, stated: str, advice: Mapping[str, str] | None = None) -> list[Alarm]:
    """What the outputs cannot be.

    outputs: finite, float (N, outputs); of stated probabilities, their logarithms. stated, advice: `output` and
    `advice` of a `CheckedModel`."""
    advice = advice or {}
    outputs = np.asarray(outputs, np.float64)
    if len(outputs) > 1 and np.ptp(outputs, axis=0).max() <= SAME_OUTPUT * max(1.0, np.abs(outputs).max()):
        remedy = advice.get("range", "The weights may not be loaded, or the range of the input may be wrong (--input "
                                     "range=...)")
        return [Alarm("output", f"the output is the same for all {len(outputs)} images. {remedy}", "")]
    if stated == "logits":
        sums = outputs.sum(1)
        in_range = outputs.min() >= -FLOOR and outputs.max() <= 1 + FLOOR
        if in_range and np.abs(sums - 1).max() <= SUM_TOLERANCE:
            return [alarm_about_output("the outputs are called logits, but they lie between 0 and 1 and every row sums "
                                       "to 1, as probabilities do. A softmax of them would be nearly uniform",
                                       "--output probabilities", advice)]
        return []
    sums = np.exp(np.minimum(outputs, 50)).sum(1)
    # Zeros were raised to FLOOR, which adds a little to the sum of a row.
    wrong = np.abs(sums - 1) > SUM_TOLERANCE + FLOOR * outputs.shape[1]
    if wrong.any():
        return [alarm_about_output(f"the outputs are called probabilities, but {int(wrong.sum())} of {len(outputs)} "
                                   f"rows do not sum to 1 (the first: {sums[wrong][0]:.3g}). Logits look like this",
                                   "--output logits", advice)]
    return []


def alarm_about_output(text: str, option: str, advice: Mapping[str, str]) -> Alarm:
    """An alarm of the subject "output". text: what was seen, without the last full stop."""
    if "output" in advice:
        return Alarm("output", f"{text}. {advice['output']}", "")
    return Alarm("output", f"{text}: add {option}", option)


# ---- other readings

def other_formats(given: InputFormat, size: int | None, are_grey: bool) -> list[tuple[str, str, InputFormat]]:
    """(subject, words, format) of the usual formats that differ from the given one: all pairs of colours and ranges,
    and all sizes. A network of uint8 pictures scales them itself, so that only the colours are left.

    size: side of the set's images, which a network without a size of its own gets; None: no other sizes. are_grey: the
    pictures have no colour, so that the order of colours changes nothing."""
    colours = [given.colour]
    if given.channels == 3 and not are_grey:
        colours += [colour for colour in ("rgb", "bgr", "grey3") if colour != given.colour]
    ranges = []
    if given.dtype == "float32":
        ranges = [name for name in RANGES if name != given.range]
        ranges += ["standardised"] if given.range == "standardised" and not is_like_imagenet(given) else []
    formats = []
    for colour in colours:
        recoloured = with_colour(given, colour)
        if colour != given.colour:
            formats.append(("colour", words_of(given, recoloured), recoloured))
        for name in ranges:
            other = with_range(recoloured, name)
            subject = "range" if colour == given.colour else "colour"
            formats.append((subject, words_of(given, other), other))
    for side in SIZES:
        if size is not None and given.dtype == "float32" and side != (given.size or size):
            formats.append(("size", f"pictures of {side} pixels", replace(given, size=side)))
    return formats


def is_like_imagenet(given: InputFormat) -> bool:
    """Whether a format that standardises does so nearly with ImageNet's mean and standard deviation."""
    usual = with_range(given, "standardised")
    return bool(np.allclose(given.mean, usual.mean, atol=0.03) and np.allclose(given.std, usual.std, atol=0.03))


def with_colour(given: InputFormat, colour: str) -> InputFormat:
    """The format with another order of colours; mean and standard deviation stay with their colours."""
    if {given.colour, colour} == {"rgb", "bgr"}:
        return replace(given, colour=colour, mean=given.mean[::-1], std=given.std[::-1])
    return replace(given, colour=colour)


def with_range(given: InputFormat, name: str) -> InputFormat:
    """The format with another range; "standardised" is with ImageNet's mean and standard deviation."""
    if name != "standardised":
        return replace(given, range=name, mean=(), std=())
    if given.channels == 1:
        return replace(given, range=name, mean=GREY_MEAN, std=GREY_STD)
    step = -1 if given.colour == "bgr" else 1
    return replace(given, range=name, mean=MEAN[::step], std=STD[::step])


def words_of(given: InputFormat, other: InputFormat) -> str:
    """What differs between two formats in colours and range, in words."""
    colours = {"rgb": "colours in the order red, green, blue", "bgr": "colours in the order blue, green, red",
               "grey3": "grey pictures", "grey": "grey pictures"}
    words = []
    if other.colour != given.colour:
        words.append(colours[other.colour])
    if (other.range, sorted(other.mean)) != (given.range, sorted(given.mean)):
        standardised = other.range == "standardised"
        words.append("values standardised as for ImageNet" if standardised else f"values in {other.range}")
    return " and ".join(words)


def readings_of(given: InputFormat, size: int | None, are_grey: bool,
                reader: Callable[[InputFormat], Predict]) -> list[Reading]:
    """All other readings of a network. reader: gives its function under a format. The other arguments are those of
    `other_formats`."""
    return [Reading(subject, words, f"--input {other.description()}", reader(other))
            for subject, words, other in other_formats(given, size, are_grey)]


# ---- comparing

@dataclass(frozen=True)
class Judgement:
    """How another reading, or another order of classes, does on the same images."""

    subject: str
    words: str
    option: str
    right: np.ndarray
    """bool (N,): whether the prediction is right"""
    predicted: int
    """how many classes are ever predicted"""
    kappa: float
    """Cohen's kappa: agreement with the labels beyond chance, 1 at best, 0 for guesses"""


def judgement(subject: str, words: str, option: str, prediction: np.ndarray, labels: np.ndarray,
              shared: int) -> Judgement:
    """What these predictions are worth. prediction, labels: int64 (N,), positions among the `shared` classes."""
    right = prediction == labels
    by_chance = np.bincount(prediction, minlength=shared) @ np.bincount(labels, minlength=shared) / len(labels) ** 2
    kappa = (right.mean() - by_chance) / (1 - by_chance) if by_chance < 1 else 0.0
    return Judgement(subject, words, option, right, len(np.unique(prediction)), float(kappa))


def judgement_of_reading(reading: Reading, images: CheckedImages, classes: ClassMatch) -> Judgement | None:
    """What a reading predicts; None where the network does not take such pictures, or gives no usable outputs."""
    try:
        outputs = np.asarray(reading.predict(images.images))
    except Exception:  # a network refuses a size or a number of channels in many ways
        return None
    shape = len(images.labels), classes.stored
    if outputs.shape != shape or not np.isfinite(outputs).all():
        return None
    prediction = outputs[:, classes.order[:classes.shared]].argmax(1)
    return judgement(reading.subject, reading.words, reading.option, prediction, images.labels, classes.shared)


def judgement_of_best_order(outputs: np.ndarray, labels: np.ndarray, model: CheckedModel) -> Judgement | None:
    """How the model does with its outputs assigned to other classes; None where the order as given is the best.

    outputs: float (N, outputs). labels: as in `CheckedImages`."""
    classes = model.match
    set_names = [model.set_classes[k] for k in classes.known]
    halves = np.arange(len(labels)) % 2 == 0
    prediction = np.zeros(len(labels), np.int64)
    for half, other in ((halves, ~halves), (~halves, halves)):
        assigned = best_assignment(outputs[half], labels[half], classes)
        prediction[other] = outputs[other][:, assigned].argmax(1)
    assigned = best_assignment(outputs, labels, classes)
    if assigned == classes.order[:classes.shared]:
        return None
    named = names_in_order(assigned, classes, model.classes, set_names)
    option = f"--classes {','.join(named)}"
    return judgement("classes", f"the outputs named {', '.join(named)}", option, prediction, labels, classes.shared)


def best_assignment(outputs: np.ndarray, labels: np.ndarray, classes: ClassMatch) -> list[int]:
    """For each shared class the output that stands for it, so that most predictions are right. Where several are
    equally good, outputs keep their class."""
    counts = np.zeros((outputs.shape[1], classes.shared))
    np.add.at(counts, (outputs.argmax(1), labels), 1)
    counts[classes.order[:classes.shared], range(classes.shared)] += 0.5 / classes.shared
    chosen_outputs, chosen_classes = linear_sum_assignment(counts, maximize=True)
    output_of_class = dict(zip(chosen_classes.tolist(), chosen_outputs.tolist(), strict=True))
    return [output_of_class[k] for k in range(classes.shared)]


def names_in_order(assigned: Sequence[int], classes: ClassMatch, names: Sequence[str],
                   set_names: Sequence[str]) -> list[str]:
    """Names for all outputs: those of the classes that they are assigned to. Outputs without a class get the names of
    the removed classes, their own where that is possible."""
    name_of_output = {output: set_names[k] for k, output in enumerate(assigned)}
    left = [output for output in range(len(names)) if output not in name_of_output]
    unused = list(classes.removed)
    for output in left:
        if names[output] in unused:
            name_of_output[output] = names[output]
            unused.remove(names[output])
    for output in left:
        if output not in name_of_output:
            name_of_output[output] = unused.pop(0)
    return [name_of_output[output] for output in range(len(names))]


def gain_is_certain(given: np.ndarray, other: np.ndarray, level: float) -> bool:
    """Whether the lower bound of the gain in accuracy, by a paired bootstrap over the images, is above 0.

    given, other: bool (N,). The difference of an image is -1, 0 or 1, so a resample is a draw of how many images have
    each. level: of the bound, one-sided."""
    difference = other.astype(int) - given.astype(int)
    counts = np.array([(difference == value).sum() for value in (-1, 0, 1)])
    rng = keyed_rng("input check", len(given), *counts.tolist())
    resampled = rng.multinomial(len(given), counts / len(given), size=RESAMPLES)
    return bool(np.quantile(resampled[:, 2] - resampled[:, 0], level) > 0)


def alarm_of(given: Judgement, others: Sequence[Judgement], comparisons: int, shared: int,
             model: CheckedModel) -> Alarm | None:
    """The alarm about the best of the readings, None where none is clearly better than the given one.

    Only one alarm about the reading comes at a time: after a mistake is corrected, the next check sees the others.
    comparisons: how many were made, by which the level is divided. shared: the number of classes that model
    and set share."""
    best = None
    accuracy = given.right.mean()
    for other in others:
        gain = other.right.mean() - accuracy
        is_meaningful = 2 * other.predicted >= shared and other.kappa >= LEAST_KAPPA
        if gain >= LEAST_GAIN and is_meaningful and gain_is_certain(given.right, other.right, LEVEL / comparisons):
            if best is None or other.right.mean() > best.right.mean():
                best = other
    if best is None:
        return None
    text = (f"with {best.words}, {model.name} is right on {100 * best.right.mean():.1f} % of the images, and on "
            f"{100 * accuracy:.1f} % as it is read now. ")
    if best.subject in model.advice:
        return Alarm(best.subject, text + model.advice[best.subject], "")
    return Alarm(best.subject, f"{text}If it was trained so, add\n  {best.option}", best.option)


def check_model(model: CheckedModel, predict: Predict, readings: Callable[[], list[Reading]],
                images: CheckedImages) -> CheckResult:
    """Check how a model is read.

    predict: the model as it is read. readings: makes the other readings, [] where there are none. Raises UserError
    where the outputs are no row of finite numbers for each image."""
    try:
        outputs = np.asarray(predict(images.images), np.float64)
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{model.name} cannot be run on the images of the set ({first_line(error)})") from None
    check_shape(outputs, len(images.labels), len(model.classes), model.name)
    return check_outputs(model, outputs, readings, images)


def check_outputs(model: CheckedModel, outputs: np.ndarray, readings: Callable[[], list[Reading]],
                  images: CheckedImages) -> CheckResult:
    """`check_model` for outputs that are there: finite, float (N, outputs)."""
    classes = model.match
    prediction = outputs[:, classes.order[:classes.shared]].argmax(1)
    given = judgement("", "", "", prediction, images.labels, classes.shared)
    alarms = alarms_about_outputs(outputs, model.output, model.advice)
    remarks = []
    if images.are_grey and len(images.images):
        remarks.append("the pictures are grey: the order of colours cannot be checked")
    of_readings = [judgement_of_reading(reading, images, classes) for reading in readings()]
    others = [other for other in of_readings if other is not None]
    comparisons = len(others) + 1  # and the order of the classes
    best_order = judgement_of_best_order(outputs, images.labels, model)
    if best_order is not None:
        others.append(best_order)
    best = alarm_of(given, others, comparisons, classes.shared, model)
    alarms += [best] if best else []
    return CheckResult(len(images.labels), images.source, float(given.right.mean()), comparisons, tuple(alarms),
                       tuple(remarks))
