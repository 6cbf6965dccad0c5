"""Attention of the newest tokens in a step of writing, by a kernel that reads the cache where it stands.

A trained prefix stands in each row, or once for all of them. Kept once, it is attended to by a call of its
own, whose softmax is put together with the text's: some kernels more a layer, which pay where its copies in
all rows are many tokens; and a window that is shorter than the texts, which the kernel counts from a row's
end, then leaves the prefix alone. Page tables would share whole pages of 256 tokens and no shorter prefix.
"""

from dataclasses import dataclass
from typing import Any, ClassVar
from weakref import WeakSet

from torch import Tensor

from crosstune.models.attention.flash import kernel

SHARED = 16384
"""Tokens of a prefix in all rows together from which one for all is faster: of 8B 64 MiB a layer, 23
microseconds of an H100's memory, where eight more kernels take 16."""
_biased: WeakSet[Any] = WeakSet()  # models whose scores the kernel does not know


def shares(lm: Any, rows: int, columns: int, n: int) -> bool:
    """Whether prefixes of up to ``n`` tokens are kept once for rows of so many ``columns``."""
    window = getattr(lm.decoder.config, "sliding_window", None)
    hidden = window is not None and window < n + columns
    return lm.model not in _biased and n > 0 and (rows * n >= SHARED or hidden)


@dataclass(frozen=True, slots=True)
class NextTokens:
    """Who sees whom in a step.

    It rides on a mask of one number (`crosstune.models.attention.layout.ridden`).
    """

    two_way: ClassVar[bool] = False

    cache: Any  # the `DecodingCache` that made it
    window: int | None  # tokens that the newest sees, itself included; None for all

    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, scaling: float, biased: bool
    ) -> Tensor | None:
        """``[rows, 1, heads, size]`` of queries ``[rows, heads, 1, size]``.

        ``key`` and ``value`` are what the cache handed to this layer. None where the kernel does not fit:
        they are something else, scores are ``biased``, or the window would hide a prefix in the rows.
        """
        handed, flat, n, shared = self.cache.handed
        longest = n + self.cache.fixed_columns
        window = None if self.window is None or self.window >= longest else self.window
        same = key is handed[0] and value is handed[1] and key.shape[-1] == value.shape[-1]
        if biased or not same or (n and window is not None):
            self.cache.in_place = False  # of no layer from the next step on
            if biased:
                _biased.add(self.cache.lm.model)
            return None
        places = self.cache.at(query.device)
        (keys, values), (ends, firsts, used) = flat, places.for_kernel(n)
        front = None if shared is None else (*shared, places.around(len(shared[0])))
        rows = query[:, :, 0]
        out = kernel.attend_in_place(rows, keys, values, ends, firsts, used, longest, scaling, window, front)
        return out[:, None]
