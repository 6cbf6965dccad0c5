"""Parts that only a GPU uses, each of which can be switched off.

All are on: each is compared with the plain way before it is trusted, and gives way to it with one line
where it fails. ``CROSSTUNE_GPU_OFF=graphs`` takes the plain way from the start, which only costs time.
"""

from typing import Literal, get_args

from crosstune.config.environment import gpu_off

Part = Literal["graphs", "packing", "fitting"]
"""``graphs``: recorded decoding steps (`crosstune.models.fast.graphs`). ``packing``: no padding in training
(`crosstune.models.attention.gpu_line`). ``fitting``: memory measured before the first large step of training
and the first large batch of evaluation (`crosstune.models.memory.measure`)."""


def wanted(part: Part) -> bool:
    """Whether a part has been left on.

    Raises:
        UserError: The environment variable names something else.
    """
    return part not in gpu_off(get_args(Part))
