"""What is rewritten for the static form: which operators are there afterwards, and the same answers."""

from collections import Counter

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from exporters.static.channels import join_groups
from exporters.static.rewriting import rewrite

FLOAT = TensorProto.FLOAT
STATISTICS = ["gain", "offset", "mean", "variance"]


def node(operator, inputs, output="y", **attributes):
    return helper.make_node(operator, inputs, [output], **attributes)


def integers(name, *values):
    return numpy_helper.from_array(np.array(values, np.int64), name)


@pytest.fixture
def rewritten(graphs):
    """Rewrites a network of (N, 20, 12, 12), and compares the answers to three images."""

    def run(nodes, tensors=()):
        names = {name for part in nodes for name in part.input}
        statistics = np.random.default_rng(0).uniform(0.5, 2, (4, 20)).astype(np.float32)
        known = [
            *(graphs.tensor(name, values) for name, values in zip(STATISTICS, statistics, strict=True)),
            *(graphs.weights(name, 20, 20, 1, 1) for name in ("first", "last")),
            *(graphs.weights(name, 20, 1, 3, 3) for name in ("deep", "deeper")),
            *(graphs.tensor("bias", np.arange(20) / 10), graphs.tensor("factors", np.arange(20).reshape(20, 1, 1))),
            *(graphs.weights("fewer", 4, 20, 1, 1), graphs.weights("more", 20, 4, 1, 1)),
        ]
        used = [tensor for tensor in (*known, *tensors) if tensor.name in names]
        network = graphs.model(nodes, used, inputs={"x": (FLOAT, ["N", 20, 12, 12])}, outputs={"y": (FLOAT, ["N", None, None, None])})
        result = rewrite(network)
        x = graphs.pictures(3, 20, 12, 12)
        np.testing.assert_allclose(graphs.run(result, x=x)["y"], graphs.run(network, x=x)["y"], rtol=1e-5, atol=1e-5)
        return result

    return run


def operators(network):
    return Counter(part.op_type for part in network.graph.node)


def weights_of(network):
    """Shape of each convolution's weights, and its groups, by name."""
    shapes = {tensor.name: tuple(tensor.dims) for tensor in network.graph.initializer}
    found = {}
    for part in network.graph.node:
        if part.op_type == "Conv":
            (groups,) = [attribute.i for attribute in part.attribute if attribute.name == "group"] or [1]
            found[part.input[1]] = (*shapes[part.input[1]][:2], groups)
    return found


def test_a_norm_by_itself_is_a_depthwise_convolution(rewritten):
    network = rewritten([node("BatchNormalization", ["x", *STATISTICS], epsilon=0.5)])
    assert operators(network) == {"Conv": 1}
    assert weights_of(network) == {"y/factor": (20, 1, 20)}


def test_a_norm_of_the_images_at_hand_stays(graphs):
    batch = helper.make_node("BatchNormalization", ["x", *STATISTICS], ["y", "m", "v"], training_mode=1)
    network = graphs.model(
        [batch],
        [graphs.tensor(name, np.ones(3)) for name in STATISTICS],
        outputs={"y": (FLOAT, ["N", 3, 24, 24]), "m": (FLOAT, [3]), "v": (FLOAT, [3])},
    )
    assert operators(rewrite(network)) == {"BatchNormalization": 1}


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"kernel_shape": [2, 2], "strides": [2, 2]}, {"Conv": 1}),
        ({"kernel_shape": [3, 2], "strides": [1, 3]}, {"Conv": 1}),
        ({"kernel_shape": [3, 3], "pads": [1, 0, 2, 1], "count_include_pad": 1}, {"Conv": 1}),
        ({"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}, {"AveragePool": 1}),
        ({"kernel_shape": [5, 5], "strides": [5, 5], "ceil_mode": 1}, {"AveragePool": 1}),
        ({"kernel_shape": [12, 12]}, {"GlobalAveragePool": 1}),
        ({"kernel_shape": [12, 12], "pads": [2, 2, 0, 0], "strides": [9, 9], "count_include_pad": 1}, {"Conv": 1}),
    ],
    ids=["halves", "uneven", "zeros count", "zeros do not count", "beyond the image", "whole map", "whole map and zeros"],
)
def test_an_average_pool_is_a_depthwise_convolution_where_every_window_has_as_many_pixels(rewritten, settings, expected):
    assert operators(rewritten([node("AveragePool", ["x"], **settings)])) == expected


def test_a_pool_changes_places_with_the_projection_before_it(rewritten):
    """As in a DenseNet's transitions: a quarter of the products."""
    network = rewritten([node("Conv", ["x", "first", "bias"], "c"), node("AveragePool", ["c"], kernel_shape=[2, 2], strides=[2, 2])])
    pool, projection = network.graph.node
    assert (pool.input[0], projection.input[0], projection.input[1]) == ("x", pool.output[0], "first")


@pytest.mark.parametrize(
    ("nodes", "expected"),
    [
        ([node("AveragePool", ["c"], kernel_shape=[3, 3], pads=[1] * 4, count_include_pad=1)], ["first", "y/means"]),
        (
            [
                node("AveragePool", ["c"], "p", kernel_shape=[3, 3]),
                node("MaxPool", ["c"], "m", kernel_shape=[3, 3]),
                node("Add", ["p", "m"]),
            ],
            ["first", "p/means"],
        ),
    ],
    ids=["at the border zeros are not projected", "somebody else reads the projection"],
)
def test_a_pool_stays_behind_a_projection_where_that_would_not_be_the_same(rewritten, nodes, expected):
    network = rewritten([node("Conv", ["x", "first", "bias"], "c"), *nodes])
    assert [part.input[1] for part in network.graph.node if part.op_type == "Conv"] == expected


@pytest.mark.parametrize("batch", [0, -1])
def test_channels_are_shuffled_with_the_sides_of_the_image_as_one(rewritten, batch):
    nodes = [
        node("Reshape", ["x", "apart"], "a"),
        node("Transpose", ["a"], "t", perm=[0, 2, 1, 3, 4]),
        node("Reshape", ["t", "together"]),
    ]
    network = rewritten(nodes, [integers("apart", batch, 5, 4, 12, 12), integers("together", batch, 20, 12, 12)])
    (turn,) = [part for part in network.graph.node if part.op_type == "Transpose"]
    assert list(turn.attribute[0].ints) == [0, 2, 1, 3]


@pytest.mark.parametrize(
    ("apart", "together"),
    [((0, 5, 4, 12, 12), (0, 0, 60, 12)), ((0, 5, 4, -1, 12), (0, 20, 12, 12)), ((3, 5, -1, 12, 12), (3, 20, 12, 12))],
    ids=["an axis of what is read", "the rest of the lines", "the rest of the channels"],
)
def test_a_shuffle_with_sizes_that_are_not_numbers_stays(rewritten, apart, together):
    nodes = [
        node("Reshape", ["x", "apart"], "a"),
        node("Transpose", ["a"], "t", perm=[0, 2, 1, 3, 4]),
        node("Reshape", ["t", "together"]),
    ]
    network = rewritten(nodes, [integers("apart", *apart), integers("together", *together)])
    (turn,) = [part for part in network.graph.node if part.op_type == "Transpose"]
    assert list(turn.attribute[0].ints) == [0, 2, 1, 3, 4]


def between(*nodes, source="e"):
    """A convolution writes e, and another one reads f."""
    return [node("Conv", ["x", "first", "bias"], source), *nodes, node("Conv", ["f", "last"])]


def deep(source, result, weights="deep"):
    return node("Conv", [source, weights], result, group=20, pads=[1] * 4)


INSIDE = {
    "activations": between(
        node("Relu", ["e"], "r"), deep("r", "d"), node("HardSwish", ["d"], "h"), node("Add", ["h", "half"], "m"), deep("m", "f", "deeper")
    ),
    "squeeze and excite": between(
        deep("e", "d"),
        node("ReduceMean", ["d", "sides"], "s", keepdims=1),
        node("Conv", ["s", "fewer"], "z"),
        node("Conv", ["z", "more"], "g"),
        node("Sigmoid", ["g"], "gate"),
        node("Mul", ["d", "gate"], "f"),
    ),
    "pool and sum": between(deep("e", "d"), node("MaxPool", ["d"], "p", kernel_shape=[3, 3], pads=[1] * 4), node("Add", ["p", "e"], "f")),
}


@pytest.mark.parametrize("kind", INSIDE)
def test_depthwise_convolutions_have_a_multiple_of_16_channels_where_all_around_can(rewritten, graphs, kind):
    network = rewritten(INSIDE[kind], [integers("sides", 2, 3), graphs.tensor("half", 0.5)])
    shapes = {name: shape for name, shape in weights_of(network).items() if name in ("first", "deep", "deeper", "fewer", "more", "last")}
    expected = {
        "first": (32, 20, 1),
        "deep": (32, 1, 32),
        "deeper": (32, 1, 32),
        "fewer": (4, 32, 1),
        "more": (32, 4, 1),
        "last": (20, 32, 1),
    }
    assert shapes == {name: expected[name] for name in shapes}
    assert {"first", "deep", "last"} <= set(shapes)


OUTSIDE = {
    "a concatenation": between(deep("e", "d"), node("Concat", ["d", "e"], "z", axis=1), node("Conv", ["z", "both"], "f")),
    "an output": [*between(deep("e", "f"))[:-1], node("Identity", ["f"])],
    "the image": [deep("x", "f"), node("Conv", ["f", "last"])],
    "a factor for each channel": between(deep("e", "d"), node("Mul", ["d", "factors"], "f")),
    "weights of two layers": between(deep("e", "d"), deep("d", "f")),
    "weights that another layer has too": between(deep("e", "d"), node("Conv", ["d", "last"], "f")),
    "one map for all channels": between(deep("e", "d"), node("Conv", ["x", "single"], "map"), node("Mul", ["d", "map"], "f")),
}


@pytest.mark.parametrize("kind", OUTSIDE)
def test_depthwise_convolutions_keep_their_channels_where_something_around_cannot_have_more(rewritten, graphs, kind):
    network = rewritten(OUTSIDE[kind], [graphs.weights("both", 20, 40, 1, 1), graphs.weights("single", 1, 20, 1, 1)])
    assert weights_of(network)["deep"] == (20, 1, 20)


@pytest.mark.parametrize(
    ("groups", "width", "expected"),
    [(6, 8, 1), (26, 8, 13), (55, 8, 11), (64, 4, 16), (2, 64, 1), (2, 72, 2), (13, 12, 1), (9, 20, 9)],
)
def test_joined_groups_answer_as_before(graphs, groups, width, expected):
    """All in one where there are up to 128 channels; else as few as have 16 of them, and those that have stay."""
    channels = groups * width
    weights = np.random.default_rng(0).integers(-9, 10, (2 * groups, width, 3, 3)).astype(np.int8)
    joined, count = join_groups(weights, groups)
    assert (count, joined.shape) == (expected, (2 * groups, channels // expected, 3, 3))
    x = np.random.default_rng(1).integers(0, 9, (1, channels, 5, 5)).astype(np.float32)
    answers = []
    for values, number in ((weights, groups), (joined, count)):
        network = graphs.model(
            [node("Conv", ["x", "w"], group=number)],
            [graphs.tensor("w", values)],
            inputs={"x": (FLOAT, [1, channels, 5, 5])},
            outputs={"y": (FLOAT, [1, 2 * groups, 3, 3])},
        )
        answers.append(graphs.run(network, x=x)["y"])
    np.testing.assert_array_equal(*answers)
