"""What a foreign model tells of itself as a classifier: its scores, what they are, and the names of its classes."""

import ast
import json
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray

from edgeresnet.errors import ExportError
from edgeresnet.spec import LOGITS, PROBABILITIES

# A row of probabilities in float16 adds up to 1 within this.
SUM_TOLERANCE: Final = 2e-3
# Entries under which others keep class names: Ultralytics' `names`, PaddlePaddle's `character`.
LABEL_KEYS: Final = ("labels", "names", "classes", "character")
_PASSING_ON: Final = ("Cast", "Identity", "Reshape", "Flatten", "Squeeze")


def read_scores(answers: dict[str, NDArray[Any]], count: int) -> NDArray[np.float32]:
    """The outputs of a call with ``count`` images as one row of scores for each: float32 (count, classes).

    Raises:
        ExportError: If they are something else.
    """
    if len(answers) > 1:
        described = ", ".join(f"{name} {value.shape}" for name, value in answers.items())
        raise ExportError(f"the model has {len(answers)} outputs ({described}); a classifier has one")
    ((name, answer),) = answers.items()
    if answer.dtype.kind != "f":
        raise ExportError(f"the output {name} is {answer.dtype}: class numbers, or something else than a score for each class")
    if answer.ndim < 2 or answer.shape[0] != count or answer.size != count * answer.shape[1] or answer.shape[1] < 2:
        raise ExportError(f"the output {name} has the shape {answer.shape} for {count} image(s), not a score for each of several classes")
    return answer.reshape(count, -1).astype(np.float32)


def judge_output(model: onnx.ModelProto, answers: NDArray[np.float32]) -> str:
    """Whether a model answers in ``logits`` or in ``probabilities``, by what it answers to images: float32 (N, classes).

    Raises:
        ExportError: If in neither.
    """
    if not np.isfinite(answers).all():
        raise ExportError("the answers to generated images are not all numbers; fix: check --mean, --std and --pixel-range")
    if (answers >= 0).all() and np.abs(answers.sum(1) - 1).max() <= SUM_TOLERANCE:
        return PROBABILITIES
    last = _last_operator(model)
    if last == "Softmax":
        raise ExportError("the model ends in a Softmax whose values do not add up to 1 over the classes, so it does not classify images")
    if last == "Sigmoid":
        raise ExportError("the model ends in a Sigmoid: it says of each class apart whether it is there, and does not choose one")
    return LOGITS


def name_classes(model: onnx.ModelProto, classes: int, given: tuple[str, ...] | None) -> tuple[tuple[str, ...], str]:
    """Names of the classes, and where they come from as a phrase: those given, those that the file carries, or numbers.

    Raises:
        ExportError: If those given are not as many as the model has classes.
    """
    if given is not None:
        if len(given) != classes:
            raise ExportError(f"--labels names {len(given):,} classes, the model's output has {classes:,}")
        return given, "--labels"
    for entry in model.metadata_props:
        names = _parse_labels(entry.value) if entry.key in LABEL_KEYS else ()
        if len(set(names)) == len(names) == classes:
            return names, f"the file's entry {entry.key!r}"
    return tuple(f"class {i}" for i in range(classes)), "nowhere: they are numbered (--labels names them)"


def _last_operator(model: onnx.ModelProto) -> str:
    """The operator that computes the output, before what only passes it on."""
    producers = {name: node for node in model.graph.node for name in node.output}
    node = producers.get(model.graph.output[0].name)
    while node is not None and node.op_type in _PASSING_ON:
        node = producers.get(node.input[0])
    return node.op_type if node is not None else ""


def _parse_labels(text: str) -> tuple[str, ...]:
    """Class names as others write them: JSON or a Python literal of a list or of a dictionary by number, or a name a line."""
    for parse in (json.loads, ast.literal_eval):
        try:
            found = parse(text)
            if isinstance(found, dict):
                return tuple(str(name) for _, name in sorted(found.items(), key=lambda item: int(item[0])))
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            continue
        if isinstance(found, list | tuple):
            return tuple(map(str, found))
    return tuple(line.strip() for line in text.strip().splitlines())
