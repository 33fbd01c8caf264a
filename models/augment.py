"""Augmentation of training batches on their device: `--augment basic`. Off by default: FER-C trains without any."""
import torch

SHIFT, ERASE = 1 / 8, (0.02, 0.25)  # of the side; of the area (the range of the SCN and RUL releases)


def flip_crop_erase(image):
    """Flip half of the images, shift each by up to 1/8 of its side, erase a box of half of them.

    image: uint8 (N, 3, H, W). Returns the same, new memory. What a shift brings in repeats the border; an erased box is
    filled with noise. Draws from torch's generator of the device, which the harness seeds for every step.
    """
    count, _, height, width = image.shape
    device = image.device
    draw = torch.rand(8, count, 1, device=device)

    def shifted(side, share):
        offset = ((2 * share - 1) * SHIFT * side).round().long()
        return (torch.arange(side, device=device) + offset).clamp(0, side - 1)

    rows, columns = shifted(height, draw[0]), shifted(width, draw[1])
    columns = torch.where(draw[2] < 0.5, width - 1 - columns, columns)
    image = image.gather(2, rows[:, None, :, None].expand_as(image))
    image = image.gather(3, columns[:, None, None, :].expand_as(image))

    area, aspect = ERASE[0] + (ERASE[1] - ERASE[0]) * draw[3], 0.3 ** (2 * draw[4] - 1)  # 0.3 to 1 / 0.3
    high, wide = (area * aspect).sqrt().clamp(max=1) * height, (area / aspect).sqrt().clamp(max=1) * width

    def within(side, length, share):
        start = share * (side - length)
        place = torch.arange(side, device=device)
        return (place >= start) & (place < start + length)

    box = within(height, high, draw[5])[:, :, None] & within(width, wide, draw[6])[:, None, :]
    box = box & (draw[7] < 0.5)[:, :, None]
    noise = torch.randint(256, image.shape, dtype=torch.uint8, device=device)
    return torch.where(box[:, None], noise, image)
