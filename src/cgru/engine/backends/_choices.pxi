# What a search chooses from the scores of a step: tokens, draws, the continuations of beams; the largest of a product.

cdef extern from "loops.h" nogil:
    ctypedef struct cgru_loops:
        pass
    const cgru_loops *cgru_loops_of(const cgru_kernels *)

cdef extern from "search.h" nogil:
    enum: CGRU_LOGITS
    enum: CGRU_PROBABILITIES
    enum: CGRU_CHOSEN
    enum: CGRU_NO_TOKEN
    ctypedef struct cgru_scores:
        const cgru_loops *loops
        const float *scores
        Py_ssize_t row
        int64_t vocabulary
        int kind
        int64_t forbidden
        const uint8_t *allowed
    ctypedef struct cgru_draw_limits:
        double temperature, top_p
        int64_t top_k
    int cgru_likeliest(const cgru_scores *, Py_ssize_t row, int64_t *token, double *score)
    int cgru_draw(const cgru_scores *, Py_ssize_t row, const cgru_draw_limits *, double u, int64_t *order, int64_t *token,
                  double *score)
    int cgru_product_top(const cgru_kernels *, const cgru_matrix *, int64_t rows, const float *x, Py_ssize_t x_row, Py_ssize_t k,
                         float *values, int64_t *items)

cdef extern from "variates.h" nogil:
    double cgru_uniform(uint64_t seed, uint64_t stream, uint64_t index)
    double cgru_normal(double u)

cdef extern from "beam.h" nogil:
    enum: CGRU_NO_ROOM
    ctypedef struct cgru_complete:
        double score
        int64_t step, row, token
    ctypedef struct cgru_beams:
        int64_t inputs, width, stop, most, steps, rows
        int moved
        int64_t *done
        cgru_complete *complete
    int cgru_beams_start(cgru_beams *, int64_t inputs, int64_t width, int64_t best, int64_t stop, int64_t most,
                         const double *divisor)
    void cgru_beams_clear(cgru_beams *)
    int cgru_beams_step(cgru_beams *, const cgru_scores *)
    const int32_t *cgru_beams_parents(const cgru_beams *)
    const int32_t *cgru_beams_tokens(const cgru_beams *)
    void cgru_beams_path(const cgru_beams *, int64_t step, int64_t row, int64_t *tokens, int64_t *rows)

cdef void raise_scores(int status) except *:
    if status == CGRU_NO_TOKEN:
        raise CgruError("search: at a step no token that is allowed has a probability above zero")
    if status == CGRU_NO_ROOM:
        raise TooLargeError("search: no memory for so many beams")
    raise CgruError("search: the network's scores hold NaN or infinity; its weights, or what it was given, are not finite")


cdef class Scores:
    """The scores (B, V) of a step as a search reads them: logits or probabilities, and which tokens may be chosen."""

    cdef cgru_scores s
    cdef Py_ssize_t rows
    cdef object held

    def __init__(self, cnp.ndarray scores not None, bint probabilities, int64_t forbidden=-1, allowed=None):
        if not (strided(scores, cnp.NPY_FLOAT32, 2, True) and (allowed is None or (
                plain(allowed, cnp.NPY_BOOL, 2) and cnp.PyArray_DIM(allowed, 0) == scores.shape[0]
                and cnp.PyArray_DIM(allowed, 1) == scores.shape[1]))):
            raise ShapeError("scores: expected float32 (B, V), and what is allowed as booleans of that shape")
        self.s.scores, self.s.row = <const float *>cnp.PyArray_DATA(scores), scores.strides[0] // 4
        self.s.vocabulary, self.s.kind = scores.shape[1], CGRU_PROBABILITIES if probabilities else CGRU_LOGITS
        self.s.forbidden, self.s.loops = forbidden, cgru_loops_of(kernels())
        self.s.allowed = NULL if allowed is None else <const uint8_t *>cnp.PyArray_DATA(<cnp.ndarray>allowed)
        self.rows, self.held = scores.shape[0], (scores, allowed)

    def likeliest(self, cnp.ndarray token not None, cnp.ndarray score not None):
        """The likeliest token of each row, int64 (B,), and its log-probability, float64 (B,)."""
        self._check(token, score)
        cdef int64_t *tokens = <int64_t *>cnp.PyArray_DATA(token)
        cdef double *found = <double *>cnp.PyArray_DATA(score)
        cdef Py_ssize_t r
        cdef int status
        for r in range(self.rows):
            status = cgru_likeliest(&self.s, r, &tokens[r], &found[r])
            if status != CGRU_CHOSEN:
                raise_scores(status)

    def draw(self, cnp.ndarray u not None, double temperature, int64_t top_k, double top_p, cnp.ndarray token not None,
             cnp.ndarray score not None):
        """A token of each row drawn at u (B,) float64 in [0, 1), and its log-probability."""
        self._check(token, score)
        cdef cgru_draw_limits limits
        cdef int64_t *order
        cdef int64_t *tokens = <int64_t *>cnp.PyArray_DATA(token)
        cdef double *found = <double *>cnp.PyArray_DATA(score)
        cdef double *at
        cdef Py_ssize_t r
        cdef int status = CGRU_CHOSEN
        if not plain(u, cnp.NPY_FLOAT64, 1) or u.shape[0] != self.rows:
            raise ShapeError("u: expected as many float64 as there are rows")
        limits.temperature, limits.top_p, limits.top_k = temperature, top_p, top_k
        at = <double *>cnp.PyArray_DATA(u)
        order = <int64_t *>malloc(self.s.vocabulary * sizeof(int64_t))
        if order == NULL:
            raise TooLargeError("no memory to draw from so many tokens")
        for r in range(self.rows):
            status = cgru_draw(&self.s, r, &limits, at[r], order, &tokens[r], &found[r])
            if status != CGRU_CHOSEN:
                break
        free(order)
        if status != CGRU_CHOSEN:
            raise_scores(status)

    cdef void _check(self, cnp.ndarray token, cnp.ndarray score) except *:
        if not (plain(token, cnp.NPY_INT64, 1) and plain(score, cnp.NPY_FLOAT64, 1) and token.shape[0] == score.shape[0] == self.rows
                and cnp.PyArray_ISWRITEABLE(token) and cnp.PyArray_ISWRITEABLE(score)):
            raise ShapeError("expected as many tokens and scores as there are rows")


cdef class Beams:
    """The beams of a search, as :class:`cgru.search.beams.Beams` says it in numpy."""

    cdef cgru_beams b

    def __cinit__(self, int64_t inputs, int64_t width, int64_t best, int64_t stop, cnp.ndarray divisor not None):
        """divisor: float64 (most steps + 1)."""
        if not (plain(divisor, cnp.NPY_FLOAT64, 1) and divisor.shape[0] > 1 and inputs > 0 and 0 < best <= width):
            raise ShapeError("beams: the numbers of a search do not fit together")
        if cgru_beams_start(&self.b, inputs, width, best, stop, divisor.shape[0] - 1,
                            <const double *>cnp.PyArray_DATA(divisor)) != CGRU_OK:
            raise TooLargeError("search: no memory for so many beams")

    def __dealloc__(self):
        cgru_beams_clear(&self.b)

    @property
    def rows(self):
        return self.b.rows

    @property
    def steps(self):
        return self.b.steps

    @property
    def moved(self):
        return self.b.moved != 0

    @property
    def parents(self):
        return self._last(False)

    @property
    def tokens(self):
        return self._last(True)

    def step(self, Scores scores not None):
        if scores.rows != self.b.rows:
            raise ShapeError("beams: the scores are not those of the beams")
        self.advance(&scores.s)

    cdef void advance(self, const cgru_scores *scores) except *:
        cdef int status
        if self.b.rows < 1 or self.b.steps >= self.b.most:
            raise ShapeError("beams: the search is over")
        status = cgru_beams_step(&self.b, scores)
        if status != CGRU_CHOSEN:
            raise_scores(status)

    def path(self, int64_t step, int64_t row):
        cdef cnp.npy_intp n = step, more = step + 1
        if not (0 <= step <= self.b.steps and row >= 0):
            raise ShapeError("beams: there was no such step")
        cdef cnp.ndarray tokens = cnp.PyArray_SimpleNew(1, &n, cnp.NPY_INT64)
        cdef cnp.ndarray rows = cnp.PyArray_SimpleNew(1, &more, cnp.NPY_INT64)
        cgru_beams_path(&self.b, step, row, <int64_t *>cnp.PyArray_DATA(tokens), <int64_t *>cnp.PyArray_DATA(rows))
        return tokens, rows

    def complete(self, int64_t i):
        cdef cgru_complete *at = self.b.complete + i * self.b.width
        cdef Py_ssize_t k
        if not 0 <= i < self.b.inputs:
            raise ShapeError("beams: there is no such input")
        return [(at[k].score, at[k].step, at[k].row, at[k].token) for k in range(self.b.done[i])]

    cdef cnp.ndarray _last(self, bint tokens):
        cdef cnp.npy_intp n = self.b.rows
        cdef const int32_t *of
        cdef Py_ssize_t i
        if self.b.steps == 0:
            raise ShapeError("beams: there was no step yet")
        of = cgru_beams_tokens(&self.b) if tokens else cgru_beams_parents(&self.b)
        cdef cnp.ndarray made = cnp.PyArray_SimpleNew(1, &n, cnp.NPY_INT64)
        cdef int64_t *to = <int64_t *>cnp.PyArray_DATA(made)
        for i in range(n):
            to[i] = of[i]
        return made


def uniforms(uint64_t seed, cnp.ndarray streams not None, uint64_t index):
    """Number ``index`` of each of the streams (B,) uint64 under a seed: float64 in [0, 1), the same on every machine."""
    if not plain(streams, cnp.NPY_UINT64, 1):
        raise ShapeError("streams: expected uint64 (B,)")
    cdef cnp.npy_intp n = streams.shape[0]
    cdef cnp.ndarray made = cnp.PyArray_SimpleNew(1, &n, cnp.NPY_FLOAT64)
    cdef double *to = <double *>cnp.PyArray_DATA(made)
    cdef const uint64_t *of = <const uint64_t *>cnp.PyArray_DATA(streams)
    cdef Py_ssize_t i
    for i in range(n):
        to[i] = cgru_uniform(seed, of[i], index)
    return made


def normal(cnp.ndarray u not None):
    """The standard normal variate at each u in [0, 1), float64 (…): the same bits on every machine."""
    if not (u.dtype == np.float64 and cnp.PyArray_ISCARRAY_RO(u)):
        raise ShapeError("u: expected float64 in C order")
    cdef cnp.ndarray made = np.empty_like(u)
    cdef double *to = <double *>cnp.PyArray_DATA(made)
    cdef const double *of = <const double *>cnp.PyArray_DATA(u)
    cdef Py_ssize_t i
    for i in range(u.size):
        to[i] = cgru_normal(of[i])
    return made


def top_of_product(Matrix matrix not None, cnp.ndarray x not None, Py_ssize_t k):
    """The k largest of W v + b for each row v of x (B, I): float32 (B, k), best first, and int64 (B, k) which they are.

    Products are taken a block of outputs at a time and never stored together.
    """
    cdef cnp.npy_intp shape[2]
    cdef cnp.ndarray values, items
    cdef int64_t rows = x.shape[0] if x.ndim == 2 else -1
    cdef int status
    if not (strided(x, cnp.NPY_FLOAT32, 2, True) and x.shape[1] == matrix.inner and 1 <= k <= matrix.units):
        raise ShapeError("top_k: the input does not fit the matrix")
    shape[0], shape[1] = rows, k
    values, items = cnp.PyArray_SimpleNew(2, shape, cnp.NPY_FLOAT32), cnp.PyArray_SimpleNew(2, shape, cnp.NPY_INT64)
    cdef const float *at = <const float *>cnp.PyArray_DATA(x)
    cdef Py_ssize_t row = x.strides[0] // 4
    cdef float *best = <float *>cnp.PyArray_DATA(values)
    cdef int64_t *which = <int64_t *>cnp.PyArray_DATA(items)
    cdef const cgru_kernels *of = kernels()
    with nogil:
        status = cgru_product_top(of, matrix.m, rows, at, row, k, best, which)
    if status != CGRU_OK:
        refuse(status)
    return values, items
