"""The hypergraph of a mask: a vertex per row, a net per column, a pin per nonzero."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from masktools.checks import IndexArray, as_mask
from masktools.errors import MaskError

if TYPE_CHECKING:
    import networkx


@dataclass(frozen=True)
class Hypergraph:
    """The rows that each column connects.

    Parameters
    ----------
    vertices : int
        Rows of the mask.
    columns : ndarray of int32, shape (nets,)
        The column that each net stands for, ascending. Columns with fewer than two nonzeros are
        no nets: no partition can cut them.
    offsets : ndarray of int32, shape (nets + 1,)
        Where each net's pins begin in `pins`.
    pins : ndarray of int32, shape (pins,)
        The rows of each net, ascending, net after net.

    Examples
    --------
    >>> graph = Hypergraph.from_mask([[1, 1, 0], [0, 1, 1], [0, 1, 1]])
    >>> graph.columns.tolist(), graph.offsets.tolist(), graph.pins.tolist()
    ([1, 2], [0, 3, 5], [0, 1, 2, 1, 2])
    """

    vertices: int
    columns: IndexArray
    offsets: IndexArray
    pins: IndexArray

    @classmethod
    def from_mask(cls, mask: ArrayLike) -> Hypergraph:
        """Return the hypergraph of a mask of any shape that `as_mask` takes."""
        from scipy.sparse import csr_array

        matrix = _matrix(mask)
        shared = np.flatnonzero(np.count_nonzero(matrix, axis=0) >= 2)
        nets = csr_array(matrix[:, shared].T)
        return cls(
            len(matrix),
            shared.astype(np.int32),
            nets.indptr.astype(np.int32),
            nets.indices.astype(np.int32),
        )

    def connectivity(self, labels: ArrayLike) -> int:
        """Return the connectivity of a partition: row groups per net, less one, summed (km1).

        Parameters
        ----------
        labels : array_like of int, shape (vertices,)
            The group of each row.

        Raises
        ------
        MaskError
            If there is not one label per row.

        Examples
        --------
        >>> Hypergraph.from_mask([[1, 1, 0], [0, 1, 1], [0, 1, 1]]).connectivity([0, 1, 1])
        1
        """
        group = np.asarray(labels)
        if group.shape != (self.vertices,):
            raise MaskError(f"expected {self.vertices} labels, got shape {group.shape}")
        net = np.repeat(np.arange(len(self.columns)), np.diff(self.offsets))
        touched = np.unique(np.stack([net, group[self.pins]]), axis=1)
        return int(touched.shape[1] - len(self.columns))


def row_similarity(mask: ArrayLike) -> NDArray[np.float32]:
    """Return the Jaccard similarity of each pair of rows.

    Parameters
    ----------
    mask : array_like of bool
        Of any shape that `as_mask` takes. Not changed.

    Returns
    -------
    ndarray of float32, shape (rows, rows)
        Columns that both rows keep / columns that either keeps; 0 for two empty rows.

    Notes
    -----
    The similarity of the paper, section 3 (figure 2). It motivates the partition; what the
    partitioners minimise is the connectivity.

    Examples
    --------
    >>> row_similarity([[1, 1, 1, 0], [0, 1, 1, 1]])
    array([[1. , 0.5],
           [0.5, 1. ]], dtype=float32)
    """
    matrix = _matrix(mask).astype(np.float32)
    common = matrix @ matrix.T
    kept = matrix.sum(axis=1)
    either = kept[:, None] + kept[None, :] - common
    similarity: NDArray[np.float32] = np.divide(
        common, either, out=np.zeros_like(common), where=either > 0
    )
    return similarity


def to_networkx(mask: ArrayLike) -> networkx.Graph[Any]:
    """Return the mask as a bipartite graph, for drawing and for networkx's algorithms.

    Parameters
    ----------
    mask : array_like of bool
        Of any shape that `as_mask` takes. Not changed.

    Returns
    -------
    networkx.Graph
        Nodes ``("row", i)`` with ``bipartite=0`` and ``("column", j)`` with ``bipartite=1``,
        empty ones too; an edge per nonzero.

    Examples
    --------
    >>> sorted(to_networkx([[1, 0], [1, 1]]).edges)[0]
    (('row', 0), ('column', 0))
    """
    import networkx

    matrix = _matrix(mask)
    graph: networkx.Graph[Any] = networkx.Graph()
    graph.add_nodes_from((("row", i) for i in range(matrix.shape[0])), bipartite=0)
    graph.add_nodes_from((("column", j) for j in range(matrix.shape[1])), bipartite=1)
    graph.add_edges_from((("row", i), ("column", j)) for i, j in np.argwhere(matrix).tolist())
    return graph


def _matrix(mask: ArrayLike) -> NDArray[np.bool_]:
    keep = as_mask(mask)
    return keep.reshape(keep.shape[0], int(np.prod(keep.shape[1:])))
