# cython: language_level=3, boundscheck=False, wraparound=False, embedsignature=False
"""Binds the C core: buffers in, a call without the GIL, a status out. No arithmetic and no policy."""

import os
import threading

import numpy as np

cimport cython
cimport numpy as cnp
from cpython.list cimport PyList_CheckExact, PyList_GetItem, PyList_Size  # in the stable ABI, as the macros are not
from cpython.long cimport PyLong_AsLongLongAndOverflow, PyLong_CheckExact
from cpython.ref cimport PyObject
from libc.stdint cimport int32_t, int64_t, uint8_t, uint64_t
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memcpy

from ...errors import CgruError, ShapeError, TooLargeError, UnsupportedError
from ...forks import in_use
from ...spec.precision import Stored
from ...threads import resolve

cnp.import_array()

cdef extern from "cgru/cgru.h" nogil:
    enum: CGRU_OK
    enum: CGRU_NO_MEMORY
    enum: CGRU_BAD_LENGTH
    enum: CGRU_BAD_ID
    enum: CGRU_BAD_INDEX
    enum: CGRU_BAD_GRAPH
    enum: CGRU_BAD_PORT
    enum: CGRU_INTERRUPTED
    ctypedef struct cgru_matrix:
        int panels
    ctypedef struct cgru_scan:
        int panels, input, out
    ctypedef struct cgru_net:
        pass
    ctypedef struct cgru_work:
        pass
    ctypedef struct cgru_call:
        int64_t rows, steps
        const void *x
        int64_t x_row, x_step
        float *y
        int64_t y_row, y_step
        const int64_t *lengths
        const uint8_t *mask
        uint8_t *mask_out
        float *state
        int64_t state_row, state_rows
        const int64_t *index
        int threads
        int (*interrupted)() noexcept nogil
    int64_t cgru_net_cost(const cgru_net *net)
    int cgru_net_run(const cgru_net *net, const cgru_call *call, cgru_work *work)
    cgru_work *cgru_work_new()
    size_t cgru_work_bytes(const cgru_work *work)
    void cgru_work_free(cgru_work *work)

cdef extern from "Python.h":
    int PyErr_CheckSignals()

cdef extern from "kernels.h" nogil:
    enum: CGRU_FLOAT32
    enum: CGRU_INT8
    enum: CGRU_INT8X16
    enum: CGRU_BF16
    enum: CGRU_FP16
    ctypedef struct cgru_cell:
        const char *name
        int gates, recurrent, phases, projects, vectors
    ctypedef struct cgru_arithmetic:
        pass
    ctypedef struct cgru_kernels:
        const char *name
        int vl
        const cgru_arithmetic *of[1]
    const cgru_kernels *cgru_kernels_at(int index)
    int cgru_kernels_usable(int index)
    const cgru_cell *cgru_cell_named(const cgru_arithmetic *, const char *name)

cdef extern from "lookup.h" nogil:
    Py_ssize_t cgru_lookup_width(const cgru_kernels *, const cgru_scan *)
    int cgru_lookup_fill(const cgru_kernels *, const cgru_scan *, const float *embedding, int64_t tokens, float *to)

cdef extern from "pack.h" nogil:
    ctypedef struct cgru_stored:
        void *values
        float *scale
    cgru_matrix *cgru_matrix_new(const cgru_kernels *, int precision, int units, int inner, cgru_stored w, const float *b)
    void cgru_matrix_weights(const cgru_kernels *, const cgru_matrix *, cgru_stored w, float *b)
    size_t cgru_matrix_bytes(const cgru_kernels *, const cgru_matrix *)
    void cgru_matrix_free(cgru_matrix *)
    ctypedef struct cgru_weights:
        int precision, input, hidden, out
        cgru_stored w_ih
        cgru_stored w_hh
        cgru_stored w_hr
        const float *b_ih
        const float *b_hh
        const float *w_ph
    cgru_scan *cgru_scan_new(const cgru_kernels *, const cgru_cell *, int activation, int recurrent_activation,
                             const cgru_weights *)
    void cgru_scan_weights(const cgru_kernels *, const cgru_scan *, cgru_stored w_ih, cgru_stored w_hh, cgru_stored w_hr)
    size_t cgru_scan_bytes(const cgru_kernels *, const cgru_scan *)
    void cgru_scan_free(cgru_scan *)

cdef extern from "net.h" nogil:
    enum: CGRU_EMBEDDING
    enum: CGRU_DENSE
    enum: CGRU_ACTIVATION
    enum: CGRU_MASKING
    enum: CGRU_RECURRENT
    ctypedef struct cgru_direction:
        const cgru_scan *scan
        int reverse, state, emitted
    ctypedef struct cgru_node:
        int kind
        int in_ "in"
        int out
        cgru_stored table
        int precision
        int mask_zero
        const cgru_matrix *matrix
        int activation
        float mask_value
        int directions
        cgru_direction direction[2]
        int merge, sequences, repeat, flipped
    cgru_net *cgru_net_new(const cgru_kernels *, const cgru_node *nodes, int count)
    void cgru_net_free(cgru_net *)


# ---- instruction sets ------------------------------------------------------------------------------------------

def isa_built():
    """Names of the instruction sets in this build, best last."""
    names, i = [], 0
    while cgru_kernels_at(i) != NULL:
        names.append(cgru_kernels_at(i).name.decode())
        i += 1
    return names


def isa_available():
    """Names of those this machine can run, best last."""
    return [name for i, name in enumerate(isa_built()) if cgru_kernels_usable(i)]


cdef const cgru_kernels *_chosen = NULL


cdef const cgru_kernels *kernels() except NULL:
    """The instruction set in use: what ``CGRU_ISA`` forces, else the best there is. Settled once."""
    global _chosen
    if _chosen == NULL:
        available = isa_available()
        wanted = os.environ.get("CGRU_ISA") or available[len(available) - 1]
        if wanted not in available:
            raise UnsupportedError(
                f"CGRU_ISA={wanted!r} cannot run here; available: {', '.join(available)} (built: {', '.join(isa_built())})"
            )
        _chosen = cgru_kernels_at(isa_built().index(wanted))
    return _chosen


def isa_in_use():
    """The name of the instruction set in use; :class:`UnsupportedError` where CGRU_ISA asks for an absent one."""
    return kernels().name.decode()


# ---- packed weights --------------------------------------------------------------------------------------------

PRECISIONS = {
    "float32": CGRU_FLOAT32,
    "int8": CGRU_INT8,
    "int8x16": CGRU_INT8X16,
    "bf16": CGRU_BF16,
    "fp16": CGRU_FP16,
}


include "_admission.pxi"


cdef float *floats(cnp.ndarray array) noexcept:
    return <float *>cnp.PyArray_DATA(array)


cdef float *floats_or_null(dict arrays, str key) except? NULL:
    return floats(arrays[key]) if key in arrays else NULL


cdef cgru_stored stored_at(object array) except *:
    """Where the parts of a float32 array or a :class:`Stored` lie, which must be in C order and outlive the use."""
    cdef cgru_stored at
    at.values = at.scale = NULL
    if isinstance(array, Stored):
        at.values = cnp.PyArray_DATA(<cnp.ndarray?>array.values)
        if array.scale is not None:
            at.scale = floats(<cnp.ndarray?>array.scale)
    elif array is not None:
        at.values = cnp.PyArray_DATA(<cnp.ndarray?>array)
    return at


cdef object room_for(object shape, int precision):
    """An array, or a :class:`Stored`, for a matrix of that precision."""
    if precision == CGRU_FLOAT32:
        return np.empty(shape, np.float32)
    if precision == CGRU_BF16:
        return Stored(np.empty(shape, np.uint16), None)
    if precision == CGRU_FP16:
        return Stored(np.empty(shape, np.float16), None)
    return Stored(np.empty(shape, np.int8), np.empty(shape[0], np.float32))


cdef tuple shape_of(object array):
    return array.values.shape if isinstance(array, Stored) else array.shape


cdef class Matrix:
    """The packed weight (units, inner) and bias of a dense layer."""

    cdef cgru_matrix *m
    cdef readonly int units, inner
    cdef int precision
    cdef bint biased

    def __cinit__(self, str precision not None, weight, bias):
        self.precision = PRECISIONS[precision]
        self.units, self.inner = shape_of(weight)
        self.biased = bias is not None
        expect(weight, (self.units, self.inner), "weight", dtype_of(self.precision, weight))
        if self.biased:
            expect(bias, (self.units,), "bias")
        self.m = cgru_matrix_new(
            kernels(), self.precision, self.units, self.inner, stored_at(weight), floats(bias) if self.biased else NULL
        )
        if self.m == NULL:
            raise MemoryError("packing a dense layer")

    def __dealloc__(self):
        cgru_matrix_free(self.m)

    @property
    def nbytes(self):
        return cgru_matrix_bytes(kernels(), self.m)

    def stored(self):
        """What it was made of."""
        weight = room_for((self.units, self.inner), self.precision)
        bias = np.empty(self.units, np.float32)
        cgru_matrix_weights(kernels(), self.m, stored_at(weight), floats(bias))
        return {"weight": weight, "bias": bias} if self.biased else {"weight": weight}


cdef class Scan:
    """The packed weights of one direction of one recurrent layer; vectors such as biases are also kept as they came."""

    cdef cgru_scan *scan
    cdef readonly int input
    cdef int precision
    cdef dict shapes, vectors

    def __cinit__(self, str precision not None, str cell not None, int activation, int recurrent_activation, int hidden,
                  int out, dict arrays not None):
        """arrays, in C order: weight_ih, weight_hh, weight_hr as the precision stores them, and float32 weight_ph, bias_ih,
        bias_hh, those there are."""
        cdef cgru_weights given
        cdef bytes name = cell.encode()
        cdef const cgru_cell *kind
        self.precision = PRECISIONS[precision]
        kind = cgru_cell_named(kernels().of[self.precision], name)
        if kind == NULL:
            raise UnsupportedError(f"the packed backend has no cell named {cell!r}")
        matrices = {key: array for key, array in arrays.items() if len(shape_of(array)) == 2}
        self.shapes = {key: shape_of(array) for key, array in matrices.items()}
        self.vectors = {key: array for key, array in arrays.items() if key not in matrices}
        self.input = self.shapes["weight_ih"][1]
        rows = kind.gates * hidden
        shapes = {"weight_ih": (rows, self.input), "weight_hr": (out, hidden), "weight_ph": (kind.vectors * hidden,)}
        shapes |= {"weight_hh": (rows, out), "bias_ih": (rows,), "bias_hh": (rows,)}
        for key, array in arrays.items():
            expect(array, shapes[key], key, dtype_of(self.precision, array) if key in matrices else np.float32)
        if (kind.recurrent or (kind.phases > 1 and not kind.projects)) and "weight_hh" not in matrices:
            raise ShapeError("weight_hh: expected a matrix, found none")
        if kind.projects and "weight_hr" not in matrices or (not kind.projects and out != hidden):
            raise ShapeError(f"weight_hr: a {cell} of {hidden} units cannot emit {out} numbers")
        given.precision, given.input, given.hidden, given.out = self.precision, self.input, hidden, out
        given.w_ih, given.w_hh = stored_at(matrices["weight_ih"]), stored_at(matrices.get("weight_hh"))
        given.w_hr, given.w_ph = stored_at(matrices.get("weight_hr")), floats_or_null(arrays, "weight_ph")
        given.b_ih, given.b_hh = floats_or_null(arrays, "bias_ih"), floats_or_null(arrays, "bias_hh")
        self.scan = cgru_scan_new(kernels(), kind, activation, recurrent_activation, &given)
        if self.scan == NULL:
            raise MemoryError("packing a recurrent layer")

    def __dealloc__(self):
        cgru_scan_free(self.scan)

    @property
    def lookup_width(self):
        """Numbers of what the input side makes of one token."""
        return cgru_lookup_width(kernels(), self.scan)

    def lookup(self, cnp.ndarray embedding not None):
        """What the input side makes of every row of an embedding, float32 (V, I): (V, lookup_width) as steps read it."""
        cdef cnp.npy_intp shape[2]
        cdef cnp.ndarray made
        if not plain(embedding, cnp.NPY_FLOAT32, 2) or embedding.shape[1] != self.input:
            raise ShapeError(f"embedding: expected float32 (V, {self.input}) in C order")
        shape[0], shape[1] = embedding.shape[0], self.lookup_width
        made = cnp.PyArray_SimpleNew(2, shape, cnp.NPY_FLOAT32)
        if cgru_lookup_fill(kernels(), self.scan, floats(embedding), shape[0], <float *>cnp.PyArray_DATA(made)) != CGRU_OK:
            raise TooLargeError("no memory to look tokens up in")
        return made

    @property
    def nbytes(self):
        return cgru_scan_bytes(kernels(), self.scan) + sum(vector.nbytes for vector in self.vectors.values())

    def stored(self):
        """The arrays it was made of."""
        cdef dict made = {key: room_for(shape, self.precision) for key, shape in self.shapes.items()}
        cgru_scan_weights(kernels(), self.scan, stored_at(made["weight_ih"]), stored_at(made.get("weight_hh")),
                          stored_at(made.get("weight_hr")))
        return made | self.vectors


# ---- networks --------------------------------------------------------------------------------------------------

cdef class Net:
    """A chain of nodes, each a dictionary as :mod:`cgru.engine.backends.packed` makes it; immutable, shared by threads."""

    cdef cgru_net *net
    cdef cgru_work *spare  # scratch of the last call, for the next one
    cdef object held  # keeps the packed weights alive
    #: Features (or entries of the table) in, features out, and the least numbers of a state row.
    cdef readonly Py_ssize_t inputs, outputs, width
    cdef readonly bint ids
    cdef bint collapses

    def __cinit__(self, list nodes not None):
        cdef cgru_node *array = <cgru_node *>calloc(len(nodes), sizeof(cgru_node))
        cdef cgru_node *node
        if array == NULL:
            raise MemoryError
        try:
            for i, given in enumerate(nodes):
                node = &array[i]
                node.kind, node.in_, node.out = KINDS[given["kind"]], given["in"], given["out"]
                if node.kind == CGRU_EMBEDDING:
                    node.table, node.mask_zero = stored_at(given["table"]), given["mask_zero"]
                    node.precision = PRECISIONS[given["precision"]]
                elif node.kind == CGRU_DENSE:
                    node.matrix, node.activation = (<Matrix?>given["matrix"]).m, given["activation"]
                elif node.kind == CGRU_ACTIVATION:
                    node.activation = given["activation"]
                elif node.kind == CGRU_MASKING:
                    node.mask_value = given["mask_value"]
                else:
                    node.directions = len(given["scans"])
                    for d, (scan, reverse, state, emitted) in enumerate(given["scans"]):
                        node.direction[d].scan = (<Scan?>scan).scan
                        node.direction[d].reverse = reverse
                        node.direction[d].state = state
                        node.direction[d].emitted = emitted
                    node.merge, node.sequences = given["merge"], given["sequences"]
                    node.repeat, node.flipped = given["repeat"], given["flipped"]
            self.net = cgru_net_new(kernels(), array, len(nodes))
        finally:
            free(array)
        if self.net == NULL:
            raise MemoryError
        self.held = nodes
        first = nodes[0]
        self.inputs, self.outputs, self.ids = first["in"], nodes[len(nodes) - 1]["out"], first["kind"] == "embedding"
        for given in nodes:
            self.collapses |= not given.get("sequences", True)
            for _, _, _, emitted in given.get("scans", ()):
                self.width = max(self.width, emitted + 2)

    cdef void admit(self, cnp.ndarray x, cnp.ndarray y, cnp.ndarray state, object lengths, object mask,
                    object mask_out) except *:
        """Refuse what the core would read or write beyond: it trusts every pointer it is given."""
        cdef Py_ssize_t rows = x.shape[0] if x.ndim else 0, steps = x.shape[1] if x.ndim > 1 else 0
        cdef int kind = cnp.NPY_INT64 if self.ids else cnp.NPY_FLOAT32
        if not (
            strided(x, kind, 2 if self.ids else 3, not self.ids)
            and (self.ids or x.shape[2] == self.inputs)
            and strided(y, cnp.NPY_FLOAT32, y.ndim, True)
            and (y.ndim == 2 if self.collapses else y.ndim == 3 and y.shape[1] == steps)
            and y.shape[0] == rows
            and y.shape[y.ndim - 1] == self.outputs
            and cnp.PyArray_ISWRITEABLE(y)
            and strided(state, cnp.NPY_FLOAT32, 2, True)
            and state.shape[0] == rows
            and state.shape[1] >= self.width
            and cnp.PyArray_ISWRITEABLE(state)
            and (lengths is None or (plain(lengths, cnp.NPY_INT64, 1) and cnp.PyArray_DIM(lengths, 0) == rows))
            and flags_fit(mask, rows, steps)
            and flags_fit(mask_out, rows, steps)
            and (mask_out is None or cnp.PyArray_ISWRITEABLE(<cnp.ndarray>mask_out))
        ):
            raise ShapeError(
                f"the packed backend takes {self.inputs} features, gives {self.outputs} and carries {self.width} numbers "
                f"a row; found x {x.dtype} {np.shape(x)}, y {y.dtype} {np.shape(y)}, state {state.dtype} {np.shape(state)}"
            )

    def __dealloc__(self):
        cgru_work_free(self.spare)
        cgru_net_free(self.net)

    def run(self, cnp.ndarray x not None, cnp.ndarray y not None, cnp.ndarray state not None, lengths, mask, mask_out,
            int threads):
        """x (B, T, I) float32 with adjacent features, or ids (B, T) int64; y (B, T, O) or (B, O) float32 with
        adjacent features; state (B, width) float32, advanced in place; lengths (B,) int64, mask (B, T) bool, C order;
        mask_out, if given, receives the mask that flows on.
        """
        cdef cgru_call call
        cdef cgru_work *work
        cdef int status
        self.admit(x, y, state, lengths, mask, mask_out)
        call.rows, call.steps = x.shape[0], x.shape[1]
        call.x = cnp.PyArray_DATA(x)
        call.x_row, call.x_step = x.strides[0] // x.itemsize, x.strides[1] // x.itemsize
        call.y = <float *>cnp.PyArray_DATA(y)
        call.y_row = y.strides[0] // 4
        call.y_step = y.strides[1] // 4 if y.ndim == 3 else 0
        call.state = <float *>cnp.PyArray_DATA(state)
        call.state_row, call.state_rows = state.strides[0] // 4, state.shape[0]
        call.index = NULL
        call.lengths = NULL if lengths is None else <const int64_t *>cnp.PyArray_DATA(lengths)
        call.mask = NULL if mask is None else <const uint8_t *>cnp.PyArray_DATA(mask)
        call.mask_out = NULL if mask_out is None else <uint8_t *>cnp.PyArray_DATA(mask_out)
        call.threads, call.interrupted = threads, NULL
        work, self.spare = self.spare, NULL
        if work == NULL:
            work = cgru_work_new()
        if work == NULL:
            raise MemoryError
        status = run_kept(self.net, &call, work)
        # Another thread may have left its own meanwhile; and what a long call took goes back to the system.
        if self.spare == NULL and cgru_work_bytes(work) <= SPARE_BYTES:
            self.spare = work
        else:
            cgru_work_free(work)
        if status != CGRU_OK:
            refuse(status)


cdef void refuse(int status) except *:
    """Raise what a status of the core means. Callers' mistakes are found before, with messages of their own."""
    if status == CGRU_BAD_LENGTH:
        raise CgruError("lengths: one is outside [0, T]")
    if status == CGRU_BAD_ID:
        raise CgruError("x: a token id is outside the vocabulary")
    if status == CGRU_BAD_INDEX:
        raise CgruError("state: it has no row for a row of x")
    if status == CGRU_BAD_PORT:
        raise ShapeError("an input is missing or an output has no room for the frames of the call")
    if status == CGRU_NO_POSITION:
        raise ShapeError(
            "x: a row has more frames than the network has positions; take shorter sequences, or begin a new stream"
        )
    if status == CGRU_INTERRUPTED:
        reraise()
    raise TooLargeError("no memory for the scratch of a call; take fewer rows or steps at once")


cdef int reraise() except -1:
    """Raise what the handler of a signal has raised: it is set already."""
    return -1


# Scratch a network may keep between calls.
cdef size_t SPARE_BYTES = 16 << 20

# Multiply-adds worth letting other Python threads run: about 20 µs, what retaking the GIL beside a busy one costs.
cdef int64_t RELEASE = 500_000


# Multiply-adds worth looking for signals: 5 to 20 ms, or a quarter of a second in generic C.
cdef int64_t LONG = 500_000_000


cdef int interrupted() noexcept with gil:
    """Runs the handlers of signals that have come. Whether one has raised, as that of Ctrl-C does."""
    return PyErr_CheckSignals() != 0


cdef bint asks(int64_t work):
    """Whether a call of so many multiply-adds is long enough, and in the thread that signals are handled in."""
    if work < LONG:
        return False
    return threading.get_ident() == threading.main_thread().ident


cdef int run_kept(const cgru_net *net, cgru_call *call, cgru_work *work) except -1:
    """The call, on states that lie one after the other: on any other status than CGRU_OK they are as they were."""
    cdef size_t bytes = call.state_row * call.rows * sizeof(float)
    cdef float *before
    cdef int status
    if not asks(cgru_net_cost(net) * call.rows * call.steps):
        return run_call(net, call, work)
    before = <float *>malloc(bytes + 1)
    if before == NULL:
        return CGRU_NO_MEMORY
    memcpy(before, call.state, bytes)
    call.interrupted = interrupted
    status = run_call(net, call, work)
    call.interrupted = NULL
    if status != CGRU_OK:
        memcpy(call.state, before, bytes)
    free(before)
    return status


cdef inline int run_call(const cgru_net *net, const cgru_call *call, cgru_work *work) noexcept:
    cdef int status
    if cgru_net_cost(net) * call.rows * call.steps < RELEASE:
        return cgru_net_run(net, call, work)
    with nogil:
        status = cgru_net_run(net, call, work)
    return status


include "_graph.pxi"

include "_steppers.pxi"

include "_choices.pxi"

include "_rows.pxi"


KINDS = {
    "embedding": CGRU_EMBEDDING,
    "dense": CGRU_DENSE,
    "activation": CGRU_ACTIVATION,
    "masking": CGRU_MASKING,
    "recurrent": CGRU_RECURRENT,
}
