"""What is printed about a set when it is built."""
from building.built_set import BuiltSet


def print_summary(built: BuiltSet) -> None:
    """The confidence of the soft labels, and the corruptions that leave most images unchanged."""
    print_confidence(built)
    print_unchanged(built)


def print_confidence(built: BuiltSet) -> None:
    """The mean of the largest probability of the soft labels, in percent, for every cell: how sure a person would
    be of the expression, by the model of the soft labels."""
    confidence = 100 * built.soft_labels.max(-1).mean(-1)
    measure = built.made_with["softening"]["visibility"]
    print("mean label confidence (largest probability of the soft label, percent), severities 1 to 5; "
          f"clean {100 * built.labels_before_softening.max(1).mean():.1f}, visibility {measure}")
    width = max(map(len, built.corruptions))
    for name, values in zip(built.corruptions, confidence, strict=True):
        print(f"  {name:{width}} " + "".join(f"{value:7.1f}" for value in values))


def print_unchanged(built: BuiltSet) -> None:
    """One line about the corruptions that leave most images as they are, at this size or for images like these."""
    cells = built.manifest["unchanged"]
    if not cells:
        return
    severities: dict[str, list[str]] = {}
    for cell in cells:
        severities.setdefault(cell["corruption"], []).append(str(cell["severity"]))
    names = "; ".join(f"{name} {', '.join(numbers)}" for name, numbers in severities.items())
    print(f"in {len(cells)} of {len(built.cells)} cells (a corruption at a severity), over half of the images are "
          f"equal to their clean image: {names}")
