"""Augmentation of training batches on their device: --augment basic, and the views of train_openset.py. FER-C has none.
"""
import torch

SHIFT = 1 / 8  # largest shift, as a fraction of the image's side
ERASED_AREA = (0.02, 0.25)  # of a box, as a fraction of the image's area (the range of the SCN and RUL releases)
FLIPPED = ERASED = 0.5  # probability of a flip, and of an erased box
ASPECT = 0.3  # height by width of a box lies between this and 1 / this
MEAN_COLOUR = (124, 116, 104)  # red, green, blue: the mean of ImageNet


def flip_shift_erase(image: torch.Tensor) -> torch.Tensor:
    """Flip each image with probability 1/2, shift it by up to 1/8 of its side, and erase a box of it with probability
    1/2.

    image: uint8 (N, 3, H, W). Returns new images, of the same shape and type. The border is repeated where a shift
    leaves a gap; an erased box is filled with noise. Draws from torch's generator of the device, which is seeded for
    every step.
    """
    count, _, height, width = image.shape
    draws = torch.rand(8, count, 1, device=image.device)
    flip = draws[2]
    rows = shifted_indices(height, draws[0])
    columns = shifted_indices(width, draws[1])
    columns = torch.where(flip < FLIPPED, width - 1 - columns, columns)
    image = image.gather(2, rows[:, None, :, None].expand_as(image))
    image = image.gather(3, columns[:, None, None, :].expand_as(image))

    box = erased_box(height, width, draws[3:8])
    noise = torch.randint(256, image.shape, dtype=torch.uint8, device=image.device)
    return torch.where(box[:, None], noise, image)


def noise_and_erase(image: torch.Tensor, noise: float, variance: float, erase: float) -> torch.Tensor:
    """Add Gaussian noise to each image with probability `noise`, then erase a box with probability `erase`: the first
    view of the released code of open-set FER.

    image: uint8 (N, 3, H, W). variance: of the noise, in grey levels squared. Returns new images, of the same shape and
    type. An erased box gets `MEAN_COLOUR`, which is 0 after normalisation. Draws from torch's generator of the device.
    """
    count, _, height, width = image.shape
    draws = torch.rand(6, count, 1, device=image.device)
    has_noise = (draws[5] < noise)[:, :, None, None]
    noisy = image + variance ** 0.5 * torch.randn(image.shape, device=image.device)
    image = torch.where(has_noise, noisy.round().clamp(0, 255).to(torch.uint8), image)
    box = erased_box(height, width, draws[:5], erase)
    colour = torch.tensor(MEAN_COLOUR, dtype=torch.uint8, device=image.device).view(1, 3, 1, 1)
    return torch.where(box[:, None], colour, image)


def erased_box(height: int, width: int, draws: torch.Tensor, probability: float = ERASED) -> torch.Tensor:
    """bool (N, height, width): the box of each image that is erased, empty for images that keep theirs. draws: (5, N,
    1) in 0..1, for the area, the aspect, the two places, and whether anything is erased."""
    area, aspect, row, column, erase = draws
    box_area = ERASED_AREA[0] + (ERASED_AREA[1] - ERASED_AREA[0]) * area
    box_aspect = ASPECT ** (2 * aspect - 1)
    box_height = (box_area * box_aspect).sqrt().clamp(max=1) * height
    box_width = (box_area / box_aspect).sqrt().clamp(max=1) * width
    box = inside_box(height, box_height, row)[:, :, None] & inside_box(width, box_width, column)[:, None, :]
    return box & (erase < probability)[:, :, None]


def shifted_indices(side: int, draw: torch.Tensor) -> torch.Tensor:
    """int64 (N, side): the pixel that each place of a shifted side shows. draw: (N, 1) in 0..1, for the shift."""
    offset = ((2 * draw - 1) * SHIFT * side).round().long()
    return (torch.arange(side, device=draw.device) + offset).clamp(0, side - 1)


def inside_box(side: int, length: torch.Tensor, draw: torch.Tensor) -> torch.Tensor:
    """bool (N, side): the places that a box of this length (N, 1) covers. draw: (N, 1) in 0..1, for where it lies."""
    start = draw * (side - length)
    place = torch.arange(side, device=draw.device)
    return (place >= start) & (place < start + length)
