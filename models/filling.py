"""What stands in place of pixels without data: smooth, so that it costs few bits."""

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812


def fill_smoothly(values: Tensor, valid: Tensor) -> Tensor:
    """Replace values (bands, height, width) that are not valid by the mean of the valid ones around.

    Of squares of 4, 8, 16, ... pixels, the smallest that has a valid one tells; a band without any becomes 0.
    """
    if valid.all():
        return values
    found = torch.where(valid, values, 0.0)
    missing = ~valid
    total, weight, side = found, valid.to(values.dtype), 1
    while missing.any() and side <= 2 * max(values.shape[1:]):
        side *= 2
        total = F.avg_pool2d(total[None], 2, ceil_mode=True, divisor_override=1)[0]
        weight = F.avg_pool2d(weight[None], 2, ceil_mode=True, divisor_override=1)[0]
        if side < 4:
            continue
        mean = (total / weight.clamp(min=1)).repeat_interleave(side, 1).repeat_interleave(side, 2)
        known = (weight > 0).repeat_interleave(side, 1).repeat_interleave(side, 2)
        height, width = values.shape[1:]
        new = missing & known[:, :height, :width]
        found = torch.where(new, mean[:, :height, :width], found)
        missing = missing & ~new
    return found
