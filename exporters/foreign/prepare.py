"""One room for whoever works on anybody's ONNX file: the graph made plain, and held against the file that the user gave."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
import onnx
import onnx_ir as ir
from onnx_ir.passes import common
from onnxscript import optimizer
from onnxscript.rewriter import RewritePass
from onnxscript.rewriter.rules import common as common_rules

from edgeresnet.errors import EdgeResNetError, ExportError
from exporters.foreign.inputs import ImageTensor, bind_inputs, set_batch
from exporters.foreign.notation import graphs_in, normalize
from exporters.foreign.opset import raise_opset
from exporters.foreign.precision import is_half, widen
from exporters.foreign.reading import read_model
from exporters.int8.layout import add_initializer
from exporters.parts import find_parts
from exporters.probes import Probe, generate_probes
from exporters.proof import Answers, collect_answers, compare_answers
from exporters.sessions import open_session, run_session
from exporters.strides import skip_needless_strides

# Folding constants and fusing BatchNorm change the order of float32 sums, which is noise 100 dB below a result and more; units that
# are small differences of large values have less. Float16 rounds every result by itself, with 66 dB.
SAME_DB: Final = 55.0
SAME_HALF_DB: Final = 30.0
CHECK_IMAGES: Final = 2
# Operators that may answer differently each time.
RANDOM: Final = frozenset({"Bernoulli", "Dropout", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"})
# Weights of any size are folded: by default the optimizer leaves larger ones to be computed in every run.
_FOLDED_VALUES: Final = 1 << 30
_FOLDED_ZEROS: Final = 1 << 10
_FOLDING_ROUNDS: Final = 8


@dataclass(frozen=True, kw_only=True)
class PreparedModel:
    """A model whose graph is plain, and what it was made from.

    Attributes:
        path: The user's file.
        model: Same inputs, outputs and answers as ``source``; self-contained, at least opset 18, float32 inside, its shapes as they are.
            Constants are initializers, nothing is a function, and no initializer is an input.
        source: The user's graph itself as one file, with image size and other inputs bound and nothing else changed: what proofs
            compare with.
        image_input: What takes the images.
        outputs: Names of the outputs.
        half: Whether the user's file computes in float16.
    """

    path: Path
    model: onnx.ModelProto
    source: bytes
    image_input: ImageTensor
    outputs: tuple[str, ...]
    half: bool


def prepare(
    path: Path, *, size: tuple[int, int] | None = None, fixed: Mapping[str, str | float] | None = None, open_batch: bool = False
) -> PreparedModel:
    """Read anybody's ONNX file and make its graph plain, with the same answers: that is checked on generated images.

    Args:
        path: The model, with the files that it keeps tensors in beside it.
        size: Height and width of the images, for a model that leaves them open.
        fixed: Value of each input that is not the images.
        open_batch: Let the model take any number of images though it declares one, if it answers several as it answers each.

    Raises:
        ModelNotFoundError: If there is no such file, or a side file is missing.
        ModelFormatError: If it is not an ONNX model.
        ExportError: If it has no image input, a size or an input is open, or it cannot be made plain with the same answers.
    """
    source = read_model(path)
    try:
        image = bind_inputs(source, size=size, fixed=fixed or {})
        if open_batch and image.batch is not None:
            source, image = _open_batch(source, image)
        image = _find_batch(source, image)
        probes = generate_probes(image, CHECK_IMAGES * (image.batch or 1))
        original = _collect_original(source, image, probes)
        model = _make_plain(source)
        _name_ranks(model, original)
        _learn_shapes(model, image, probes)
        _check_same(original, model, image, probes, SAME_HALF_DB if is_half(source) else SAME_DB)
    except EdgeResNetError as error:
        raise type(error)(f"{path}: {error}") from error
    return PreparedModel(
        path=path,
        model=model,
        source=source.SerializeToString(),
        image_input=image,
        outputs=tuple(output.name for output in model.graph.output),
        half=is_half(source),
    )


def _find_batch(source: onnx.ModelProto, image: ImageTensor) -> ImageTensor:
    """An open batch may be an empty promise: with a Reshape to one image inside, only one can be run, and that is then its batch."""
    session = open_session(source.SerializeToString())
    if image.batch is not None:
        run_session(session, {image.name: generate_probes(image, image.batch)[0].calls[0]})
        return image
    single, *_, several = generate_probes(image, 4)[0].calls
    one = run_session(session, {image.name: single})
    try:
        three = run_session(session, {image.name: several})
    except ExportError:
        three = one
    # One whose answers have the same shape for three images mixes them up.
    if any(one[name].shape != three[name].shape for name in one):
        return image
    set_batch(source, image, 1)
    return replace(image, batch=1)


def _open_batch(source: onnx.ModelProto, image: ImageTensor) -> tuple[onnx.ModelProto, ImageTensor]:
    """The model with an open batch, if that is more than an empty promise; else as it is."""
    opened, wanted = onnx.ModelProto(), replace(image, batch=None)
    opened.CopyFrom(source)
    set_batch(opened, wanted, None)
    for value in (*opened.graph.output, *opened.graph.value_info):
        value.type.tensor_type.ClearField("shape")
    images = np.concatenate(generate_probes(image, 3 * (image.batch or 1))[0].calls)
    try:
        session = open_session(opened.SerializeToString())
        together = run_session(session, {image.name: images})
        apart = [run_session(session, {image.name: images[i : i + 1]}) for i in range(len(images))]
    except ExportError:
        return source, image
    for name, answer in together.items():
        single = np.concatenate([answers[name] for answers in apart]) if answer.ndim else answer
        if single.shape != answer.shape or not np.allclose(single, answer, rtol=1e-4, atol=1e-4 * float(np.abs(answer).max())):
            return source, image
    return opened, wanted


def _collect_original(source: onnx.ModelProto, image: ImageTensor, probes: tuple[Probe, ...]) -> Answers:
    """What the user's model answers, if that is something to hold other models against."""
    names = [output.name for output in source.graph.output]
    if len(set(names)) < len(names):
        raise ExportError(f"two outputs of the model have the same name, {max(names, key=names.count)}")
    if passed := set(names) & {value.name for value in source.graph.input}:
        raise ExportError(f"the output {passed.pop()} is an input of the model, which ONNX does not allow; fix: take it from the outputs")
    content = source.SerializeToString()
    original = collect_answers(content, image.name, probes)
    operators = {node.op_type for graph in graphs_in(source.graph) for node in graph.node}
    if chance := sorted(operators & RANDOM):
        session, call = open_session(content), {image.name: probes[0].calls[0]}
        first, second = (run_session(session, call) for _ in range(2))
        if any(not np.array_equal(first[name], second[name]) for name in first):
            raise ExportError(f"the model answers the same images differently from call to call (it has {', '.join(chance)})")
    if silent := [output for output in compare_answers(original, original, probes).outputs if output.problem]:
        raise ExportError(f"the output {silent[0].output} {silent[0].problem}, on {silent[0].images}")
    return original


def _name_ranks(model: onnx.ModelProto, original: Answers) -> None:
    """Outputs behind operators that onnx infers no shape for still have a number of dimensions, which its checker asks for."""
    for output in model.graph.output:
        answer = original[0][0].get(output.name)
        if answer is not None and output.type.HasField("tensor_type") and not output.type.tensor_type.HasField("shape"):
            output.type.CopyFrom(onnx.helper.make_tensor_type_proto(output.type.tensor_type.elem_type, [None] * answer.ndim))


def _learn_shapes(model: onnx.ModelProto, image: ImageTensor, probes: tuple[Probe, ...]) -> None:
    """Shapes behind operators that onnx infers none for, such as those of ONNX Runtime alone, are what runs: but for the batch."""
    known = {value.name for value in (*model.graph.value_info, *model.graph.output) if value.type.tensor_type.HasField("shape")}
    unknown = [name for node in model.graph.node for name in node.output if name and name not in known]
    if not unknown:
        return
    shown = onnx.ModelProto()
    shown.CopyFrom(model)
    shown.graph.output.extend(onnx.ValueInfoProto(name=name) for name in unknown)
    calls = [probe.calls[0] for probe in probes] + ([np.repeat(probes[0].calls[0], 3, axis=0)] if image.batch is None else [])
    try:
        session = open_session(shown.SerializeToString(), fused=False)
        runs = [run_session(session, {image.name: call}) for call in calls]
    except ExportError:
        return  # something in it is no tensor
    del model.graph.value_info[:]
    for name in unknown:
        answers = [found[name] for found in runs if name in found and found[name].dtype == np.float32 and found[name].ndim > 0]
        shapes = {answer.shape[1:] for answer in answers}
        if len(answers) == len(runs) and len(shapes) == 1 and 0 not in min(shapes):
            model.graph.value_info.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [None, *shapes.pop()]))
    model.CopyFrom(onnx.shape_inference.infer_shapes(model, data_prop=True))


def _make_plain(source: onnx.ModelProto) -> onnx.ModelProto:
    try:
        plain = ir.from_proto(normalize(source))
        _forget_shapes(plain)
        common.InlinePass()(plain)
        common.RemoveInitializersFromInputsPass()(plain)
        common.TopologicalSortPass()(plain)
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(plain)
        if is_half(source):
            widen(plain)
        raised = raise_opset(ir.to_proto(plain))
        result = _fuse_hard_swish(_fold(raised))
        del result.metadata_props[:]
        result.metadata_props.extend(source.metadata_props)
    except EdgeResNetError:
        raise
    # The passes of onnx-ir and onnxscript raise what their parts raise.
    except Exception as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ExportError(f"the model's graph cannot be made plain ({reason})") from error
    return result


def _fold(model: onnx.ModelProto) -> onnx.ModelProto:
    """Fold what is constant, and what becomes constant as shapes become known by that, until there is no more."""
    model = onnx.shape_inference.infer_shapes(model, data_prop=True)
    for _ in range(_FOLDING_ROUNDS):
        count = len(model.graph.node)
        folded = ir.from_proto(model)
        _fold_known_sizes(folded)
        skip_needless_strides(folded)
        optimizer.optimize_ir(folded, input_size_limit=_FOLDED_VALUES, output_size_limit=_FOLDED_VALUES, should_fold=_should_fold)
        common.RemoveUnusedNodesPass()(folded)
        common.RemoveUnusedOpsetsPass()(folded)
        common.ClearMetadataAndDocStringPass()(folded)
        model = onnx.shape_inference.infer_shapes(ir.to_proto(folded), data_prop=True)
        if len(model.graph.node) == count:
            break
    return model


def _fold_known_sizes(model: ir.Model) -> None:
    """A size that is taken out of a shape is constant though the shape's batch is open, which the optimizer only sees in some forms."""
    for node in list(model.graph):
        producer = node.inputs[0].producer() if node.op_type == "Gather" and node.inputs[0] is not None else None
        if producer is None or producer.op_type != "Shape" or producer.inputs[0] is None or node.inputs[1] is None:
            continue
        shape, indices = producer.inputs[0].shape, ir.convenience.get_const_tensor(node.inputs[1])
        if shape is None or indices is None or node.outputs[0].is_graph_output():
            continue
        seen, numbers = list(shape)[producer.attributes.get_int("start", 0) : producer.attributes.get_int("end", None)], indices.numpy()
        sizes = [seen[int(index)] for index in numbers.ravel()]
        if all(isinstance(size, int) for size in sizes):
            value = np.array(sizes, np.int64).reshape(numbers.shape)
            name = f"{node.outputs[0].name}_known"
            node.outputs[0].replace_all_uses_with(add_initializer(model.graph, value, name))


def _fuse_hard_swish(model: onnx.ModelProto) -> onnx.ModelProto:
    """One operator for what PaddlePaddle writes as four: of a detector with 94 of them they took 60 of 204 ms, and take half of that."""
    fused = ir.from_proto(model)
    RewritePass(common_rules.fuse_hardswish_rules())(fused)
    common.RemoveUnusedNodesPass()(fused)
    return onnx.shape_inference.infer_shapes(ir.to_proto(fused), data_prop=True)


def _should_fold(node: ir.Node) -> bool | None:
    """PyTorch's older exporter computes pads with a ConstantOfShape, which the optimizer leaves as it can be large."""
    if node.op_type != "ConstantOfShape":
        return None
    shape = ir.convenience.get_const_tensor(node.inputs[0]) if node.inputs[0] is not None else None
    return shape is not None and int(shape.numpy().prod()) <= _FOLDED_ZEROS


def _forget_shapes(model: ir.Model) -> None:
    """Shapes in a file can be out of date, which ONNX Runtime tolerates; they follow from those of the inputs."""
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        for value in node.outputs:
            value.shape = None


def _check_same(original: Answers, model: onnx.ModelProto, image: ImageTensor, probes: tuple[Probe, ...], least_db: float) -> None:
    parts = find_parts(model, image.height, image.width)
    proof = compare_answers(original, collect_answers(model.SerializeToString(), image.name, probes), probes, parts)
    if not proof.sqnr_db >= least_db:
        raise ExportError(f"the model's graph could not be made plain without changing its answers ({proof.worst})")
