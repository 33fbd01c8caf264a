"""Augmentation of training batches on their device (--augment basic); FER-C has none. Used by training/run.py."""
import torch

SHIFT = 1 / 8  # largest shift, as a fraction of the image's side
ERASED_AREA = (0.02, 0.25)  # of a box, as a fraction of the image's area (the range of the SCN and RUL releases)
FLIPPED = 0.5  # probability of a flip, and of an erased box
ASPECT = 0.3  # height by width of a box lies between this and 1 / this


def flip_shift_erase(image: torch.Tensor) -> torch.Tensor:
    """Flip each image with probability 1/2, shift it by up to 1/8 of its side, and erase a box of it with probability
    1/2.

    image: uint8 (N, 3, H, W). Returns new images, of the same shape and type. The border is repeated where a shift
    leaves a gap; an erased box is filled with noise. Draws from torch's generator of the device, which is seeded for
    every step.
    """
    count, _, height, width = image.shape
    draws = torch.rand(8, count, 1, device=image.device)
    flip, erase = draws[2], draws[7]
    area, aspect = draws[3], draws[4]

    rows = shifted_indices(height, draws[0])
    columns = shifted_indices(width, draws[1])
    columns = torch.where(flip < FLIPPED, width - 1 - columns, columns)
    image = image.gather(2, rows[:, None, :, None].expand_as(image))
    image = image.gather(3, columns[:, None, None, :].expand_as(image))

    box_area = ERASED_AREA[0] + (ERASED_AREA[1] - ERASED_AREA[0]) * area
    box_aspect = ASPECT ** (2 * aspect - 1)
    box_height = (box_area * box_aspect).sqrt().clamp(max=1) * height
    box_width = (box_area / box_aspect).sqrt().clamp(max=1) * width
    box = inside_box(height, box_height, draws[5])[:, :, None] & inside_box(width, box_width, draws[6])[:, None, :]
    box = box & (erase < FLIPPED)[:, :, None]
    noise = torch.randint(256, image.shape, dtype=torch.uint8, device=image.device)
    return torch.where(box[:, None], noise, image)


def shifted_indices(side: int, draw: torch.Tensor) -> torch.Tensor:
    """int64 (N, side): the pixel that each place of a shifted side shows. draw: (N, 1) in 0..1, for the shift."""
    offset = ((2 * draw - 1) * SHIFT * side).round().long()
    return (torch.arange(side, device=draw.device) + offset).clamp(0, side - 1)


def inside_box(side: int, length: torch.Tensor, draw: torch.Tensor) -> torch.Tensor:
    """bool (N, side): the places that a box of this length (N, 1) covers. draw: (N, 1) in 0..1, for where it lies."""
    start = draw * (side - length)
    place = torch.arange(side, device=draw.device)
    return (place >= start) & (place < start + length)
