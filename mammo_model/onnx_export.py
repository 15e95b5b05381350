"""The network as ONNX, for programs without Keras; its answers are checked against Keras' own.

Needs the extra `onnx`: tf2onnx, by which Keras exports, and onnxruntime.
"""

from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mammo_etl.places import Place
from mammo_etl.workspace import replacing
from mammo_model import backend

TOLERANCE = 1e-4
"""Largest difference of a probability that rounding explains: both compute in float32, and add in another order."""


class ExportError(Exception):
    """An export that does not answer as the model does."""


def can_export() -> bool:
    """Whether the extra is installed, and Keras runs on TensorFlow, whose graph the converter reads."""
    return backend.on_tensorflow() and find_spec("tf2onnx") is not None and find_spec("onnxruntime") is not None


def export_onnx(model: Any, path: Place, patches: NDArray[Any]) -> float:
    """Writes the model as ONNX; the largest difference of its probabilities for `patches`, (n, size, size, 1), from Keras'.

    The batch may be of any length. Raises ExportError, and writes nothing, if the difference is above TOLERANCE.
    """
    import onnxruntime

    # Keras exports only what has answered once.
    ours = np.asarray(model.predict_on_batch(patches))
    with replacing(path) as temporary:
        model.export(temporary, format="onnx", verbose=False)
        session = onnxruntime.InferenceSession(temporary, providers=["CPUExecutionProvider"])
        (theirs,) = session.run(None, {session.get_inputs()[0].name: patches})
        difference = float(np.abs(theirs - ours).max())
        if not difference <= TOLERANCE:
            raise ExportError(f"{path.name}: its probabilities differ from the model's by up to {difference:.2g}")
    return difference
