import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx.reference import ReferenceEvaluator
from torch import nn
from torch.nn import functional

from edgeresnet.errors import ExportError
from edgeresnet.evaluation import compare_logits
from exporters.int8.quantize import quantize_dynamic_int8
from exporters.int8.saturation import find_saturating_layers, quantize_without_saturation


def to_onnx(module, shape):
    example = (torch.zeros(2, *shape),)
    batch = ({0: torch.export.Dim("batch")},)
    program = torch.onnx.export(
        module.eval(), example, dynamo=True, external_data=False, dynamic_shapes=batch, verbose=False, input_names=["x"], output_names=["y"]
    )
    return program.model_proto


def run(model, x):
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]


def sqnr(expected, result):
    return compare_logits(expected.reshape(len(expected), -1), result.reshape(len(expected), -1)).sqnr_db


@pytest.mark.parametrize(
    "settings",
    [
        {"kernel_size": 3, "padding": 1},
        {"kernel_size": 3, "padding": 1, "stride": 2},
        {"kernel_size": 3, "padding": 2, "dilation": 2},
        {"kernel_size": (1, 5), "padding": (0, 2)},
        {"kernel_size": 5, "stride": 3, "bias": False},
        {"kernel_size": 1},
        {"kernel_size": 1, "stride": 2, "bias": False},
    ],
)
def test_a_convolution_of_whole_numbers_is_exact(settings):
    """Activations 0 to 255 and weights -127 to 127 have scales of 1, so nothing is rounded."""
    generator = torch.Generator().manual_seed(0)
    layer = nn.Conv2d(16, 8, **settings)
    layer.weight.data = torch.randint(-60, 60, layer.weight.shape, generator=generator).float()
    layer.weight.data[:, 0, 0, 0], layer.weight.data[:, 1, 0, 0] = 127, -60
    if layer.bias is not None:
        layer.bias.data = torch.randint(-99, 99, layer.bias.shape, generator=generator).float()
    x = torch.randint(0, 256, (3, 16, 11, 9), generator=generator).float()
    x[0, 0, 0, 0] = 255
    quantized = quantize_dynamic_int8(to_onnx(layer, (16, 11, 9)))
    assert [choice.quantized for choice in quantized.layers] == [True]
    np.testing.assert_array_equal(run(quantized.model, x.numpy()), layer(x).detach().numpy())


class Everything(nn.Module):
    """One of each operator that works on rows, and of those that do not."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.wide = nn.Conv2d(16, 32, 3, padding=1)
        self.norm = nn.BatchNorm2d(32)
        self.grouped = nn.Conv2d(32, 32, 3, padding=1, groups=32)
        self.point = nn.Conv2d(32, 48, 1)
        self.squeeze = nn.Conv2d(48, 16, 1)
        self.excite = nn.Conv2d(16, 48, 1)
        self.branch = nn.Conv2d(48, 32, 3, stride=2, padding=1)
        self.skip = nn.Conv2d(48, 32, 1, stride=2)
        self.head = nn.Conv2d(64, 24, 3, padding=1)
        self.first = nn.Linear(24 * 4, 200)
        self.last = nn.Linear(200, 5)

    def forward(self, x):
        x = functional.relu(self.stem(x))
        x = functional.relu(self.norm(functional.hardswish(self.wide(x))))
        x = functional.relu6(self.grouped(x))
        x = functional.silu(self.point(x))
        x = x * torch.sigmoid(self.excite(functional.relu(self.squeeze(x.mean((2, 3), keepdim=True)))))
        x = functional.max_pool2d(x, 3, 2, ceil_mode=True)
        x = 0.5 * self.branch(x) + self.skip(x) - 0.1
        x = torch.cat([x, functional.relu(x)], 1)
        x = functional.avg_pool2d(self.head(x), 2)
        return self.last(functional.relu(self.first(x.flatten(1))))


@pytest.fixture(scope="module")
def everything():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        module = Everything()
        module.norm.running_mean.normal_()
        module.norm.running_var.uniform_(0.5, 2)
    return to_onnx(module, (3, 16, 16))


PICTURES = np.random.default_rng(0).normal(size=(2, 3, 16, 16)).astype(np.float32)


def test_a_network_of_every_operator_keeps_its_answers(everything):
    quantized = quantize_without_saturation(everything, PICTURES).model
    onnx.checker.check_model(quantized, full_check=True)
    assert sqnr(run(everything, PICTURES), run(quantized, PICTURES)) > 30


def test_every_layer_is_accounted_for(everything):
    layers = quantize_dynamic_int8(everything).layers
    assert [(layer.operator, layer.weights[:2], layer.reason) for layer in layers if not layer.quantized] == [
        ("Conv", (16, 3), "3 input channels: rows too short"),
        ("Conv", (32, 1), "grouped: not one product"),
        ("Gemm", (5, 200), "1,000 weights: too few to save anything"),
    ]
    assert len([layer for layer in layers if layer.quantized]) == 8


def test_a_small_layer_beside_a_grouped_convolution_stays_in_fp32():
    """24 x 96 products a pixel against 96 values turned: 24 a value. Between ordinary layers the same size is quantized."""
    expand, depthwise, project = nn.Conv2d(24, 96, 1), nn.Conv2d(96, 96, 3, groups=96), nn.Conv2d(96, 24, 1)
    model = to_onnx(nn.Sequential(expand, nn.ReLU6(), depthwise, nn.ReLU6(), project, nn.ReLU(), nn.Conv2d(24, 96, 1)), (24, 8, 8))
    turning = "beside a grouped convolution: turning the layout costs more"
    assert [layer.reason for layer in quantize_dynamic_int8(model).layers] == [turning, "grouped: not one product", turning, ""]


def test_activations_stay_in_rows_except_where_they_cannot(everything):
    operators = [node.op_type for node in quantize_dynamic_int8(everything).model.graph.node]
    # Into rows after the stem, out of and into them around the grouped convolution and the maximum, out of them before the linear layers.
    assert operators.count("Transpose") == 6
    assert operators.count("MatMulInteger") == 8
    assert not {"AveragePool", "BatchNormalization"} & set(operators)


def test_the_file_means_the_same_to_the_reference_evaluator(everything):
    """Also on processors without VNNI, where products would saturate that are exact in the reference."""
    model = quantize_without_saturation(everything, PICTURES).model
    (expected,) = ReferenceEvaluator(model).run(None, {"x": PICTURES})
    # A sum in another order can round an activation to the next of 256 levels; the form itself is 35 dB from FP32.
    assert sqnr(expected, run(model, PICTURES)) > 55


def test_layers_that_would_saturate_are_found_and_made_safe():
    """Same-signed weights on inputs around zero, whose quantized form lies around 128, overflow 16 bits in pairs; others do not."""
    risky, harmless = nn.Conv2d(16, 8, 3, bias=False), nn.Conv2d(8, 8, 1, bias=False)
    risky.weight.data.uniform_(0.9, 1, generator=torch.Generator().manual_seed(0))
    harmless.weight.data[:] = 0.1 * torch.eye(8).view(8, 8, 1, 1)
    harmless.weight.data[:, :, 0, 0][torch.arange(8), torch.arange(8)] = 1.0
    model = to_onnx(nn.Sequential(risky, harmless), (16, 6, 6))
    harmful_name, harmless_name = (node.output[0] for node in model.graph.node)
    x = np.random.default_rng(1).normal(1, 1, size=(2, 16, 6, 6)).astype(np.float32)
    quantized = quantize_without_saturation(model, x)
    assert find_saturating_layers(quantize_dynamic_int8(model).model, x) == {harmful_name}
    assert {layer.name: layer.saturation_safe for layer in quantized.layers} == {harmful_name: True, harmless_name: False}
    assert not find_saturating_layers(quantized.model, x)


def test_an_image_alone_does_not_depend_on_the_batch_dimension(everything):
    model = quantize_dynamic_int8(everything).model
    same = np.repeat(PICTURES[:1], 3, axis=0)
    np.testing.assert_allclose(run(model, same), np.repeat(run(model, PICTURES[:1]), 3, axis=0), rtol=1e-5, atol=1e-6)


def test_an_output_in_the_middle_of_the_rows_keeps_its_layout():
    layer = nn.Sequential(nn.Conv2d(16, 8, 3), nn.ReLU())
    model = to_onnx(layer, (16, 6, 6))
    x = np.random.default_rng(1).normal(size=(2, 16, 6, 6)).astype(np.float32)
    quantized = quantize_without_saturation(model, x).model
    assert [output.name for output in quantized.graph.output] == ["y"]
    assert sqnr(run(model, x), run(quantized, x)) > 35


def test_older_operator_sets_are_brought_up_to_date():
    model = onnx.version_converter.convert_version(to_onnx(nn.Sequential(nn.Conv2d(16, 16, 3), nn.MaxPool2d(2)), (16, 8, 8)), 15)
    x = np.random.default_rng(1).normal(size=(1, 16, 8, 8)).astype(np.float32)
    quantized = quantize_without_saturation(model, x).model
    assert sqnr(run(model, x), run(quantized, x)) > 35


def test_models_that_cannot_be_quantized_are_refused(everything):
    with pytest.raises(ExportError, match=r"quantized already \(it has MatMulInteger\)"):
        quantize_dynamic_int8(quantize_dynamic_int8(everything).model)
    with pytest.raises(ExportError, match="no convolution and no linear layer"):
        quantize_dynamic_int8(to_onnx(nn.ReLU(), (3, 4, 4)))
    with pytest.raises(ExportError, match="nothing to quantize: 3 input channels"):
        quantize_dynamic_int8(to_onnx(nn.Conv2d(3, 4, 3), (3, 8, 8)))


def test_a_file_that_onnx_runtime_has_written_for_one_processor_is_refused_for_that(everything):
    blocked = onnx.ModelProto()
    blocked.CopyFrom(everything)
    blocked.graph.node[0].domain = "com.microsoft.nchwc"
    with pytest.raises(ExportError, match=r"optimised the model for one kind of processor .*com.microsoft.nchwc.*; fix: give the file"):
        quantize_dynamic_int8(blocked)
