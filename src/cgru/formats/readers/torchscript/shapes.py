"""The shapes of ATen operators' results. A rule takes what the operator is called with, torch's arguments by place."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any

from ....errors import CgruError, UnsupportedError
from .values import DoesNotFit, Tensor

Shape = tuple[int, ...]
#: Numbers that one tensor of a program may have.
_LARGEST = 1 << 23
_END = (1 << 63) - 1


class Arguments:
    """What an operator is called with, by place or name."""

    def __init__(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        self.args, self.kwargs = args, kwargs

    def __call__(self, place: int, name: str, default: Any = ...) -> Any:
        found = self.args[place] if place < len(self.args) else self.kwargs.get(name, default)
        if found is ...:
            raise UnsupportedError(f"its argument {name} is missing")
        return found

    def shape(self, place: int, name: str = "self") -> Shape:
        return shape_of(self(place, name))


def shape_of(value: Any) -> Shape:
    return value.sizes if isinstance(value, Tensor) else ()


def broadcast(*shapes: Shape) -> Shape:
    rank = max(map(len, shapes), default=0)
    result = []
    for sizes in zip(*((1,) * (rank - len(shape)) + shape for shape in shapes), strict=True):
        found = set(sizes) - {1}
        if len(found) > 1:
            raise DoesNotFit(f"shapes {' and '.join(map(str, shapes))} do not go together")
        result.append(next(iter(found), 1))
    return tuple(result)


def _one(value: Any) -> int:
    return int(value[0] if isinstance(value, (list, tuple)) else value)


def _axis(dim: int, rank: int) -> int:
    if not -rank <= dim < max(rank, 1):
        raise DoesNotFit(f"axis {dim} of {rank}")
    return dim % max(rank, 1)


def _same(a: Arguments) -> Shape:
    return a.shape(0)


def _elementwise(a: Arguments) -> Shape:
    return broadcast(*(v.sizes for v in (*a.args, *a.kwargs.values()) if isinstance(v, Tensor)))


def _linear(a: Arguments) -> Shape:
    x, weight = a.shape(0, "input"), a.shape(1, "weight")
    if not x or x[-1] != weight[-1]:
        raise DoesNotFit(f"a Linear of {weight[-1]} inputs on {x}")
    return (*x[:-1], *weight[:-1])


def _matmul(a: Arguments) -> Shape:
    x, y = a.shape(0), a.shape(1, "other" if "other" in a.kwargs else "mat2")
    if not x or not y or x[-1] != y[-2 if len(y) > 1 else 0]:
        raise DoesNotFit(f"a product of {x} and {y}")
    rows = x[-2:-1] if len(x) > 1 else ()
    columns = y[-1:] if len(y) > 1 else ()
    return (*broadcast(x[:-2], y[:-2]), *rows, *columns)


def _addmm(a: Arguments) -> Shape:
    return _matmul(Arguments((a(1, "mat1"), a(2, "mat2")), {}))


def _batch_norm(a: Arguments) -> Shape:
    x = a.shape(0, "input")
    for place, name in ((1, "weight"), (3, "running_mean")):
        channels = shape_of(a(place, name, None))
        if len(x) < 2 or (channels and channels[0] != x[1]):
            raise DoesNotFit(f"batch normalisation of {channels} channels on {x}")
    return x


def _layer_norm(a: Arguments) -> Shape:
    x, sizes = a.shape(0, "input"), tuple(a(1, "normalized_shape"))
    if x[len(x) - len(sizes) :] != sizes:
        raise DoesNotFit(f"layer normalisation of {sizes} on {x}")
    return x


def _embedding(a: Arguments) -> Shape:
    ids = a(1, "indices")
    if not isinstance(ids, Tensor) or ids.kind != "i":
        raise DoesNotFit("an Embedding of what is no whole number")
    return (*ids.sizes, a.shape(0, "weight")[-1])


def _convolved(x: Shape, weight: Shape, stride: Any, padding: Any, dilation: Any, groups: int) -> Shape:
    if len(x) != len(weight):
        raise DoesNotFit(f"a convolution of {len(weight) - 2} axes on {x}")
    if x[1] != weight[1] * groups:
        raise DoesNotFit(f"a convolution of {weight[1] * groups} channels on {x}")
    sizes = []
    for i, (size, width) in enumerate(zip(x[2:], weight[2:], strict=True)):
        s, d = (int(v[i % len(v)]) if isinstance(v, (list, tuple)) else int(v) for v in (stride, dilation))
        if isinstance(padding, str):
            around = (width - 1) * d if padding == "same" else 0
        else:
            around = 2 * (int(padding[i % len(padding)]) if isinstance(padding, (list, tuple)) else int(padding))
        sizes.append((size + around - (width - 1) * d - 1) // max(s, 1) + 1)
    if min(sizes) < 1:
        raise DoesNotFit("too few frames for a convolution")
    return (x[0], weight[0], *sizes)


def _conv(a: Arguments) -> Shape:
    return _convolved(
        a.shape(0, "input"), a.shape(1, "weight"), a(3, "stride", 1), a(4, "padding", 0), a(5, "dilation", 1),
        a(6, "groups", 1),
    )  # fmt: skip


def _conv_transpose(a: Arguments) -> Shape:
    x, weight = a.shape(0, "input"), a.shape(1, "weight")
    names = ((3, "stride", 1), (4, "padding", 0), (5, "output_padding", 0), (7, "dilation", 1))
    stride, padding, extra, dilation = (_one(a(i, name, default)) for i, name, default in names)
    if len(x) != 3 or x[1] != weight[0]:
        raise DoesNotFit(f"a transposed convolution of {weight[0]} channels on {x}")
    steps = (x[2] - 1) * stride - 2 * padding + dilation * (weight[2] - 1) + extra + 1
    return (x[0], weight[1] * a(6, "groups", 1), steps)


def _pool(a: Arguments) -> Shape:
    x, width = a.shape(0), a(1, "kernel_size")
    axes = len(width) if isinstance(width, (list, tuple)) else 1
    widths, strides, pads = (_each(v, axes) for v in (width, a(2, "stride", None) or width, a(3, "padding", 0)))
    fourth = a(4, "ceil_mode", False)  # max_pool has its dilation there
    if (fourth if isinstance(fourth, bool) else a(5, "ceil_mode", False)) is True:
        raise UnsupportedError("pooling with ceil_mode")
    sizes = zip(x[-axes:], widths, strides, pads, strict=True)
    return (*x[:-axes], *(_at_least_one((size + 2 * pad - n) // max(step, 1) + 1) for size, n, step, pad in sizes))


def _each(value: Any, axes: int) -> list[int]:
    return [int(v) for v in value] if isinstance(value, (list, tuple)) and len(value) == axes else [_one(value)] * axes


def _at_least_one(size: int) -> int:
    if size < 1:
        raise DoesNotFit("too few frames for a pooling")
    return size


def _adaptive(a: Arguments) -> Shape:
    x, wanted = a.shape(0), a(1, "output_size")
    sizes = list(wanted) if isinstance(wanted, (list, tuple)) else [wanted]
    own = x[len(x) - len(sizes) :]
    return (*x[: len(x) - len(sizes)], *(n if size is None else int(size) for n, size in zip(own, sizes, strict=True)))


def _upsample(a: Arguments) -> Shape:
    x, size, scales = a.shape(0), a(1, "output_size", None), a(2, "scale_factors", None)
    return (*x[:-1], _one(size) if size is not None else int(x[-1] * _first(scales)))


def _first(value: Any) -> float:
    return float(value[0] if isinstance(value, (list, tuple)) else value)


def _recurrent(a: Arguments) -> list[Shape]:
    """Outputs, then the final h; see :func:`_lstm`."""
    x, params, both = a.shape(0, "input"), a(2, "params"), a(7, "bidirectional")
    if isinstance(params, bool) or isinstance(a(3, "has_biases"), list):
        raise UnsupportedError("a packed sequence as torch keeps it; cgru takes lengths= instead")
    if len(x) != 3 or x[2] != shape_of(params[0])[-1]:
        raise DoesNotFit(f"a recurrent layer of {shape_of(params[0])[-1]} inputs on {x}")
    units, ways = shape_of(params[1])[-1], 2 if both else 1
    rows = x[0] if a(8, "batch_first") else x[1]
    state = (a(4, "num_layers") * ways, rows, units)
    begin = a(1, "hx")
    given = shape_of(begin[0] if isinstance(begin, (list, tuple)) else begin)
    if given != state:
        raise DoesNotFit(f"an initial state of {given} where {state} is expected")
    return [(*x[:2], units * ways), state]


def _lstm(a: Arguments) -> list[Shape]:
    y, h = _recurrent(a)
    return [y, h, (*h[:2], shape_of(a(2, "params")[1])[0] // 4)]


def _cell(a: Arguments) -> Any:
    x, weight = a.shape(0, "input"), a.shape(3, "w_hh")
    if x[-1] != a.shape(2, "w_ih")[-1]:
        raise DoesNotFit(f"a cell of {a.shape(2, 'w_ih')[-1]} inputs on {x}")
    state, begin = (*x[:-1], weight[-1]), a(1, "hx")
    if shape_of(begin[0] if isinstance(begin, (list, tuple)) else begin) != state:
        raise DoesNotFit(f"a cell's initial state where {state} is expected")
    return [state, state] if isinstance(a(1, "hx"), (list, tuple)) else state


def _flattened(a: Arguments) -> Shape:
    x, start, end = a.shape(0), a(1, "start_dim", 0), a(2, "end_dim", -1)
    start, end = _axis(start, len(x)), _axis(end, len(x))
    return (*x[:start], prod(x[start : end + 1]), *x[end + 1 :])


def _viewed(a: Arguments) -> Shape:
    x, wanted = a.shape(0), list(a(1, "shape" if "shape" in a.kwargs else "size"))
    if wanted.count(-1) > 1:
        raise DoesNotFit(f"a view as {wanted}")
    if -1 in wanted:
        rest = prod(size for size in wanted if size != -1)
        if not rest or prod(x) % rest:
            raise DoesNotFit(f"a view of {x} as {wanted}")
        wanted[wanted.index(-1)] = prod(x) // rest
    if prod(wanted) != prod(x):
        raise DoesNotFit(f"a view of {x} as {wanted}")
    return tuple(wanted)


def _unflattened(a: Arguments) -> Shape:
    x, dim = a.shape(0), _axis(a(1, "dim"), len(a.shape(0)))
    inner = list(a(2, "sizes"))
    if -1 in inner:
        inner[inner.index(-1)] = x[dim] // prod(size for size in inner if size != -1)
    if prod(inner) != x[dim]:
        raise DoesNotFit(f"axis {dim} of {x} as {inner}")
    return (*x[:dim], *inner, *x[dim + 1 :])


def _transposed(a: Arguments) -> Shape:
    x = list(a.shape(0))
    i, j = _axis(a(1, "dim0"), len(x)), _axis(a(2, "dim1"), len(x))
    x[i], x[j] = x[j], x[i]
    return tuple(x)


def _last_two(a: Arguments) -> Shape:
    x = a.shape(0)
    return (*x[:-2], x[-1], x[-2])


def _permuted(a: Arguments) -> Shape:
    x, dims = a.shape(0), a(1, "dims")
    if len(dims) != len(x):
        raise DoesNotFit(f"{len(dims)} axes of {x}")
    return tuple(x[_axis(dim, len(x))] for dim in dims)


def _unsqueezed(a: Arguments) -> Shape:
    x = a.shape(0)
    dim = _axis(a(1, "dim"), len(x) + 1)
    return (*x[:dim], 1, *x[dim:])


def _squeezed(a: Arguments) -> Shape:
    x, dims = a.shape(0), a(1, "dim", None)
    dims = range(len(x)) if dims is None else [dims] if isinstance(dims, int) else dims
    gone = {_axis(dim, len(x)) for dim in dims}
    return tuple(size for i, size in enumerate(x) if i not in gone or size != 1)


def _selected(a: Arguments) -> Shape:
    x = a.shape(0)
    dim, index = _axis(a(1, "dim"), len(x)), a(2, "index")
    if not -x[dim] <= index < x[dim]:
        raise DoesNotFit(f"entry {index} of {x[dim]}")
    return (*x[:dim], *x[dim + 1 :])


def _sliced(a: Arguments) -> Shape:
    x = a.shape(0)
    dim = _axis(a(1, "dim", 0), len(x))
    size = len(range(x[dim])[slice(a(2, "start", None), a(3, "end", None), a(4, "step", 1))])
    if not size:
        raise DoesNotFit(f"nothing is left of {x} along axis {dim}")
    return (*x[:dim], size, *x[dim + 1 :])


def _narrowed(a: Arguments) -> Shape:
    x = a.shape(0)
    dim = _axis(a(1, "dim"), len(x))
    return (*x[:dim], a(3, "length"), *x[dim + 1 :])


def _unbound(a: Arguments) -> list[Shape]:
    x = a.shape(0)
    dim = _axis(a(1, "dim", 0), len(x))
    return [(*x[:dim], *x[dim + 1 :])] * x[dim]


def _split(a: Arguments) -> list[Shape]:
    x, part = a.shape(0), a(1, "split_size")
    return _parts(x, _axis(a(2, "dim", 0), len(x)), part)


def _chunked(a: Arguments) -> list[Shape]:
    x, count = a.shape(0), a(1, "chunks")
    dim = _axis(a(2, "dim", 0), len(x))
    return _parts(x, dim, -(-x[dim] // count))


def _parts(x: Shape, dim: int, part: Any) -> list[Shape]:
    if isinstance(part, int):
        if part < 1 or x[dim] // part > 10_000:
            raise UnsupportedError(f"parts of {part}")
        part = [min(part, x[dim] - start) for start in range(0, x[dim], part)]
    if sum(part) != x[dim]:
        raise DoesNotFit(f"parts of {part} of {x[dim]}")
    return [(*x[:dim], size, *x[dim + 1 :]) for size in part]


def _joined(a: Arguments) -> Shape:
    shapes = [shape_of(value) for value in a(0, "tensors")]
    dim = _axis(a(1, "dim", 0), len(shapes[0]))
    rest = {(*shape[:dim], *shape[dim + 1 :]) for shape in shapes}
    if len(rest) != 1 or len({len(shape) for shape in shapes}) != 1:
        raise DoesNotFit(f"shapes {shapes[:4]} do not join along axis {dim}")
    return (*shapes[0][:dim], sum(shape[dim] for shape in shapes), *shapes[0][dim + 1 :])


def _stacked(a: Arguments) -> Shape:
    shapes = [shape_of(value) for value in a(0, "tensors")]
    if len(set(shapes)) != 1:
        raise DoesNotFit(f"shapes {shapes[:4]} do not stack")
    dim = _axis(a(1, "dim", 0), len(shapes[0]) + 1)
    return (*shapes[0][:dim], len(shapes), *shapes[0][dim:])


def _expanded(a: Arguments) -> Shape:
    x, wanted = a.shape(0), list(a(1, "size"))
    lead = len(wanted) - len(x)
    if lead < 0:
        raise DoesNotFit(f"{x} expanded to {wanted}")
    wanted = [x[i - lead] if n == -1 else n for i, n in enumerate(wanted)]
    if broadcast(x, tuple(wanted)) != tuple(wanted):
        raise DoesNotFit(f"{x} expanded to {wanted}")
    return tuple(wanted)


def _repeated(a: Arguments) -> Shape:
    x, counts = a.shape(0), a(1, "repeats")
    x = (1,) * (len(counts) - len(x)) + x
    return tuple(size * count for size, count in zip(x, counts, strict=True))


def _reduced(a: Arguments) -> Shape:
    x, dims = a.shape(0), a(1, "dim", None)
    if isinstance(dims, (str, Tensor)):
        raise UnsupportedError("a reduction of another kind")
    dims = list(range(len(x))) if dims is None else [dims] if isinstance(dims, int) else dims or range(len(x))
    gone = {_axis(dim, len(x)) for dim in dims}
    keep = a(2, "keepdim", False)
    return tuple(1 if i in gone else size for i, size in enumerate(x) if keep or i not in gone)


def _extreme(a: Arguments) -> Any:
    if len(a.args) > 1 and isinstance(a.args[1], Tensor):
        return broadcast(a.shape(0), a.shape(1))
    if len(a.args) < 2 and "dim" not in a.kwargs:
        return ()
    return [_reduced(a)] * 2


def _argument(a: Arguments) -> Shape:
    return _reduced(a)


def _spread(a: Arguments) -> Shape:
    """var and std: (x, dim, unbiased, keepdim), (x, unbiased), or keepdim by name."""
    keep = a.kwargs.get("keepdim", a.args[3] if len(a.args) > 3 else False)
    dims = a.args[1] if len(a.args) > 1 and not isinstance(a.args[1], bool) else a.kwargs.get("dim")
    return _reduced(Arguments((a(0, "self"), dims, keep), {}))


def _norm(a: Arguments) -> Shape:
    return _reduced(Arguments((a(0, "self"), a(2, "dim", None), a(3, "keepdim", False)), {}))


def _padded(a: Arguments) -> Shape:
    x, pads = list(a.shape(0)), a(1, "pad")
    for i in range(0, len(pads), 2):
        x[len(x) - 1 - i // 2] += pads[i] + pads[i + 1]
    return tuple(_at_least_one(size) for size in x)


def _filled(a: Arguments) -> Shape:
    return tuple(int(size) for size in a(0, "size"))


def _new(a: Arguments) -> Shape:
    return tuple(int(size) for size in a(1, "size"))


def _arange(a: Arguments) -> Shape:
    numbers = [value.number if isinstance(value, Tensor) else value for value in a.args]
    given = [value for value in numbers if isinstance(value, (int, float)) and not isinstance(value, bool)][:3]
    low, high, step = (0, given[0], 1) if len(given) == 1 else (*given, 1)[:3]
    return (max(-int(-(high - low) // step), 0),)


def _einsum(a: Arguments) -> Shape:
    text, shapes = str(a(0, "equation")).replace(" ", ""), [shape_of(value) for value in a(1, "tensors")]
    names, _, out = text.partition("->")
    sizes: dict[str, int] = {}
    for name, shape in zip(names.split(","), shapes, strict=True):
        if "." in text or "->" not in text or len(name) != len(shape):
            raise DoesNotFit(f"einsum {text[:60]} of {shapes}")
        for letter, size in zip(name, shape, strict=True):
            if sizes.setdefault(letter, size) != size:
                raise DoesNotFit(f"einsum {text[:60]} of {shapes}")
    return tuple(sizes[letter] for letter in out)


def _indexed(a: Arguments) -> Shape:
    x, dim, index = a.shape(0), a(1, "dim"), a.shape(2, "index")
    dim = _axis(dim, len(x))
    return (*x[:dim], index[0] if index else 1, *x[dim + 1 :])


def _entries(a: Arguments) -> Shape:
    """x[i, j, …] by arrays of places, which stand for the first axes."""
    x, given = a.shape(0), [value for value in a(1, "indices") if value is not None]
    if any(value is None for value in list(a(1, "indices"))[: len(given)]):
        raise UnsupportedError("entries by arrays of places of other axes than the first")
    return (*broadcast(*map(shape_of, given)), *x[len(given) :])


def _differences(a: Arguments) -> Shape:
    x = list(a.shape(0))
    dim = _axis(a(2, "dim", -1), len(x))
    for value in (a(3, "prepend", None), a(4, "append", None)):
        x[dim] += shape_of(value)[dim] if isinstance(value, Tensor) else 0
    x[dim] -= a(1, "n", 1)
    return tuple(x)


def _unfolded(a: Arguments) -> Shape:
    x, size, step = list(a.shape(0)), a(2, "size"), a(3, "step")
    dim = _axis(a(1, "dimension"), len(x))
    x[dim] = (x[dim] - size) // step + 1
    return (*x, size)


def _spectrum(a: Arguments) -> Shape:
    x, size = a.shape(0), int(a(1, "n_fft"))
    centred = len(a.args) > 6 and isinstance(a.args[6], str)
    frames = x[-1] + (size // 2 * 2 if centred and a.args[5] else 0) - size
    if frames < 0:
        raise DoesNotFit(f"a spectrum of {size} samples of {x[-1]}")
    bins = size if a(8 if centred else 6, "onesided", None) is False else size // 2 + 1
    return (*x[:-1], bins, 1 + frames // int(a(2, "hop_length", None) or size // 4))


def _glu(a: Arguments) -> Shape:
    x = list(a.shape(0))
    dim = _axis(a(1, "dim", -1), len(x))
    x[dim] //= 2
    return tuple(x)


def _first_of_two(a: Arguments) -> Shape:
    """expand_as, view_as."""
    return a.shape(1, "other")


def _rolled(*rules: tuple[tuple[str, ...], Callable[[Arguments], Any]]) -> dict[str, Callable[[Arguments], Any]]:
    return {name: rule for names, rule in rules for name in names}


#: Operator → rule: a shape, or a list of them.
RULES = _rolled(
    (("relu", "sigmoid", "tanh", "hardsigmoid", "silu", "mish", "selu", "hardswish", "relu6", "log_sigmoid", "elu",
      "celu", "leaky_relu", "hardshrink", "softshrink", "threshold", "gelu", "softplus", "hardtanh", "softsign",
      "abs", "ceil", "cos", "erf", "exp", "floor", "log", "neg", "reciprocal", "round", "sign", "sin", "sqrt", "atan",
      "logical_not", "rsqrt", "square", "log1p", "expm1", "log2", "log10", "alias", "clone", "contiguous", "detach",
      "dropout", "feature_dropout", "alpha_dropout", "to", "float", "double", "cpu", "type_as", "data", "softmax",
      "log_softmax", "_softmax", "group_norm", "instance_norm", "flip",
      "cumsum", "zeros_like", "ones_like", "full_like", "tril", "triu", "bernoulli", "normal", "rand_like",
      "randn_like", "isnan", "nan_to_num", "long", "int", "requires_grad", "fill", "zero", "copy", "norm_except",
      "_weight_norm", "local_response_norm", "softmin", "tanhshrink", "trunc", "frac", "exp2", "prelu"), _same),
    (("add", "sub", "mul", "div", "pow", "minimum", "maximum", "rsub", "true_divide", "lt", "le", "gt", "ge", "eq",
      "ne", "where", "masked_fill", "lerp", "clamp", "clamp_min", "clamp_max", "clip", "logical_and", "logical_or",
      "atan2", "remainder", "floor_divide", "fmod", "__and__", "__or__", "addcmul", "addcdiv"), _elementwise),
    (("linear",), _linear), (("matmul", "mm", "bmm", "mv"), _matmul), (("addmm", "baddbmm"), _addmm),
    (("embedding",), _embedding), (("batch_norm",), _batch_norm), (("layer_norm", "rms_norm"), _layer_norm),
    (("scaled_dot_product_attention",), lambda a: (*a.shape(0)[:-1], a.shape(2)[-1])),
    (("conv1d", "conv2d"), _conv), (("conv_transpose1d",), _conv_transpose),
    (("max_pool1d", "avg_pool1d", "max_pool2d", "avg_pool2d"), _pool),
    (("adaptive_avg_pool1d", "adaptive_avg_pool2d"), _adaptive),
    (("upsample_nearest1d",), _upsample),
    (("gru", "rnn_tanh", "rnn_relu"), _recurrent), (("lstm",), _lstm),
    (("gru_cell", "lstm_cell", "rnn_tanh_cell", "rnn_relu_cell"), _cell),
    (("flatten",), _flattened), (("view", "reshape"), _viewed), (("unflatten",), _unflattened),
    (("transpose", "swapaxes"), _transposed), (("permute",), _permuted), (("unsqueeze",), _unsqueezed),
    (("squeeze",), _squeezed), (("select",), _selected), (("slice",), _sliced), (("narrow",), _narrowed),
    (("t", "numpy_T"), lambda a: a.shape(0)[::-1]),
    (("mT",), _last_two), (("unbind",), _unbound), (("split", "split_with_sizes"), _split),
    (("chunk",), _chunked), (("cat", "concat", "concatenate"), _joined), (("stack",), _stacked),
    (("expand", "broadcast_to"), _expanded), (("expand_as", "view_as", "reshape_as"), _first_of_two),
    (("repeat",), _repeated), (("mean", "sum", "amax", "amin", "logsumexp", "prod", "any", "all"), _reduced),
    (("max", "min"), _extreme), (("argmax", "argmin"), _argument), (("var", "std"), _spread),
    (("norm", "linalg_vector_norm"), _norm), (("pad", "constant_pad_nd"), _padded),
    (("zeros", "ones", "empty", "full", "rand", "randn"), _filled), (("new_zeros", "new_ones", "new_full"), _new),
    (("_native_multi_head_attention",), lambda a: [a.shape(0), (a.shape(0)[0], a.shape(0)[1], a.shape(1)[1])]),
    (("arange",), _arange), (("index_select",), _indexed), (("einsum",), _einsum),
    (("real", "imag", "angle", "bitwise_not"), _same), (("stft",), _spectrum), (("diff",), _differences),
    (("unfold",), _unfolded),
    (("view_as_real",), lambda a: (*a.shape(0), 2)), (("view_as_complex",), lambda a: a.shape(0)[:-1]),
    (("index",), _entries), (("gather",), lambda a: a.shape(2, "index")),
    (("hann_window", "hamming_window"), lambda a: (int(a(0, "window_length")),)),
    (("glu",), _glu), (("scalar_tensor",), lambda a: ()),
)  # fmt: skip

#: Operators whose result holds whole numbers, or truth.
WHOLE = frozenset(("argmax", "argmin", "long", "int"))
TRUTH = frozenset(
    (
        "lt", "le", "gt", "ge", "eq", "ne", "bitwise_not", "logical_not", "logical_and", "logical_or", "isnan", "any",
        "all",
    )
)  # fmt: skip


def shapes(op: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """The shape of an operator's result, a list of them where it gives several, None where no rule tells."""
    rule = RULES.get(op) or RULES.get(op.removesuffix("_"))
    if rule is None:
        return None
    try:
        found = rule(Arguments(args, kwargs))
    except CgruError:
        raise
    except (IndexError, TypeError, ValueError, ArithmeticError, AttributeError) as error:
        raise DoesNotFit(f"torch.{op}: its arguments do not go with it ({error!r:.100})") from None
    for shape in found if isinstance(found, list) else [found]:
        if any(size < 0 for size in shape) or prod(shape) > _LARGEST:
            raise UnsupportedError(f"torch.{op}: a tensor of shape {str(shape)[:80]}")
    return found
