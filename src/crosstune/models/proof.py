"""Parts that only a GPU uses, each of which can be switched off.

All are on: each is compared with the plain way before it is trusted, and gives way to it with one line
where it fails. ``CROSSTUNE_GPU_OFF=graphs`` takes the plain way from the start, which only costs time.
"""

import os
from typing import Literal, get_args

from crosstune.errors import UserError, did_you_mean

OFF = "CROSSTUNE_GPU_OFF"
"""Environment variable: names of `Part`, with commas between them."""

Part = Literal["graphs", "packing", "fitting"]
"""``graphs``: recorded decoding steps (`crosstune.models.fast.graphs`). ``packing``: no padding in training
(`crosstune.models.attention.gpu_line`). ``fitting``: memory measured before the first large step of training
and the first large batch of evaluation (`crosstune.models.memory.measure`)."""


def wanted(part: Part) -> bool:
    """Whether a part has been left on.

    Raises:
        UserError: The environment variable names something else.
    """
    off = [name.strip() for name in os.environ.get(OFF, "").split(",") if name.strip()]
    for name in off:
        if name not in get_args(Part):
            raise UserError(f'{OFF}: "{name}"{did_you_mean(name, get_args(Part))}')
    return part not in off
