"""The open-set protocol on splits of a few rows: classes, pools, halves and pseudo labels."""
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from compute import predict as compute_predict
from datasets.open_classes import POOLS, ClosedAndOpen, halves, votes_for_open, make_pool, open_name, pseudo_labels
from datasets.split import Split, make_frame
from support.errors import UserError
from training.open_set import files

RAFDB = ("surprise", "fear", "disgust", "happiness", "sadness", "anger", "neutral")


def make_split(name, labels, classes=RAFDB, distribution=None):
    ids = [f"{name}-{number:03d}" for number in range(len(labels))]
    frame = make_frame(id=ids, path=[f"{name}/{text}.png" for text in ids], expression=np.array(labels, np.int64))
    return Split(frame, distribution, classes)


@pytest.fixture
def splits():
    """Class 0 is to be open. The ids of a split are not in their order."""
    rng = np.random.default_rng(3)
    loaded = {"train": make_split("train", rng.integers(0, 7, 60)), "val": make_split("val", rng.integers(0, 7, 20)),
              "test": make_split("test", rng.integers(0, 7, 40))}
    return {name: Split(split.frame.sample(frac=1, random_state=1).reset_index(drop=True), None, split.classes)
            for name, split in loaded.items()}


# ---- classes

@pytest.mark.parametrize("opened, expected", [
    ("surprise", {1: 0, 2: 1, 3: 2, 4: 3, 5: 4, 6: 5}), ("happiness", {0: 0, 1: 1, 2: 2, 4: 3, 5: 4, 6: 5}),
    ("happiness,surprise", {1: 0, 2: 1, 4: 2, 5: 3, 6: 4})])
def test_closed_classes_are_numbered_anew(opened, expected):
    division = ClosedAndOpen.of(open_name(opened), RAFDB)
    numbers = division.new_numbers
    assert {old: int(new) for old, new in enumerate(numbers) if new >= 0} == expected
    assert [RAFDB[old] for old in expected] == list(division.closed_names)
    assert all(numbers[list(division.open)] == -1)


def test_names_of_open_classes():
    assert open_name("Surprise") == open_name("surprised") == "surprise"
    assert open_name("surprise,Fear") == open_name("fear+surprise+fear") == "fear+surprise"
    assert open_name("No Smile") == "no_smile"
    for text in ("", "surprise,", "../etc", "a/b", "-rf", ".hidden", "é"):
        with pytest.raises(UserError, match="--open takes names"):
            open_name(text)
    with pytest.raises(UserError, match="--open joyless: no such class; the classes are surprise, fear, "):
        ClosedAndOpen.of("joyless", RAFDB)
    with pytest.raises(UserError, match="leaves 1 of 3 classes closed"):
        ClosedAndOpen.of("fear+surprise", RAFDB[:3])


def test_closed_part_of_a_split():
    votes = np.array([[.5, .5, 0], [.2, .2, .6], [0, 1, 0]])
    split = make_split("train", [0, 2, 1], ("surprise", "fear", "disgust"), votes)
    part = ClosedAndOpen.of("fear", split.classes).closed_part(split)
    assert part.classes == ("surprise", "disgust") and part.frame["expression"].tolist() == [0, 1]
    assert part.frame["id"].tolist() == ["train-000", "train-001"]
    np.testing.assert_allclose(part.distribution, [[1, 0], [.25, .75]])
    alone = make_split("train", [0, 2], ("surprise", "fear", "disgust"), np.array([[0., 1, 0], [.2, .2, .6]]))
    part = ClosedAndOpen.of("fear", alone.classes).closed_part(alone)  # the first has votes for the open class only
    np.testing.assert_allclose(part.distribution, [[1, 0], [.25, .75]])
    with pytest.raises(UserError, match="no image remains"):
        ClosedAndOpen.of("fear", split.classes).closed_part(make_split("val", [1, 1], split.classes))


# ---- pools

def test_pools(splits):
    division = ClosedAndOpen.of("surprise", RAFDB)
    test = make_pool("test", division, splits)
    assert test["id"].tolist() == sorted(splits["test"].frame["id"]) and set(test["group"]) == {"closed", "open-test"}
    for name in ("paper", "paper-permuted", "paper-random"):
        pool = make_pool(name, division, splits)
        assert pool["id"].tolist()[:40] == test["id"].tolist()
        added = pool[pool["group"] == "open-train"]
        expected = [splits[split].frame.query("expression == 0")["id"] for split in ("train", "val")]
        assert sorted(added["id"]) == sorted(text for ids in expected for text in ids) and added["is_open"].all()
    for row in pool.itertuples():
        frame = splits[row.split].frame
        assert frame["id"].iloc[row.row] == row.id and frame["expression"].iloc[row.row] == row.expression
        assert row.is_open == (row.expression == 0)


def test_a_pool_without_open_images_is_refused(splits):
    splits["test"] = make_split("test", [1, 2, 3])
    with pytest.raises(UserError, match="pool test has no image of the open classes"):
        make_pool("test", ClosedAndOpen.of("surprise", RAFDB), splits)


def test_an_unknown_pool_is_an_error(splits):
    """A row that is added to POOLS alone is not taken for the pool paper."""
    division = ClosedAndOpen.of("surprise", RAFDB)
    with pytest.raises(KeyError):
        make_pool("mine", division, splits)
    predictions = {name: np.zeros(len(split.frame), int) for name, split in splits.items()}
    with pytest.raises(KeyError):
        pseudo_labels("mine", make_pool("paper", division, splits), predictions, 6, 0)


def test_halves_are_stratified_and_do_not_depend_on_the_order(splits):
    division = ClosedAndOpen.of("surprise+fear", RAFDB)
    pool = make_pool("paper", division, splits)
    for _, part in pool.groupby(["split", "expression"]):
        assert abs((part["half"] == "a").sum() - (part["half"] == "b").sum()) <= 1
    assert set(pool["half"]) == {"a", "b"}
    order = np.random.default_rng(0).permutation(len(pool))
    shuffled = pool.iloc[order].reset_index(drop=True)
    assert halves(shuffled).tolist() == pool["half"].to_numpy()[order].tolist()


def test_votes_for_open_classes():
    division = ClosedAndOpen.of("surprise+fear", RAFDB)
    votes = np.zeros((4, 7))
    votes[[0, 1, 1, 1, 2, 2, 3, 3], [3, 0, 1, 4, 0, 5, 1, 6]] = [1, .3, .3, .4, .5, .5, .1, .9]
    any_vote, most_votes = votes_for_open(division, votes)
    assert any_vote.tolist() == [False, True, True, True] and most_votes.tolist() == [False, True, False, False]


# ---- pseudo labels

def test_alignment_known_answer():
    """Predictions arrive in the order of the loader and are put back by index."""
    arrived, order = np.array([12, 13, 11, 10]), np.array([2, 3, 1, 0])
    by_id = arrived[np.argsort(order)]
    assert by_id[[0, 2]].tolist() == [10, 12]  # the released code takes arrived[[0, 2]] = [12, 11]


class Fabric:
    global_rank, world_size = 0, 1


@pytest.mark.parametrize("shuffled", [False, True])
def test_predictions_are_put_back_by_index(monkeypatch, shuffled):
    """The loader's order does not reach the result."""
    torch = pytest.importorskip("torch")

    def load_batches(fabric, images, batches, workers):
        order = np.random.default_rng(7).permutation(len(images)) if shuffled else np.arange(len(images))
        for index in np.array_split(torch.from_numpy(order), 3):
            yield images[index], index

    def generator(*arguments):
        yield from load_batches(*arguments)

    monkeypatch.setattr(compute_predict, "load_batches", generator)
    images = torch.arange(11.)[:, None]
    logits = compute_predict.predict(Fabric, torch.nn.Identity(), images, 4, 0)
    assert logits[:, 0].tolist() == list(range(11))


@given(st.integers(0, 1000))
@settings(max_examples=8, deadline=None)
def test_files_of_pseudo_labels_do_not_depend_on_the_order_of_a_split(tmp_path_factory, seed):
    """The rows of all splits in another order, with their predictions: the same bytes."""
    rng = np.random.default_rng(seed)
    division = ClosedAndOpen.of("surprise", RAFDB)
    splits = {name: make_split(name, np.append(np.arange(7), rng.integers(0, 7, 20)))
              for name in ("train", "val", "test")}
    predictions = {name: rng.integers(0, 6, 27) for name in splits}
    folder, texts = tmp_path_factory.mktemp("pseudo"), []
    for shuffles in (False, True):
        loaded, given_labels = {}, {}
        for name, split in splits.items():
            order = rng.permutation(27) if shuffles else np.arange(27)
            loaded[name] = Split(split.frame.iloc[order].reset_index(drop=True), None, RAFDB)
            given_labels[name] = predictions[name][order]
        pool = make_pool("paper", division, loaded)
        labels = pseudo_labels("paper", pool, given_labels, 6, seed)
        files.write_pseudo_labels(folder, "paper", pool, labels, division)
        assert (files.read_pseudo_labels(folder, "paper", pool, division) == labels).all()
        texts.append((folder / "pseudo_labels/paper.csv").read_bytes())
    assert texts[0] == texts[1]


def test_pseudo_labels_of_the_pools(splits):
    division = ClosedAndOpen.of("surprise", RAFDB)
    predictions = {name: np.arange(len(split.frame)) % 6 for name, split in splits.items()}
    for name in POOLS:
        pool = make_pool(name, division, splits)
        labels = pseudo_labels(name, pool, predictions, 6, 0)
        own = np.array([predictions[split][row] for split, row in zip(pool["split"], pool["row"], strict=True)])
        is_training = (pool["group"] == "open-train").to_numpy()
        assert (labels == own)[~is_training].all() and labels.min() >= 0 and labels.max() < 6
        if name == "paper":
            assert (labels == own).all()
        elif name != "test":
            assert (labels != own)[is_training].mean() > .5
    assert (pseudo_labels(name, pool, predictions, 6, 0) == labels).all()
    assert (pseudo_labels(name, pool, predictions, 6, 1) != labels).any()


def test_permuted_pseudo_labels_are_those_of_other_training_images(splits):
    """Every image of the training splits predicts a class of its own, so that the permutation can be seen."""
    division = ClosedAndOpen.of("surprise", RAFDB)
    predictions = {"train": np.arange(60), "val": 60 + np.arange(20), "test": np.zeros(40, int)}
    pool = make_pool("paper-permuted", division, splits)
    labels = pseudo_labels("paper-permuted", pool, predictions, 6, 0)[pool["group"] == "open-train"]
    assert len(set(labels)) == len(labels) and set(labels) <= set(range(80))


def test_pseudo_labels_of_other_data_are_refused(splits, tmp_path):
    division = ClosedAndOpen.of("surprise", RAFDB)
    pool = make_pool("test", division, splits)
    assert files.read_pseudo_labels(tmp_path, "test", pool, division) is None
    files.write_pseudo_labels(tmp_path, "test", pool, np.zeros(len(pool), int), division)
    with pytest.raises(UserError, match=r"written for other images or classes \(id\)"):
        files.read_pseudo_labels(tmp_path, "test", pool.assign(id=pool["id"] + "x"), division)
    path = tmp_path / "pseudo_labels/test.csv"
    path.write_text(path.read_text().replace(",fear,", ",surprise,"))
    with pytest.raises(UserError):
        files.read_pseudo_labels(tmp_path, "test", pool, division)
