"""Which examples are not independent of each other: the questions on one passage, in all its languages."""

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

ON_PASSAGES = ("xquad", "mlqa", "tydiqa", "belebele")
"""Tasks that ask several questions on a passage; older stores do not say which."""


def units(
    language: NDArray[np.int64], example: NDArray[np.int64], cluster: NDArray[np.object_]
) -> NDArray[np.int64]:
    """A number for each set of examples that depend on each other.

    Two examples of a language do if they name the same cluster, those of two languages if they have the same
    id, and so does what either depends on: the translations of a passage are one unit.

    Args:
        language: ``[rows]`` number of the language.
        example: ``[rows]`` number of the id.
        cluster: ``[rows]`` what the language calls the cluster; None for an example on its own.

    Returns:
        ``[rows]``.
    """
    named = np.array([name is not None for name in cluster], dtype=bool)
    texts = np.array([str(name) for name in cluster[named]])
    keys = np.unique(texts, return_inverse=True)[1] * (int(language.max(initial=0)) + 1) + language[named]
    places = np.unique(keys, return_inverse=True)[1]
    ids, row = np.unique(example, return_inverse=True)
    size = len(ids) + (int(places.max()) + 1 if len(places) else 0)
    edges = (np.ones(len(places)), (row[named], len(ids) + places))
    _, parts = connected_components(coo_array(edges, shape=(size, size)), directed=False)
    return np.asarray(parts[row], dtype=np.int64)
