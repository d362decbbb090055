"""A Keras configuration and its weights → cgru's layers, or a graph. Keras itself is not needed.

One table, :data:`BUILDERS`, says which classes cgru runs; a class that is not in it is refused by its name. Every
setting of a layer is used, or stands on a short list of those that mean nothing at inference; any other one is
refused, so nothing a file says is silently left out.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np

from ...builder import Graph
from ...errors import FormatError, UnsupportedError
from ...layers import Embedding, Layer, Masking, Recurrent
from . import keras_einsum as einsum
from . import keras_joins as joins
from . import keras_pointwise as pointwise
from . import keras_recurrent as recurrent
from . import keras_shapes as shapes
from . import keras_windows as windows
from .keras_draft import Step
from .keras_graph import Entry, entry
from .keras_network import MODELS, Builder, Network, graph, nested, network
from .keras_settings import Build, Settings
from .keras_weights import GroupedWeights, PathWeights, Weights


def from_config(config: Any, weights: Weights, version: str) -> list[Layer] | Graph:
    """The model that ``config`` (parsed JSON) describes: its layers where it is a chain of cgru's own, else a graph."""
    item = entry(config, "the model's configuration")
    if item.class_name not in MODELS:
        raise UnsupportedError(f"{item.where}: only Sequential and Functional models are read, not subclassed ones")
    made = network(item, weights, Build(version), BUILDERS, unsupported)
    layers = made.chain()
    weights.check_all_used()
    if layers is None:
        return graph(made)
    if not layers:
        raise UnsupportedError(f"{item.where}: none of its layers does anything at inference")
    _check_masks(layers, made)
    return layers


def _check_masks(layers: list[Layer], made: Network) -> None:
    masked = False
    softmax = {id(layer) for layer in made.softmaxes()}
    for layer in layers:
        if isinstance(layer, Masking) or (isinstance(layer, Embedding) and layer.mask_zero):
            if masked:
                raise UnsupportedError(f"layer {layer.name!r}: makes a second mask, which in Keras replaces the first")
            masked = True
        elif isinstance(layer, Recurrent):
            masked = masked and layer.return_sequences
        elif masked and id(layer) in softmax:
            raise UnsupportedError(
                f"layer {layer.name!r} (Softmax): applies the mask that reaches it; use Dense(activation='softmax')"
            )


def from_model(model: Any) -> list[Layer] | Graph:
    """A live ``keras.Model``, Sequential or Functional, weights copied."""
    if not hasattr(model, "to_json") or not hasattr(model, "layers"):
        raise UnsupportedError(f"expected a keras.Model, found a {type(model).__name__}")
    packages = (kind.__module__.partition(".")[0] for kind in type(model).__mro__)
    package = sys.modules.get(next((name for name in packages if name in ("keras", "tf_keras", "keras_core")), ""))
    groups = {}
    for layer in model.layers:
        held = [*layer.trainable_weights, *layer.non_trainable_weights]
        groups[layer.name] = [(getattr(weight, "path", weight.name), _widened(weight.numpy())) for weight in held]
    return from_config(json.loads(model.to_json()), GroupedWeights(groups), getattr(package, "__version__", "3.0"))


def _widened(array: np.ndarray) -> np.ndarray:
    """numpy has no bfloat16; the type that stands in for it casts exactly."""
    return array.astype(np.float32) if array.dtype.name == "bfloat16" else array


def unsupported(item: Entry) -> UnsupportedError:
    """What to say of a class that is not in the table."""
    advice = REFUSED.get(item.class_name)
    if advice is not None:
        return UnsupportedError(f"{item.where}: cgru does not run this class; {advice}")
    return UnsupportedError(f"{item.where}: cgru does not run this class; it runs {', '.join(sorted(BUILDERS))}")


def _input(item: Entry, weights: Weights, build: Build) -> Step:
    for key in ("sparse", "ragged"):
        if item.config.get(key):
            raise UnsupportedError(f"{item.where}: {key} inputs are not read")
    return Step([])


def _model(item: Entry, weights: Weights, build: Build) -> Step:
    return nested(network(item, weights, build, BUILDERS, unsupported))


def _time_distributed(item: Entry, weights: Weights, build: Build) -> Step:
    return shapes.time_distributed(item, weights, build, BUILDERS, _AT_EACH)


def _spectral_normalization(item: Entry, weights: Weights, build: Build) -> Step:
    """The layer inside as it is: training divided its kernel by the largest singular value (Miyato et al. 2018)."""
    settings = Settings(item)
    inner = entry(settings.value("layer"), item.where)
    settings.value("power_iterations", None)
    settings.finish()
    if inner.class_name not in _NORMALIZED:
        raise UnsupportedError(f"{item.where}: wraps a {inner.class_name}; {', '.join(_NORMALIZED)} are run there")
    step = BUILDERS[inner.class_name](inner, weights.part("layer", inner.name), build)
    if isinstance(weights, PathWeights):  # the kernel is the wrapper's as well, and stands in the file twice
        (kernel, _), name = weights.take(["kernel", "vector_u"], item.where), f"{weights.path}/layer/vars/0"
        if not np.array_equal(kernel, weights.tensors[name], equal_nan=True):
            raise FormatError(f"{item.where}: its kernel is another than that of the layer inside, {name!r}")
    else:
        weights.take(["vector_u"], item.where)
    return step if step.layers is None else Step([layer.renamed(item.name) for layer in step.layers])


#: Classes that SpectralNormalization may wrap.
_NORMALIZED = ("Conv1D", "Conv2D", "Dense", "Embedding")

#: Classes that look at the last axis, or at each number, whatever axes lie before it.
_AT_EACH = (
    "Dense", "Activation", "ReLU", "LeakyReLU", "ELU", "Dropout", "AlphaDropout", "GaussianNoise", "GaussianDropout",
    "LayerNormalization", "BatchNormalization", "Rescaling",
)  # fmt: skip

#: Every class that is read, and what makes layers or nodes of it.
BUILDERS: dict[str, Builder] = {
    "Activation": pointwise.activation,
    "ActivityRegularization": pointwise.ignored,
    "Add": joins.merge("add"),
    "AdditiveAttention": joins.attention,
    "AlphaDropout": pointwise.ignored,
    "Attention": joins.attention,
    "Average": joins.merge("average"),
    "AveragePooling1D": windows.pooling("average", 1),
    "AveragePooling2D": windows.pooling("average", 2),
    "BatchNormalization": pointwise.batch_normalization,
    "Bidirectional": recurrent.bidirectional,
    "Concatenate": joins.concatenate,
    "Conv1D": windows.conv(1),
    "Conv1DTranspose": windows.conv_transpose,
    "Conv2D": windows.conv(2),
    "Cropping1D": windows.cropping,
    "CuDNNGRU": recurrent.recurrent,
    "CuDNNLSTM": recurrent.recurrent,
    "Dense": pointwise.dense,
    "DepthwiseConv1D": windows.depthwise_conv,
    "Dot": joins.dot,
    "Dropout": pointwise.ignored,
    "ELU": pointwise.elu,
    "EinsumDense": einsum.einsum_dense,
    "Embedding": pointwise.embedding,
    "Flatten": shapes.flatten,
    "Functional": _model,
    "GRU": recurrent.recurrent,
    "GaussianDropout": pointwise.ignored,
    "GaussianNoise": pointwise.ignored,
    "GlobalAveragePooling1D": windows.global_pooling("mean", 1),
    "GlobalAveragePooling2D": windows.global_pooling("mean", 2),
    "GlobalMaxPooling1D": windows.global_pooling("max", 1),
    "GlobalMaxPooling2D": windows.global_pooling("max", 2),
    "Identity": pointwise.ignored,
    "InputLayer": _input,
    "LSTM": recurrent.recurrent,
    "LayerNormalization": pointwise.layer_normalization,
    "LeakyReLU": pointwise.leaky_relu,
    "Masking": pointwise.masking,
    "MaxPooling1D": windows.pooling("max", 1),
    "MaxPooling2D": windows.pooling("max", 2),
    "Maximum": joins.merge("maximum"),
    "Minimum": joins.merge("minimum"),
    "Model": _model,
    "MultiHeadAttention": joins.multi_head_attention,
    "Multiply": joins.merge("mul"),
    "Normalization": pointwise.normalization,
    "PReLU": pointwise.prelu,
    "Permute": shapes.permute,
    "RMSNormalization": pointwise.rms_normalization,
    "RNN": recurrent.rnn,
    "ReLU": pointwise.relu,
    "RepeatVector": shapes.repeat_vector,
    "Rescaling": pointwise.rescaling,
    "Reshape": shapes.reshape,
    "SeparableConv1D": windows.separable_conv,
    "Sequential": _model,
    "SimpleRNN": recurrent.recurrent,
    "Softmax": pointwise.softmax,
    "SpatialDropout1D": pointwise.ignored,
    "SpectralNormalization": _spectral_normalization,
    "Subtract": joins.merge("sub"),
    "ThresholdedReLU": pointwise.thresholded_relu,
    "TimeDistributed": _time_distributed,
    "UnitNormalization": pointwise.unit_normalization,
    "UpSampling1D": windows.upsampling,
    "ZeroPadding1D": windows.zero_padding,
}

#: Classes that cgru does not run, and what to do about each.
REFUSED: dict[str, str] = {
    "CategoryEncoding": "encode before, and give the model an Input of numbers",
    "ConvLSTM1D": "its states are images; no layer of cgru's has such",
    "ConvLSTM2D": "its states are images; no layer of cgru's has such",
    "ConvLSTM3D": "its states are images; no layer of cgru's has such",
    "IntegerLookup": "look up before, and give the model an Input of ids",
    "Lambda": "it holds code, which is never run; write what it does with layers or keras.ops, and save again",
    "StringLookup": "look up before, and give the model an Input of ids",
    "TextVectorization": "split into ids before, with its vocabulary, and save the model from its Embedding on",
}
