# cython: boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""Scans and dense layers on the BLAS that SciPy carries. Arguments are checked by the caller, blas.py.

Every loop runs without the GIL on scratch that the call allocates once, so one kernel serves any number of
Python threads. BLAS is never called from inside a parallel region.
"""

from cython.parallel cimport prange
from libc.stdint cimport int64_t, uint8_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset
from scipy.linalg.cython_blas cimport sgemm, sgemv

import threading

import numpy as np


cdef extern from "_blas_cells.h" nogil:
    ctypedef struct cgru_row:
        const float *x
        float *s
        const float *bias
        const float *vectors
        float *h
        float *own
        float *operand
        float *y
        int H
        int gate
        int candidate
    ctypedef void (*cgru_epilogue)(const cgru_row *, int, int) noexcept nogil
    ctypedef struct cgru_stage:
        int first
        int count
        int of
        cgru_epilogue epilogue
    enum: CGRU_OF_OWN
    enum: CGRU_OF_OPERAND
    enum: CGRU_PROJECTS
    ctypedef struct cgru_cell:
        const char *name
        int gates
        int stages
        cgru_stage stage[2]
    const cgru_cell CGRU_CELLS[]
    int CGRU_CELL_COUNT
    bint cgru_has_small_sgemm() noexcept
    void cgru_finish_row(float *, const float *, int, int) noexcept nogil


# Numbers of scratch a chunk of the input projection may take, and the rows it is worth having anyway.
cdef enum:
    CHUNK_FLOATS = 262144
    CHUNK_ROWS = 128
# Gate pre-activations below which starting an OpenMP team costs more than it saves.
cdef enum:
    PARALLEL_GATES = 32768


# The ways to take a product: one sgemm, one sgemv a row, or sgemm in tiles small enough that OpenBLAS multiplies
# them as they stand, without first copying the weights into an order of its own.
cdef enum:
    WHOLE, BY_ROW, TILES
# What the tiles may be for that (outputs·rows, outputs·rows·inputs, least inputs), and rows of one tile.
cdef enum:
    TILE_AREA = 1152
    TILE_PRODUCT = 1000000
    TILE_INPUTS = 64
    TILE_ROWS = 32
cdef bint SMALL_SGEMM = cgru_has_small_sgemm()


cdef inline int way(int rows, int outputs, int inputs, int threads) noexcept nogil:
    """The fastest way by measurement (bench/blas_crossover.py; OpenBLAS 0.3.30, Zen 4, one core).

    One row goes by sgemv. With AVX-512, tiles win at every other number of rows where H >= 64: 125 µs against
    325 by sgemv and 352 by one sgemm for 8 rows at H = 512, 484 against 716 by sgemm for 32; below that one
    sgemm does. Many rows are left whole where the caller allows threads, so that the BLAS may use its own.
    Without those kernels sgemv stays ahead up to 8 rows, or 16 where the weights are past the second-level
    cache (H = 1024).
    """
    if rows == 1:
        return BY_ROW
    if SMALL_SGEMM and inputs <= TILE_PRODUCT // 16 and (threads == 1 or rows <= TILE_ROWS):
        return TILES if inputs >= TILE_INPUTS else WHOLE
    if rows <= (8 if <Py_ssize_t>outputs * inputs < 2000000 else 16):
        return BY_ROW
    return WHOLE


cdef void multiply(const float *w, int outputs, int inputs, const float *x, int rows, float *y, int stride,
                   int by) noexcept nogil:
    """y = x wᵀ: w (outputs, inputs), x (rows, inputs), y (rows, outputs) with ``stride`` between its rows."""
    cdef float one = 1.0, zero = 0.0
    cdef int step = 1, i, j, high, wide, most
    if rows == 0:
        return
    if by == BY_ROW:
        for i in range(rows):
            sgemv(b"T", &inputs, &outputs, &one, <float *>w, &inputs, <float *>x + <Py_ssize_t>i * inputs, &step,
                  &zero, y + <Py_ssize_t>i * stride, &step)
        return
    high, most = rows, outputs
    if by == TILES:
        high = min(rows, TILE_ROWS, max(TILE_PRODUCT // inputs // 16, 1))
        most = max(min(TILE_AREA, TILE_PRODUCT // inputs) // high // 16 * 16, 16)
    j = 0
    while j < outputs:
        wide = min(most, outputs - j)
        i = 0
        while i < rows:
            step = min(high, rows - i)
            sgemm(b"T", b"N", &wide, &step, &inputs, &one, <float *>w + <Py_ssize_t>j * inputs, &inputs,
                  <float *>x + <Py_ssize_t>i * inputs, &inputs, &zero, y + <Py_ssize_t>i * stride + j, &stride)
            i += step
        j += wide


def product(const float[:, ::1] w, const float[:, ::1] x, float[:, ::1] y, int by, int repeats):
    """y = x wᵀ, ``repeats`` times over, by sgemm (0), an sgemv a row (1) or tiles (2): for the benchmark."""
    cdef int i
    with nogil:
        for i in range(repeats):
            multiply(&w[0, 0], w.shape[0], w.shape[1], &x[0, 0], x.shape[0], &y[0, 0], y.shape[1], by)


cdef extern from "Python.h":
    int PyErr_CheckSignals()

cdef extern from "stop.h" nogil:
    ctypedef struct cgru_stop:
        int (*interrupted)() noexcept nogil
        double asked
    double cgru_clock()
    int cgru_stopped(const cgru_stop *)
    void cgru_stop_ask(cgru_stop *, int64_t work)


cdef int interrupted() noexcept with gil:
    """Runs the handlers of signals that have come. Whether one has raised, as that of Ctrl-C does."""
    return PyErr_CheckSignals() != 0


cdef int reraise() except -1:
    """Raise what the handler of a signal has raised: it is set already."""
    return -1


cdef struct Scratch:
    float *base
    float *inputs      # (chunk rows, features): the valid inputs of a chunk, in the order they are processed
    float *projected   # (chunk rows, G·H): their projection
    float *recurrent   # (B, G·H): one step's recurrent product
    float *h           # (B, P): the emitted state
    float *own         # (B, H): the state array after it, where the cell has one
    float *packed      # (B, H): the state of the rows that step, where they are not the first ones
    float *operand     # (B, H): what a second stage multiplies
    int *rows          # (chunk rows): which row of the batch each row above belongs to
    int *counts        # (chunk steps): how many of them each step has
    uint8_t *emitted   # (B): whether the row has had a valid step


cdef bint allocate(Scratch *s, Py_ssize_t chunk, Py_ssize_t steps, Py_ssize_t B, Py_ssize_t features,
                   Py_ssize_t G, Py_ssize_t H, Py_ssize_t P, bint own, bint operand) noexcept nogil:
    """One block, divided; each part begins on a cache line."""
    cdef Py_ssize_t sizes[7]
    cdef Py_ssize_t total = 16, k
    cdef float *at
    sizes[0] = chunk * features
    sizes[1] = chunk * G * H
    sizes[2] = B * G * H
    sizes[3] = B * P
    sizes[4] = B * H if own else 0
    sizes[5] = B * H
    sizes[6] = B * H if operand else 0
    for k in range(7):
        sizes[k] = (sizes[k] + 15) // 16 * 16
        total += sizes[k]
    s.base = <float *>malloc(total * sizeof(float) + (chunk + steps) * sizeof(int) + B)
    if s.base is NULL:
        return False
    at = <float *>((<size_t>s.base + 63) & ~<size_t>63)
    s.inputs = at
    s.projected = s.inputs + sizes[0]
    s.recurrent = s.projected + sizes[1]
    s.h = s.recurrent + sizes[2]
    s.own = s.h + sizes[3]
    s.packed = s.own + sizes[4]
    s.operand = s.packed + sizes[5]
    s.rows = <int *>(s.base + total)
    s.counts = s.rows + chunk
    s.emitted = <uint8_t *>(s.counts + steps)
    return True


def cells():
    """Names of the cells there are."""
    return [CGRU_CELLS[k].name.decode() for k in range(CGRU_CELL_COUNT)]


cdef class ScanKernel:
    """One direction of one layer: a kernel of :class:`~cgru.engine.interpreter.Interpreter`."""

    cdef const float[:, ::1] w_ih, w_hh, w_hr
    cdef const float[::1] bias, vectors
    cdef const cgru_cell *cell
    cdef int features, H, P, gate, candidate

    def __init__(self, str cell, const float[:, ::1] w_ih, const float[:, ::1] w_hh, const float[:, ::1] w_hr,
                 const float[::1] bias, const float[::1] vectors, int gate, int candidate):
        """``w_hh``, ``w_hr`` and ``vectors`` are None where the cell has none."""
        if cell not in cells():
            raise ValueError(f"the BLAS backend has no cell named {cell!r}")
        self.cell = &CGRU_CELLS[cells().index(cell)]
        self.w_ih, self.w_hh, self.w_hr, self.bias, self.vectors = w_ih, w_hh, w_hr, bias, vectors
        self.features, self.H = w_ih.shape[1], w_ih.shape[0] // self.cell.gates
        self.P = self.H if w_hr is None else w_hr.shape[0]
        self.gate, self.candidate = gate, candidate

    def __call__(self, const float[:, :, :] x, list state, float[:] emitted, valid, bint reverse, bint repeat,
                 int threads):
        cdef Py_ssize_t B = x.shape[0], T = x.shape[1]
        cdef const uint8_t[:, :] mask = None if valid is None else valid.view(np.uint8)
        cdef float[:, :] h = state[0]
        cdef float[:, :] own = state[1] if len(state) > 1 else None
        out = np.empty((B, T, self.P), np.float32)
        cdef float[:, :, ::1] y = out
        cdef cgru_stop stop
        cdef bint enough
        memset(&stop, 0, sizeof(stop))
        stop.asked = cgru_clock()
        if threading.get_ident() == threading.main_thread().ident:  # where signals are handled
            stop.interrupted = interrupted
        if B and T:
            with nogil:
                enough = self.scan(x, h, own, emitted, mask, reverse, repeat, threads, y, &stop)
            if cgru_stopped(&stop):
                reraise()
            if not enough:
                raise MemoryError("no memory for the scratch of one chunk of steps")
        return out

    cdef bint scan(self, const float[:, :, :] x, float[:, :] h, float[:, :] own, float[:] emitted,
                   const uint8_t[:, :] mask, bint reverse, bint repeat, int threads, float[:, :, ::1] y,
                   cgru_stop *stop) noexcept nogil:
        """Chunk after chunk: gather the inputs that count, project them together, then step. False where there is no
        memory; where the call was ended early, the state is as it was."""
        cdef Py_ssize_t B = x.shape[0], T = x.shape[1], GH = self.cell.gates * self.H, H = self.H, P = self.P
        cdef Py_ssize_t first, last, k, t, b, steps, chunk
        cdef int count, done, rows
        cdef Scratch s
        chunk = max(CHUNK_FLOATS // (GH + self.features), CHUNK_ROWS)
        steps = min(max(chunk // B, 1), T)
        if not allocate(&s, steps * B, steps, B, self.features, self.cell.gates, H, P, own is not None,
                        self.cell.stages > 1):
            return False
        for b in range(B):
            s.emitted[b] = emitted[b] == 1
            for k in range(P):
                s.h[b * P + k] = h[b, k]
            if own is not None:
                for k in range(H):
                    s.own[b * H + k] = own[b, k]
        first = 0
        while first < T:
            last = min(first + steps, T)
            rows = self.gather(x, mask, first, last, reverse, &s)
            if rows:
                multiply(&self.w_ih[0, 0], GH, self.features, s.inputs, rows, s.projected, GH,
                         way(rows, GH, self.features, threads))
            done = 0
            for k in range(first, last):
                cgru_stop_ask(stop, B * GH * (self.features + P))
                if cgru_stopped(stop):
                    free(s.base)
                    return True
                t = T - 1 - k if reverse else k
                count = s.counts[k - first]
                if count:
                    self.step(&s, done, count, &y[0, t, 0], T * P, threads)
                if count < B:
                    hold(&s, mask, t, B, P, repeat, y)
                done += count
            first = last
        for b in range(B):
            if s.emitted[b]:
                emitted[b] = 1
            for k in range(P):
                h[b, k] = s.h[b * P + k]
            if own is not None:
                for k in range(H):
                    own[b, k] = s.own[b * H + k]
        free(s.base)
        return True

    cdef int gather(self, const float[:, :, :] x, const uint8_t[:, :] mask, Py_ssize_t first, Py_ssize_t last,
                    bint reverse, Scratch *s) noexcept nogil:
        """The valid inputs of steps first..last, one after the other, and whose they are; gives their number."""
        cdef Py_ssize_t B = x.shape[0], T = x.shape[1], features = self.features, k, t, b, i
        cdef bint dense = x.strides[2] == sizeof(float)
        cdef int n = 0, before
        cdef float *to
        for k in range(first, last):
            t = T - 1 - k if reverse else k
            before = n
            for b in range(B):
                if mask is not None and not mask[b, t]:
                    continue
                to = s.inputs + n * features
                if dense:
                    memcpy(to, &x[b, t, 0], features * sizeof(float))
                else:
                    for i in range(features):
                        to[i] = x[b, t, i]
                s.rows[n] = <int>b
                n += 1
            s.counts[k - first] = n - before
        return n

    cdef void step(self, Scratch *s, int done, int count, float *y, Py_ssize_t y_stride, int threads) noexcept nogil:
        """Advance by one step the ``count`` rows that stand in the chunk from ``done`` on."""
        cdef const cgru_stage *stage
        cdef const float *source
        cdef const float *weight
        cdef float *state
        cdef int GH = self.cell.gates * self.H, H = self.H, k, i, outputs, inputs, width, pieces
        cdef const int *rows = s.rows + done
        cdef bint leading = rows[count - 1] == count - 1
        for i in range(count):
            s.emitted[rows[i]] = 1
        for k in range(self.cell.stages):
            stage = &self.cell.stage[k]
            width = H
            if stage.of == CGRU_PROJECTS:
                source, weight, outputs, inputs = s.operand, &self.w_hr[0, 0], self.P, H
                width = self.P
            else:
                outputs, inputs, source = stage.count * H, H, s.operand
                weight = &self.w_hh[stage.first * H, 0] if stage.count else NULL
                if stage.count and stage.of != CGRU_OF_OPERAND:
                    state = s.own if stage.of == CGRU_OF_OWN else s.h
                    inputs = self.w_hh.shape[1]
                    source = state
                    if not leading:
                        source = s.packed
                        for i in range(count):
                            memcpy(s.packed + <Py_ssize_t>i * inputs, state + <Py_ssize_t>rows[i] * inputs,
                                   inputs * sizeof(float))
            if outputs:
                multiply(weight, outputs, inputs, source, count, s.recurrent + stage.first * H, GH,
                         way(count, outputs, inputs, threads))
            if threads > 1 and <Py_ssize_t>count * outputs >= PARALLEL_GATES:
                pieces = 1 if count >= threads else (threads + count - 1) // count
                for i in prange(count * pieces, num_threads=threads, schedule="static"):
                    self.finish(stage, s, done, i // pieces, i % pieces, pieces, width, y, y_stride)
            else:
                for i in range(count):
                    self.finish(stage, s, done, i, 0, 1, width, y, y_stride)

    cdef void finish(self, const cgru_stage *stage, Scratch *s, int done, int i, int piece, int pieces,
                     int width, float *y, Py_ssize_t y_stride) noexcept nogil:
        """One stage's epilogue for the i-th row of a step, or for one of several pieces of its ``width`` units."""
        cdef Py_ssize_t H = self.H, GH = self.cell.gates * H, row = s.rows[done + i]
        cdef cgru_row q
        q.x = s.projected + (done + i) * GH
        q.s = s.recurrent + i * GH
        q.bias = &self.bias[0]
        q.vectors = NULL if self.vectors is None else &self.vectors[0]
        q.h = s.h + row * self.P
        q.own = s.own + row * H
        q.operand = s.operand + i * H
        q.y = y + row * y_stride
        q.H = self.H
        q.gate = self.gate
        q.candidate = self.candidate
        stage.epilogue(&q, width * piece // pieces, width * (piece + 1) // pieces)


cdef void hold(Scratch *s, const uint8_t[:, :] mask, Py_ssize_t t, Py_ssize_t B, Py_ssize_t H, bint repeat,
               float[:, :, ::1] y) noexcept nogil:
    """The output of the rows without a step at ``t``: their last one again, or zero."""
    cdef Py_ssize_t b
    for b in range(B):
        if mask[b, t]:
            continue
        if repeat and s.emitted[b]:
            memcpy(&y[b, t, 0], s.h + b * H, H * sizeof(float))
        else:
            memset(&y[b, t, 0], 0, H * sizeof(float))


def dense(const float[:, ::1] w, const float[::1] bias, int activation, const float[:, ::1] x, int threads):
    """φ(x wᵀ + bias), bias or None: chunks of rows, each finished while it is in cache."""
    cdef Py_ssize_t N = x.shape[0], chunk = max(CHUNK_FLOATS // w.shape[0], CHUNK_ROWS), at = 0
    cdef int rows, outputs = w.shape[0], inputs = w.shape[1]
    out = np.empty((N, outputs), np.float32)
    cdef float[:, ::1] y = out
    cdef const float *shift = NULL
    if bias is not None:
        shift = &bias[0]
    with nogil:
        while at < N:
            rows = min(N - at, chunk)
            multiply(&w[0, 0], outputs, inputs, &x[at, 0], rows, &y[at, 0], outputs,
                     way(rows, outputs, inputs, threads))
            finish_rows(&y[at, 0], shift, rows, outputs, activation, threads)
            at += rows
    return out


def activate(int activation, float[:, ::1] values, int threads):
    """values ← φ(values), in place; softmax over each row."""
    if values.size:
        with nogil:
            finish_rows(&values[0, 0], NULL, values.shape[0], values.shape[1], activation, threads)


cdef void finish_rows(float *v, const float *bias, Py_ssize_t rows, int width, int activation,
                      int threads) noexcept nogil:
    cdef Py_ssize_t i
    if threads > 1 and rows > 1 and rows * width >= PARALLEL_GATES:
        for i in prange(rows, num_threads=threads, schedule="static"):
            cgru_finish_row(v + i * width, bias, width, activation)
    else:
        for i in range(rows):
            cgru_finish_row(v + i * width, bias, width, activation)
