# cython: language_level=3, boundscheck=False, wraparound=False, embedsignature=False
"""Binds the C core: buffers in, a call without the GIL, a status out. No arithmetic and no policy."""

import os

import numpy as np

cimport numpy as cnp
from cpython.list cimport PyList_CheckExact, PyList_GetItem, PyList_Size  # in the stable ABI, as the macros are not
from cpython.long cimport PyLong_AsLongLongAndOverflow, PyLong_CheckExact
from cpython.ref cimport PyObject
from libc.stdint cimport int64_t, uint8_t
from libc.stdlib cimport calloc, free

from ...errors import CgruError, ShapeError, UnsupportedError
from ...spec.precision import Stored
from ...threads import resolve

cnp.import_array()

cdef extern from "cgru/cgru.h" nogil:
    enum: CGRU_OK
    ctypedef struct cgru_matrix:
        int panels
    ctypedef struct cgru_scan:
        int panels
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
        int64_t state_row
        const int64_t *index
        int threads
    int64_t cgru_net_cost(const cgru_net *net)
    int cgru_net_run(const cgru_net *net, const cgru_call *call, cgru_work *work)
    cgru_work *cgru_work_new()
    size_t cgru_work_bytes(const cgru_work *work)
    void cgru_work_free(cgru_work *work)

cdef extern from "kernels.h" nogil:
    enum: CGRU_FLOAT32
    enum: CGRU_INT8
    enum: CGRU_INT8X16
    enum: CGRU_BF16
    enum: CGRU_FP16
    ctypedef struct cgru_cell:
        const char *name
    ctypedef struct cgru_arithmetic:
        pass
    ctypedef struct cgru_kernels:
        const char *name
        int vl
        const cgru_arithmetic *of[1]
    const cgru_kernels *cgru_kernels_at(int index)
    int cgru_kernels_usable(int index)
    const cgru_cell *cgru_cell_named(const cgru_arithmetic *, const char *name)

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
        call.rows, call.steps = x.shape[0], x.shape[1]
        call.x = cnp.PyArray_DATA(x)
        call.x_row, call.x_step = x.strides[0] // x.itemsize, x.strides[1] // x.itemsize
        call.y = <float *>cnp.PyArray_DATA(y)
        call.y_row = y.strides[0] // 4
        call.y_step = y.strides[1] // 4 if y.ndim == 3 else 0
        call.state = <float *>cnp.PyArray_DATA(state)
        call.state_row = state.strides[0] // 4
        call.index = NULL
        call.lengths = NULL if lengths is None else <const int64_t *>cnp.PyArray_DATA(lengths)
        call.mask = NULL if mask is None else <const uint8_t *>cnp.PyArray_DATA(mask)
        call.mask_out = NULL if mask_out is None else <uint8_t *>cnp.PyArray_DATA(mask_out)
        call.threads = threads
        work, self.spare = self.spare, NULL
        if work == NULL:
            work = cgru_work_new()
        if work == NULL:
            raise MemoryError
        status = run_call(self.net, &call, work)
        # Another thread may have left its own meanwhile; and what a long call took goes back to the system.
        if self.spare == NULL and cgru_work_bytes(work) <= SPARE_BYTES:
            self.spare = work
        else:
            cgru_work_free(work)
        if status != CGRU_OK:
            raise MemoryError("scratch for a call of the packed backend")


# Scratch a network may keep between calls.
cdef size_t SPARE_BYTES = 16 << 20

# Multiply-adds worth letting other Python threads run: about 20 µs, what retaking the GIL beside a busy one costs.
cdef int64_t RELEASE = 500_000


cdef inline int run_call(const cgru_net *net, const cgru_call *call, cgru_work *work) noexcept:
    cdef int status
    if cgru_net_cost(net) * call.rows * call.steps < RELEASE:
        return cgru_net_run(net, call, work)
    with nogil:
        status = cgru_net_run(net, call, work)
    return status


# ---- one step at a time -----------------------------------------------------------------------------------------

cdef inline bint plain(object value, int kind, int ndim) noexcept:
    """Whether value is an aligned, C-ordered array of exactly that type and number of axes."""
    return (
        cnp.PyArray_CheckExact(value)
        and cnp.PyArray_TYPE(<cnp.ndarray>value) == kind
        and cnp.PyArray_NDIM(<cnp.ndarray>value) == ndim
        and cnp.PyArray_ISCARRAY_RO(<cnp.ndarray>value)
    )


cdef class Stepper:
    """Steps a fixed batch of rows, or a choice of them, through a network; holds scratch and the call's frame.

    Subclasses hold the state, say with ``_called`` what they are to the user, and with :meth:`_admit` what to make of
    input that is not as it should be.
    """

    cdef cgru_net *net
    cdef cgru_work *work
    cdef cgru_call call
    cdef readonly Py_ssize_t inputs, outputs
    cdef bint ids, busy
    cdef object held

    def __dealloc__(self):
        cgru_work_free(self.work)

    def _bind(self, Net net not None, cnp.ndarray state not None, Py_ssize_t inputs, Py_ssize_t outputs, bint ids):
        """The network, the state rows (B, width) that steps advance in place, and the features in and out."""
        self.held = (net, state)
        self.net = net.net
        self.inputs, self.outputs, self.ids = inputs, outputs, ids
        self.call.rows, self.call.steps, self.call.threads = state.shape[0], 1, 1
        self.call.state = <float *>cnp.PyArray_DATA(state)
        self.call.state_row = state.shape[1]
        self.call.x_row, self.call.y_row = 1 if ids else inputs, outputs
        self.call.x_step = self.call.y_step = 0
        if self.work == NULL:
            self.work = cgru_work_new()
        if self.work == NULL:
            raise MemoryError

    def _enter(self):
        """Claim the stepper for one call, or refuse: it is one thread's at a time."""
        if self.busy:
            raise CgruError(f"this {self._called} is in use by another thread; give each thread its own")
        self.busy = True

    def _leave(self):
        self.busy = False

    cdef inline int _run(self, cnp.ndarray x, cnp.ndarray y) noexcept:
        """The call itself. The stepper must be claimed: its frame is what a call under way reads from."""
        self.call.x = cnp.PyArray_DATA(x)
        self.call.y = <float *>cnp.PyArray_DATA(y)
        return run_call(self.net, &self.call, self.work)

    cdef cnp.ndarray _receive(self, object out, Py_ssize_t batch, bint single, cnp.ndarray x):
        """out if it can take the result without touching x."""
        cdef char *start
        cdef char *data
        if plain(out, cnp.NPY_FLOAT32, 1 if single else 2) and cnp.PyArray_ISWRITEABLE(<cnp.ndarray>out) and (
            cnp.PyArray_DIM(out, 0) == self.outputs
            if single
            else cnp.PyArray_DIM(out, 0) == batch and cnp.PyArray_DIM(out, 1) == self.outputs
        ):
            start, data = <char *>cnp.PyArray_DATA(<cnp.ndarray>out), <char *>cnp.PyArray_DATA(x)
            if start + cnp.PyArray_NBYTES(<cnp.ndarray>out) <= data or data + cnp.PyArray_NBYTES(x) <= start:
                return out
            raise ShapeError("out: it overlaps x; give a separate array")
        raise ShapeError(f"out: expected a float32 array of shape {(batch, self.outputs)[single:]} in C order that can be written to")


cdef class BatchStepper(Stepper):
    """One step of every row at once."""

    def step(self, x, out=None):
        """One time step: features (B, I) → (B, O), or (I,) → (O,) for a batch of one; ids (B,) or one id.

        ``out`` receives the result if given: float32 of its exact shape, C order. Raises :class:`ShapeError` before
        anything is changed, and :class:`CgruError` where another thread is stepping this stream.
        """
        cdef cnp.npy_intp shape[2]
        cdef Py_ssize_t batch = self.call.rows
        cdef cnp.ndarray y
        cdef int status
        if not self.ids and plain(x, cnp.NPY_FLOAT32, 1) and batch == 1 and cnp.PyArray_DIM(x, 0) == self.inputs:
            single = True
        elif (
            not self.ids
            and plain(x, cnp.NPY_FLOAT32, 2)
            and cnp.PyArray_DIM(x, 0) == batch
            and cnp.PyArray_DIM(x, 1) == self.inputs
        ):
            single = False
        else:
            x, single = self._admit(x)
        if out is None:
            shape[0], shape[1] = batch, self.outputs
            y = cnp.PyArray_SimpleNew(1, &shape[1], cnp.NPY_FLOAT32) if single else (
                cnp.PyArray_SimpleNew(2, shape, cnp.NPY_FLOAT32))
        else:
            y = self._receive(out, batch, single, x)
        if self.busy:
            self._enter()
        self.busy = True
        status = self._run(x, y)
        self.busy = False
        if status != CGRU_OK:
            raise MemoryError("scratch for a step")
        return y


cdef class ChoiceStepper(Stepper):
    """One step of some rows, each named by its id: a serial number times a power of two, plus the row.

    Subclasses say with :meth:`_rows` and :meth:`_input` what to make of ids and input that are not as they should be.
    """

    cdef object names
    cdef const int64_t *owner
    cdef int64_t *place
    cdef int64_t capacity, low

    def _name(self, cnp.ndarray owner not None, cnp.ndarray place not None, int64_t most):
        """owner: the id of each row; place: scratch for as many; both int64. Ids modulo most are rows."""
        self.names = (owner, place)
        self.owner, self.place = <const int64_t *>cnp.PyArray_DATA(owner), <int64_t *>cnp.PyArray_DATA(place)
        self.capacity, self.low = owner.shape[0], most - 1

    cdef object _find(self, object sids):
        """The rows of ids that come as a list of ints or an array of int64, each open and named once; else None."""
        cdef const int64_t *given = NULL
        cdef cnp.npy_intp n
        cdef Py_ssize_t i
        cdef int64_t sid, row
        cdef int64_t *rows
        cdef int overflow = 0
        cdef PyObject *item
        cdef cnp.ndarray found
        if PyList_CheckExact(sids):
            n = PyList_Size(sids)
        elif plain(sids, cnp.NPY_INT64, 1):
            n, given = cnp.PyArray_DIM(sids, 0), <const int64_t *>cnp.PyArray_DATA(<cnp.ndarray>sids)
        else:
            return None
        found = cnp.PyArray_SimpleNew(1, &n, cnp.NPY_INT64)
        rows = <int64_t *>cnp.PyArray_DATA(found)
        for i in range(n):
            if given != NULL:
                sid = given[i]
            else:
                item = PyList_GetItem(sids, i)
                if not PyLong_CheckExact(<object>item):
                    return None
                sid = PyLong_AsLongLongAndOverflow(<object>item, &overflow)
            row = sid & self.low
            if overflow or sid < 0 or row >= self.capacity or self.owner[row] != sid:
                return None
            rows[i] = row
            self.place[row] = i
        for i in range(n):
            if self.place[rows[i]] != i:
                return None
        return found

    def step(self, sids, x, out=None, *, threads=None):
        """One step of the streams named: ``x`` (n, I), or ids (n,), row i for the i-th of them → (n, O).

        ``out`` receives the result if given: float32 (n, O) in C order. Raises :class:`CgruError` for an id that is
        not open or stands twice, and :class:`ShapeError` for input that does not fit.
        """
        cdef cnp.npy_intp shape[2]
        cdef cnp.ndarray y
        cdef int team = min(resolve(threads), 1 << 20)
        if self.busy:
            self._enter()
        self.busy = True
        try:
            rows = self._find(sids)
            if rows is None:
                rows = self._rows(sids)
            shape[0], shape[1] = cnp.PyArray_DIM(rows, 0), self.outputs
            if self.ids or not (
                plain(x, cnp.NPY_FLOAT32, 2)
                and cnp.PyArray_DIM(x, 0) == shape[0]
                and cnp.PyArray_DIM(x, 1) == self.inputs
            ):
                x = self._input(x, shape[0])
            if out is None:
                y = cnp.PyArray_SimpleNew(2, shape, cnp.NPY_FLOAT32)
            else:
                y = self._receive(out, shape[0], False, x)
            self.call.rows, self.call.threads = shape[0], team
            self.call.index = <const int64_t *>cnp.PyArray_DATA(<cnp.ndarray>rows)
            if shape[0] and self._run(x, y) != CGRU_OK:
                raise MemoryError("scratch for a step")
        finally:
            self.busy = False
        return y


KINDS = {
    "embedding": CGRU_EMBEDDING,
    "dense": CGRU_DENSE,
    "activation": CGRU_ACTIVATION,
    "masking": CGRU_MASKING,
    "recurrent": CGRU_RECURRENT,
}
