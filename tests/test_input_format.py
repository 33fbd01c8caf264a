"""What a network takes: the text of --input, and the pictures that come out of it."""
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from evaluation.input_format import COLOURS, InputFormat, complete_format
from evaluation.model_facts import ModelFacts
from evaluation.network_input import ArrayNetwork, BatchesOf, PreparedNetwork, to_input
from support.errors import UserError

FLOATS = st.floats(0.01, 1, allow_nan=False)


@st.composite
def formats(draw):
    colour = draw(st.sampled_from(list(COLOURS)))
    values = draw(st.sampled_from(["0..255", "0..1", "-1..1", "standardised"]))
    channels = COLOURS[colour]
    numbers = {} if values != "standardised" else {
        name: tuple(draw(st.lists(FLOATS, min_size=channels, max_size=channels))) for name in ("mean", "std")}
    dtype = draw(st.sampled_from(["float32", "uint8"])) if values == "0..255" else "float32"
    layout, resize = draw(st.sampled_from(["nchw", "nhwc"])), draw(st.sampled_from(["bilinear", "bicubic", "area"]))
    return InputFormat(draw(st.none() | st.integers(1, 4096)), colour, values, layout=layout, dtype=dtype,
                       crop=draw(FLOATS), resize=resize, **numbers)


@given(formats())
def test_a_format_is_written_and_read_as_the_same(format):
    assert InputFormat.parse(format.description()) == format
    assert InputFormat.from_dict(format.as_dict()) == format
    facts = ModelFacts("onnx", "x.onnx", 3, format, "logits", {"input": "size=3"})
    assert ModelFacts.from_dict(facts.as_dict()) == facts


def test_texts_are_understood():
    format = InputFormat.parse("size=64, color=gray, range=-1..1, layout=NHWC")
    assert format == InputFormat(64, "grey", "-1..1", layout="nhwc")
    assert InputFormat.parse("mean=0.5,0.4,0.3,std=1,1,1").range == "standardised"
    assert InputFormat.parse("dtype=uint8").range == "0..255"


def test_what_is_stated_counts_more_than_what_the_source_says():
    said = {"size": 224, "range": "standardised", "mean": (0.5,) * 3, "std": (0.5,) * 3, "crop": 0.9}
    assert complete_format(said, {"range": "0..1"}) == InputFormat(224, range="0..1", crop=0.9)
    assert complete_format(said, {"mean": (0.1,) * 3}).mean == (0.1,) * 3
    assert complete_format({"dtype": "uint8"}, {}).range == "0..255"


@pytest.mark.parametrize("text, message", [
    ("size=64", "the range of the values is not known"),
    ("64", "'64' is not KEY=VALUE; write for example --input size=64,colour=grey,range=0..1"),
    ("colour=red,range=0..1", "colour is rgb, bgr, grey or grey3, not 'red'"),
    ("size=big,range=0..1", "size is a whole number of pixels, not 'big'"),
    ("size=0,range=0..1", "size is a number of pixels from 1 to 4096, not 0"),
    ("size=9999,range=0..1", "size is a number of pixels from 1 to 4096, not 9999"),
    ("size=1,size=2", "--input states size twice"),
    ("scale=2", "'scale' is not one of size, colour, range"),
    ("mean=0.5,std=0.5", "mean has 1 number, and colour=rgb needs 3, one for each channel"),
    ("mean=127,127,127,std=58,58,58", "divide numbers of 0..255 by 255"),
    ("mean=0.5,0.5,0.5,std=0,1,1", "std has to be above 0"),
    ("mean=nan,0.5,0.5,std=1,1,1", "mean is not finite"),
    ("range=0..1,mean=0.5,0.5,0.5", "range=0..1 has no mean and std"),
    ("range=0..1,dtype=uint8", "dtype=uint8 has range=0..255, not 0..1"),
    ("range=0..1,crop=2", "crop is a fraction above 0 and up to 1, not 2.0"),
])
def test_mistakes_are_named(text, message):
    with pytest.raises(UserError, match=message.replace(".", r"\.").replace("(", r"\(")):
        InputFormat.parse(text)


@pytest.mark.parametrize("values", [
    {"size": "64"}, {"size": True}, {"mean": "x"}, {"colour": 3}, {"unknown": 1}, {"mean": [True]}, {"crop": "a"}, []])
def test_hostile_dicts_are_refused(values):
    with pytest.raises(UserError):
        InputFormat.from_dict(values)


# ---- pictures

IMAGES = torch.from_numpy(np.random.Generator(np.random.SFC64(1)).integers(0, 256, (2, 3, 12, 12)).astype(np.uint8))


def test_known_values():
    pixel = torch.tensor([255, 128, 0], dtype=torch.uint8).view(1, 3, 1, 1)

    def values(text):
        return to_input(pixel, InputFormat.parse(text)).flatten().tolist()

    assert values("range=0..255") == [255, 128, 0]
    assert values("colour=bgr,range=0..255") == [0, 128, 255]
    assert values("colour=grey,range=0..255") == [151]  # .299 x 255 + .587 x 128
    assert values("colour=grey3,range=0..255") == [151] * 3
    assert values("range=0..1") == pytest.approx([1, 128 / 255, 0])
    assert values("range=-1..1") == pytest.approx([1, 128 / 127.5 - 1, -1], abs=1e-6)
    assert values("colour=bgr,mean=0,0.5,1,std=1,0.5,0.25") == pytest.approx([0, (128 / 255 - 0.5) * 2, 0], abs=1e-6)


def test_layout_type_and_size():
    assert to_input(IMAGES, InputFormat(dtype="uint8")).dtype == torch.uint8
    assert torch.equal(to_input(IMAGES, InputFormat(dtype="uint8", layout="nhwc")), IMAGES.permute(0, 2, 3, 1))
    grey = to_input(IMAGES, InputFormat(size=5, colour="grey", layout="nhwc"))
    assert grey.shape == (2, 5, 5, 1) and torch.equal(grey, grey.round())
    half = to_input(IMAGES, InputFormat(size=6, crop=0.5))
    assert torch.equal(half, IMAGES[:, :, 3:9, 3:9].float())  # the centre, which has the size already


@pytest.mark.parametrize("resize, filter", [("bilinear", 2), ("bicubic", 3)])
def test_pictures_shrink_as_pillow_shrinks_them(resize, filter):
    from PIL import Image

    image = IMAGES[0].permute(1, 2, 0).numpy()
    wanted = np.asarray(Image.fromarray(image).resize((5, 5), filter), dtype=np.float32)
    ours = to_input(IMAGES[:1], InputFormat(size=5, resize=resize))[0].permute(1, 2, 0).numpy()
    assert np.abs(ours - wanted).max() <= 1


def test_area_is_the_mean_of_the_pixels():
    ours = to_input(IMAGES[:1], InputFormat(size=6, resize="area"))
    blocks = IMAGES[:1].float().reshape(1, 3, 6, 2, 6, 2).mean((3, 5))
    assert (ours - blocks).abs().max() <= 0.5


def test_probabilities_become_floored_logarithms():
    module = PreparedNetwork(torch.nn.Softmax(1), InputFormat(range="0..1"), "probabilities")
    module.network = ArrayNetwork(lambda images: np.array([[0.0, 0.25, 0.75]], np.float32))
    assert module(IMAGES[:1]).tolist()[0] == pytest.approx(np.log([1e-6, 0.25, 0.75]).tolist())


@pytest.mark.parametrize("batch", [1, 2, 3, 7])
def test_networks_of_a_fixed_batch_get_whole_batches(batch):
    sizes = []

    def mean(images):
        sizes.append(len(images))
        return images.mean((2, 3))

    images = IMAGES.float().repeat(3, 1, 1, 1)[:5]
    assert torch.allclose(ArrayNetwork(mean, batch)(images), images.mean((2, 3)))
    wrapped = torch.nn.Module()
    wrapped.forward = mean
    assert torch.allclose(BatchesOf(wrapped, batch)(images), images.mean((2, 3)))
    assert set(sizes) == {batch}
