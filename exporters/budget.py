"""The largest set of layers that may be INT8 within a budget of error."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import onnx
from numpy.typing import NDArray

from edgeresnet.datasets import LabelledImages
from edgeresnet.errors import ExportError
from edgeresnet.evaluation import collect_logits, match_classes, measure
from edgeresnet.progress import Track, silent
from edgeresnet.session import Session
from edgeresnet.spec import PREFIX, Accuracy, ModelSpec
from edgeresnet.suggestions import did_you_mean
from exporters.foreign.prepare import PreparedModel
from exporters.int8.quantize import LayerChoice, QuantizedModel
from exporters.int8.sensitivity import LayerEmitter, Sensitivity
from exporters.metadata import seal, stamp, tool_versions
from exporters.parts import find_parts
from exporters.probes import Probe
from exporters.proof import Proof, collect_answers, compare_answers, find_hardest
from exporters.varying import VaryingOutputs


@dataclass(frozen=True, kw_only=True)
class Budget:
    """How far a quantized model may be from its original.

    Attributes:
        least_db: SQNR that every unit of every output must reach.
        test: Labelled images, for a classifier of this project.
        max_drop: Largest loss of top-1 on them, in percentage points.
    """

    least_db: float
    test: LabelledImages | None = None
    max_drop: float | None = None


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A quantized model and what is known of it.

    Attributes:
        quantized: The model.
        content: A file that runs it; ``Search.finish`` gives the one to write.
        proof: How close its answers are.
        hardest: Calls on which its worst output is furthest off, each by itself.
        accuracy: Top-1, where the budget has labelled images.
    """

    quantized: QuantizedModel
    content: bytes
    proof: Proof
    hardest: tuple[Probe, ...]
    accuracy: Accuracy | None


class Form(Protocol):
    """A way to put a model into INT8, which knows the model."""

    @property
    def precision(self) -> str:
        """One of ``PRECISIONS``."""

    @property
    def model(self) -> onnx.ModelProto:
        """The FP32 model whose layers it names."""

    def quantize(self, left: Mapping[str, str]) -> QuantizedModel:
        """All layers but those named in INT8."""

    def emitter(self, layers: Sequence[LayerChoice]) -> LayerEmitter:
        """Puts the INT8 form of one of these layers beside it."""

    def time_layers(self, quantized: QuantizedModel, feeds: Mapping[str, NDArray[Any]]) -> dict[str, float]:
        """Milliseconds of each layer in INT8."""


class Original:
    """The user's model and what it answers, measured once for all forms that are held against it.

    Args:
        prepared: The model.
        probes: Images that forms of it are judged on.
        budget: How.
        track: Progress reporter.

    Raises:
        ExportError: If it is no classifier of this project and the budget has labelled images.
    """

    def __init__(self, prepared: PreparedModel, probes: tuple[Probe, ...], budget: Budget, track: Track = silent) -> None:
        self.prepared, self.probes, self.budget, self._track = prepared, probes, budget, track
        self.image = prepared.image_input.name
        self.spec = _read_spec(prepared)
        self.varying = VaryingOutputs.of(prepared.model)
        self.answers = self.varying.replace(
            collect_answers(prepared.source, self.image, probes),
            self.varying.collect(prepared.model, self.image, probes),
        )
        self.parts = find_parts(prepared.model, prepared.image_input.height, prepared.image_input.width)
        self.accuracy = self.measure_accuracy(prepared.source)

    def measure_accuracy(self, content: bytes) -> Accuracy | None:
        """Top-1 of a file on the budget's labelled images, if it has any."""
        test = self.budget.test
        if test is None:
            return None
        if self.spec is None:
            raise ExportError("--data and --max-drop are for classifiers with this project's metadata, and the model has none")
        test = match_classes(test, self.spec.labels)
        session = Session(content)
        logits = collect_logits(session, test.images, "measuring top-1", self._track)
        session.close()
        return measure(logits, test)


class Search:
    """Makes quantized models in one form and judges them.

    Args:
        original: The model.
        make_form: The form of that model, given the layers that stay in FP32 in any case, each with the reason.
        excluded: Layers that the user wants in FP32, by label or name.
        track: Progress reporter.

    Raises:
        ExportError: If nothing of it can be quantized, or a layer that is to be excluded is not there.
    """

    def __init__(
        self,
        original: Original,
        make_form: Callable[[Mapping[str, str]], Form],
        excluded: Sequence[str] = (),
        track: Track = silent,
    ) -> None:
        self.original, self._track = original, track
        self._left = dict.fromkeys(sorted(original.varying.behind), "behind what decides the size of an output: cannot be compared")
        self.form = make_form(self._left)
        self._left |= self._find_layers(excluded)

    def quantize(self, left: Mapping[str, str]) -> QuantizedModel:
        """All layers but those named in INT8.

        Raises:
            ExportError: If that leaves none.
        """
        return self.form.quantize(self._left | dict(left))

    def _find_layers(self, excluded: Sequence[str]) -> dict[str, str]:
        """Names of the layers that the user wants in FP32, each with that as the reason."""
        found: dict[str, str] = {}
        layers = self.form.quantize(self._left).layers if excluded else ()
        for name in excluded:
            named = [layer.name for layer in layers if name in (layer.label, layer.name, layer.weights_name)]
            if not named:
                raise ExportError(f"no layer with weights is called {name!r}{did_you_mean(name, [layer.label for layer in layers])}")
            found |= dict.fromkeys(named, "asked for")
        return found

    def judge(self, quantized: QuantizedModel) -> Candidate:
        """Run a quantized model on all images."""
        original, content = self.original, self._describe(quantized)
        deciding = original.varying.collect(quantized.model, original.image, original.probes)
        answers = original.varying.replace(collect_answers(content, original.image, original.probes), deciding)
        proof = compare_answers(original.answers, answers, original.probes, original.parts)
        return Candidate(
            quantized=quantized,
            content=content,
            proof=proof,
            hardest=find_hardest(original.answers, answers, original.probes, proof.worst),
            accuracy=original.measure_accuracy(content),
        )

    def complaint(self, candidate: Candidate) -> str:
        """Why a model is not within the budget; empty if it is."""
        proof, budget, before = candidate.proof, self.original.budget, self.original.accuracy
        if proof.worst.problem:
            return f"the output {proof.worst.output} {proof.worst.problem}, on {proof.worst.images}"
        if not proof.sqnr_db >= budget.least_db:
            return (
                f"the quantized outputs are {proof.sqnr_db:.1f} dB from the original's ({proof.worst}), "
                f"at least {budget.least_db:g} dB are needed"
            )
        if budget.max_drop is not None and candidate.accuracy is not None and before is not None:
            drop = 100 * (before.top1 - candidate.accuracy.top1)
            if drop > budget.max_drop:
                falls = f"{before.top1:.2%} to {candidate.accuracy.top1:.2%}"
                return f"top-1 falls from {falls}, by more than {budget.max_drop:g} points"
        return ""

    def find_largest(self, left: Mapping[str, str]) -> Candidate:
        """The model with the most layers in INT8 that is within the budget, when the most harmful ones are left in FP32 first.

        Harm is what a layer alone does to the outputs on the calls that they are furthest off on, measured for all layers in one session;
        how many must stay is then found by halving, with the whole proof for each try.

        Args:
            left: Layers that stay in FP32 in any case, each with the reason.

        Raises:
            ExportError: If not even the least harmful layer alone is within the budget.
        """
        first = self.judge(self.quantize(left))
        complaint = self.complaint(first)
        if not complaint:
            return first
        harm = self.sensitivity(first.quantized, first.hardest).contributions(self._track)
        # Layers that share their weights stay together.
        order = sorted(first.quantized.sharing(), key=lambda group: min(harm[name] for name in group))
        best, too_few, enough = None, 0, len(order)
        while enough - too_few > 1:
            count = (too_few + enough) // 2
            more = {name: f"costs too much: {harm[name]:.1f} dB by itself" for group in order[:count] for name in group}
            candidate = self.judge(self.quantize(dict(left) | more))
            if self.complaint(candidate):
                too_few = count
            else:
                best, enough = candidate, count
        if best is None:
            raise ExportError(
                f"{complaint}, which no layer alone leaves them; nothing was written; fix: accept that with --min-db"
                + (
                    ", or measure on images such as the model is for, with --images"
                    if any(probe.generated for probe in self.original.probes)
                    else ""
                )
            )
        return best

    def sensitivity(self, quantized: QuantizedModel, probes: Sequence[Probe] = ()) -> Sensitivity:
        """What each layer of a quantized model contributes to its error, on all kinds of images or on those given."""
        names = [layer.name for layer in quantized.layers if layer.quantized]
        return Sensitivity(
            self.form.model,
            names,
            self.form.emitter(quantized.layers),
            self.original.image,
            probes or self.original.probes,
            self.original.parts,
        )

    def finish(self, candidate: Candidate) -> bytes:
        """The file as it is written; a classifier of this project carries what it answers here."""
        spec = self.original.spec
        return candidate.content if spec is None else seal(candidate.quantized.model, self._update(spec, candidate.accuracy))

    def _describe(self, quantized: QuantizedModel) -> bytes:
        """A file that runs, with the metadata that the model had; this project's is brought up to date."""
        spec = self.original.spec
        if spec is None:
            content: bytes = quantized.model.SerializeToString(deterministic=True)
            return content
        return stamp(quantized.model, self._update(spec, None))

    def _update(self, spec: ModelSpec, accuracy: Accuracy | None) -> ModelSpec:
        return replace(spec, precision=self.form.precision, accuracy=accuracy, versions=tool_versions())


def _read_spec(prepared: PreparedModel) -> ModelSpec | None:
    metadata = {entry.key: entry.value for entry in prepared.model.metadata_props}
    return ModelSpec.from_metadata(metadata) if PREFIX + "format_version" in metadata else None
