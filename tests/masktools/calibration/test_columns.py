"""Norms of the columns that layers read, beside those of matrices written out."""

from __future__ import annotations

import numpy as np
import pytest

from masktools.calibration.columns import RIDGE, column_norms
from masktools.calibration.linear import inverse_diagonal
from masktools.calibration.moments import Few, Gram
from masktools.calibration.samples import samples
from masktools.errors import CalibrationError, MaskError
from masktools.network.graph import Graph, Node, Value
from runtime import prepare

SAMPLES = 40


def run(checkpoint):
    return prepare(checkpoint, backend="reference")


def convolution(name, source, target, pads=1, **attributes):
    window = {"kernel_shape": (3, 3), "strides": (1, 1), "dilations": (1, 1), "group": 1}
    window |= {"pads": (pads,) * 4, **attributes}
    return Node(name, "Conv", (source, f"{name}.weight"), (target,), window)


def matrix(source, target):
    options = {"alpha": 1.0, "beta": 1.0, "transA": 0, "transB": 1}
    return Node("fc", "Gemm", (source, "fc.weight"), (target,), options)


def network(rng):
    """Return a network of two convolutions, the second in groups and with strides, and a matrix."""
    nodes = [
        convolution("a", "x", "p"),
        convolution("b", "p", "q", group=2, strides=(2, 2)),
        Node("flat", "Flatten", ("q",), ("r",), {"axis": 1}),
        matrix("r", "y"),
    ]
    shapes = {"a": (4, 2, 3, 3), "b": (6, 2, 3, 3), "fc": (5, 54)}
    constants = {
        f"{name}.weight": rng.standard_normal(shape).astype(np.float32)
        for name, shape in shapes.items()
    }
    return Graph((Value("x", (None, 2, 5, 5)),), (Value("y", (None, 5)),), tuple(nodes), constants)


def opened(x, pads, stride, groups):
    """Return what each row of a 3 x 3 convolution multiplies, by loops."""
    padded = np.pad(x, [(0, 0), (0, 0), (pads, pads), (pads, pads)])
    channels = x.shape[1] // groups
    matrices = []
    for group in range(groups):
        part = padded[:, group * channels : (group + 1) * channels]
        lines = [
            part[n, :, i : i + 3, j : j + 3].ravel()
            for n in range(len(x))
            for i in range(0, part.shape[2] - 2, stride)
            for j in range(0, part.shape[3] - 2, stride)
        ]
        matrices.append(np.array(lines, np.float64))
    return matrices


def expected(matrices, saliency):
    if saliency == "input":
        return np.array([np.sqrt(np.mean(x**2, axis=0)) for x in matrices])
    found = []
    for x in matrices:
        system = np.cov(x.T, bias=True)
        system[np.diag_indices_from(system)] += RIDGE * np.trace(system) / len(system)
        found.append(np.sqrt(1 / np.diag(np.linalg.inv(system))))
    return np.array(found)


@pytest.mark.parametrize("saliency", ["input", "error"])
def test_norms_are_those_of_the_matrices_written_out(saliency):
    rng = np.random.default_rng(0)
    graph = network(rng)
    x = (rng.standard_normal((SAMPLES, 2, 5, 5)) + 1).astype(np.float32)
    fitted = x[np.concatenate(samples(graph, x).fitted)]
    steps = []
    found = column_norms(graph, ["fc", "a", "b"], saliency, x, run, steps.append)
    assert list(found) == ["fc", "a", "b"]
    assert steps == ["a", "b", "fc"]
    weights = {name: array.astype(np.float64) for name, array in graph.constants.items()}
    first = opened(fitted, 1, 1, 1)
    p = first[0] @ weights["a.weight"].reshape(4, -1).T
    p = p.reshape(len(fitted), 25, 4).transpose(0, 2, 1).reshape(-1, 4, 5, 5)
    second = opened(p, 1, 2, 2)
    rows = weights["b.weight"].reshape(2, 3, -1)
    q = np.concatenate([m @ r.T for m, r in zip(second, rows, strict=True)], axis=1)
    q = q.reshape(len(fitted), 9, 6).transpose(0, 2, 1).reshape(len(fitted), -1)
    for name, matrices in (("a", first), ("b", second), ("fc", [q])):
        np.testing.assert_allclose(
            found[name], expected(matrices, saliency), rtol=2e-4, err_msg=name
        )


def test_only_the_layers_asked_for_are_looked_at():
    rng = np.random.default_rng(0)
    found = column_norms(network(rng), ["b"], "error", rng.random((32, 2, 5, 5), np.float32), run)
    assert {name: norms.shape for name, norms in found.items()} == {"b": (2, 18)}


def test_a_layer_of_several_nodes_reads_what_all_of_them_read():
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((2, 2, 3, 3)).astype(np.float32)
    node = convolution("a", "x", "p")
    nodes = (node, Node("again", "Conv", ("p", "a.weight"), ("y",), node.attributes))
    graph = Graph(
        (Value("x", (None, 2, 5, 5)),), (Value("y", (None, 2, 5, 5)),), nodes, {"a.weight": weight}
    )
    x = rng.standard_normal((32, 2, 5, 5)).astype(np.float32)
    fitted = x[np.concatenate(samples(graph, x).fitted)]
    first = opened(fitted, 1, 1, 1)[0]
    p = (first @ weight.reshape(2, -1).T).reshape(len(fitted), 25, 2).transpose(0, 2, 1)
    both = np.concatenate([first, opened(p.reshape(-1, 2, 5, 5), 1, 1, 1)[0]])
    for saliency in ("input", "error"):
        (found,) = column_norms(graph, ["a"], saliency, x, run).values()
        np.testing.assert_allclose(found, expected([both], saliency), rtol=2e-4)


@pytest.mark.parametrize("columns", [5, 60])
def test_few_positions_give_what_their_products_give(columns):
    rng = np.random.default_rng(0)
    x = (rng.standard_normal((2, 30, columns)) + 5).astype(np.float32)
    sums, few = Gram(2, columns, 0), Few(2, columns, 0)
    for piece in np.split(x, [7, 11], axis=1):
        for one in (sums, few):
            one.add(piece.copy(), np.zeros((2, piece.shape[1], 0), np.float32))
    for group in range(2):
        expected = sums.unexplained(group, 0.02)
        np.testing.assert_allclose(few.unexplained(group, 0.02), expected, rtol=1e-4)
        system = np.cov(x[group].T.astype(float), bias=True) + 0.02 * np.eye(columns)
        np.testing.assert_allclose(expected, 1 / inverse_diagonal(system), rtol=1e-4)


def test_a_column_that_another_repeats_is_worth_little():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((64, 4)).astype(np.float32)
    x[:, 3] = x[:, 2]
    graph = Graph(
        (Value("x", (None, 4)),),
        (Value("y", (None, 2)),),
        (matrix("x", "y"),),
        {"fc.weight": np.ones((2, 4), np.float32)},
    )
    (norms,) = column_norms(graph, ["fc"], "error", x, run)["fc"]
    assert (norms[:2] ** 2 > 0.7).all()
    assert (norms[2:] ** 2 < 0.2).all()
    assert (column_norms(graph, ["fc"], "input", x, run)["fc"] > 0.8).all()


@pytest.mark.parametrize("saliency", ["input", "error"])
def test_a_layer_that_reads_nothing_is_named(saliency):
    rng = np.random.default_rng(0)
    graph = network(rng)
    graph.constants["a.weight"][:] = 0
    x = rng.standard_normal((32, 2, 5, 5)).astype(np.float32)
    with pytest.raises(CalibrationError, match="layer 'b': what it reads is the same for all"):
        column_norms(graph, ["a", "b"], saliency, x, run)


def test_a_layer_that_is_not_there_is_named():
    rng = np.random.default_rng(0)
    with pytest.raises(MaskError, match="no layer 'c'; it has a, b, fc"):
        column_norms(network(rng), ["c"], "input", np.zeros((32, 2, 5, 5), np.float32), run)
