"""What a model answers here, for other machines to be held against."""

from typing import Final

import numpy as np

from edgeresnet.evaluation import synthetic_images
from edgeresnet.session import Session, to_logits
from edgeresnet.spec import INPUT_NAME, ModelSpec
from edgeresnet.verification import GoldenAnswers, closeness_db
from exporters.sessions import open_session

IMAGES: Final = 4
SEED: Final = 17
# What a file may carry for this; of a network with thousands of classes fewer images fit.
MAX_BYTES: Final = 100_000
# Closeness in dB that a precision allows for between processors. A CIFAR ResNet-18 on AVX2, Cortex-A72 and -A76 against AVX512-VNNI, on
# the worst of eight images: fp32 130; fp16 124 and, in real half precision on the A76, 42; int8 50; int8-static 43; int8-stock 143.
LEAST_DB: Final = {"fp32": 80.0, "fp16": 30.0, "int8": 35.0, "int8-static": 30.0, "int8-stock": 40.0}
# Deeper or narrower networks differ more: the same file, computed node by node instead of fused, shows by how much.
MARGIN_DB: Final = 6.0


def take_answers(content: bytes, spec: ModelSpec) -> GoldenAnswers:
    """Choose images, run a model on them, and find out how exactly another machine can be expected to answer.

    Args:
        content: The ONNX file, with its description.
        spec: That description.
    """
    images = synthetic_images(spec.input, IMAGES, seed=SEED)
    session = Session(content)
    logits = session.logits(images)
    unfused = open_session(content, fused=False)
    calls = [np.repeat(image[None], session.fixed_batch or 1, axis=0) for image in images]
    outputs = np.concatenate([unfused.run(None, {INPUT_NAME: call})[0][:1] for call in calls])
    session.close()
    least_db = min(LEAST_DB[spec.precision], closeness_db(logits, to_logits(outputs, spec)) - MARGIN_DB)
    for count in range(IMAGES, 1, -1):
        answers = GoldenAnswers(images=images[:count], logits=logits[:count], least_db=least_db)
        if sum(map(len, answers.to_metadata().values())) <= MAX_BYTES:
            return answers
    return GoldenAnswers(images=images[:1], logits=logits[:1], least_db=least_db)
