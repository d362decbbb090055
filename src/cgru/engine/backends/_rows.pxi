# Rows of a graph stepped over inputs given once, and the choices of a search: what a decoder does between two tokens.

cdef extern from "search.h" nogil:
    enum: CGRU_LOGITS
    enum: CGRU_PROBABILITIES
    enum: CGRU_CHOSEN
    enum: CGRU_NO_TOKEN
    ctypedef struct cgru_scores:
        const float *scores
        Py_ssize_t row
        int64_t vocabulary
        int kind
        int64_t forbidden
        const uint8_t *allowed
    ctypedef struct cgru_continuation:
        double score
        int64_t row, token
    ctypedef struct cgru_draw_limits:
        double temperature, top_p
        int64_t top_k
    int cgru_likeliest(const cgru_scores *, Py_ssize_t row, int64_t *token, double *score)
    int cgru_continuations(const cgru_scores *, Py_ssize_t first, Py_ssize_t end, const double *base, Py_ssize_t want,
                           cgru_continuation *made, Py_ssize_t *found)
    int cgru_draw(const cgru_scores *, Py_ssize_t row, const cgru_draw_limits *, double u, int64_t *order, int64_t *token,
                  double *score)
    int cgru_product_top(const cgru_kernels *, const cgru_matrix *, int64_t rows, const float *x, Py_ssize_t x_row, Py_ssize_t k,
                         float *values, int64_t *items)
    double cgru_uniform(uint64_t seed, uint64_t stream, uint64_t index)


cdef class RowSteps:
    """Single steps of any graph whose every step gives a frame: several inputs that advance, others given once.

    Not for several threads: whoever searches owns it. Inputs and outputs are in the graph's order.
    """

    cdef cgru_graph *graph
    cdef cgru_graph_call call
    cdef cgru_port ports_in[64]
    cdef cgru_port ports_out[64]
    cdef cgru_work *work
    cdef int64_t cost
    cdef object net, held
    cdef readonly Py_ssize_t rows

    def __cinit__(self, GraphNet net not None):
        if net.inputs > 64 or len(net.outputs) > 64:
            raise ShapeError("a step takes at most 64 inputs and 64 outputs")
        self.work = cgru_work_new()
        if self.work == NULL:
            raise TooLargeError("no memory for the scratch of a step")
        self.net, self.graph, self.cost, self.rows = net, net.graph, cgru_graph_cost(net.graph), -1

    def __dealloc__(self):
        cgru_work_free(self.work)

    def take(self, list given not None, cnp.ndarray state not None):
        """Go on with these rows: their state (B, width), which steps advance in place, and for each input that is given
        once its array, as :meth:`GraphNet.run` takes it; None for the others."""
        cdef GraphNet net = self.net
        cdef cgru_graph_call *call = &self.call
        cdef Py_ssize_t i
        self.rows = -1
        if len(given) != net.inputs:
            raise ShapeError(f"expected {net.inputs} inputs")
        if not (plain(state, cnp.NPY_FLOAT32, 2) and state.shape[1] >= net.width and cnp.PyArray_ISWRITEABLE(state)):
            raise ShapeError(f"state: expected float32 rows of {net.width} numbers in C order")
        for i in range(net.inputs):
            self.ports_in[i].data = NULL
            if net.values[i][1] != CGRU_STEPS:
                port_of(&self.ports_in[i], given[i], net.values[i], state.shape[0], 1, False)
        call.rows, call.steps, call.before, call.ended = state.shape[0], 1, 0, 0
        call.inputs, call.outputs, call.lengths, call.index = self.ports_in, self.ports_out, NULL, NULL
        call.state, call.state_row, call.state_rows = <float *>cnp.PyArray_DATA(state), state.shape[1], state.shape[0]
        call.threads, call.interrupted = 1, NULL
        self.held, self.rows = (given, state), state.shape[0]

    def move(self, cnp.ndarray state not None):
        """Go on with the same rows from another state, (B, width)."""
        cdef GraphNet net = self.net
        if not (self.rows >= 0 and plain(state, cnp.NPY_FLOAT32, 2) and state.shape[0] == self.rows
                and state.shape[1] >= net.width and cnp.PyArray_ISWRITEABLE(state)):
            raise ShapeError(f"state: expected float32 ({self.rows}, {net.width}) in C order")
        self.call.state, self.call.state_row = <float *>cnp.PyArray_DATA(state), state.shape[1]
        self.held = (self.held[0], state)

    def step(self, list inputs not None, list outputs not None, int threads=1):
        """One step of all rows: arrays (B, 1, F) or ids (B, 1) of the inputs that advance, None for those given once;
        ``outputs``, float32 (B, 1, F), receive the frames."""
        cdef GraphNet net = self.net
        cdef Py_ssize_t i
        cdef int status
        if self.rows < 0:
            raise CgruError("rows: none are taken")
        if len(inputs) != net.inputs or len(outputs) != len(net.outputs):
            raise ShapeError(f"expected {net.inputs} inputs and {len(net.outputs)} outputs")
        for i in range(net.inputs):
            if net.values[i][1] == CGRU_STEPS:
                port_of(&self.ports_in[i], inputs[i], net.values[i], self.rows, 1, False)
        self._aim(outputs)
        self.call.threads = threads
        status = self.run()
        if status != CGRU_OK:
            refuse(status)

    cdef void _aim(self, list outputs) except *:
        cdef GraphNet net = self.net
        cdef Py_ssize_t i
        if len(outputs) != len(net.outputs):
            raise ShapeError(f"expected {len(net.outputs)} outputs")
        for i in range(len(outputs)):
            port_of(&self.ports_out[i], outputs[i], net.values[net.outputs[i]], self.rows, 1, True)

    cdef int run(self) noexcept:
        cdef int status
        if self.cost * self.call.rows < RELEASE:
            return cgru_graph_run(self.graph, &self.call, self.work)
        with nogil:
            status = cgru_graph_run(self.graph, &self.call, self.work)
        return status

    def greedy(self, Py_ssize_t token_input, list outputs not None, cnp.ndarray token not None, cnp.ndarray chosen not None,
               cnp.ndarray total not None, cnp.ndarray over not None, Py_ssize_t first, Py_ssize_t steps, Py_ssize_t least,
               int64_t stop, Py_ssize_t leave, bint probabilities):
        """Steps until ``leave`` rows or more have stopped, or there were as many as ``steps``: each chooses the likeliest
        token and feeds it to the next. Returns how many there were.

        outputs[0] (B, 1, V) gets the scores. token (B, 1) is what goes in next; chosen (B, N) takes the tokens from column
        ``first`` on, total (B,) their log-probabilities beside what it holds; over (B,) uint8 says which rows have
        stopped. ``stop``, which is −1 where nothing stops, is not chosen before column ``least``.
        """
        cdef GraphNet net = self.net
        cdef Py_ssize_t n = self.rows, done = 0, r, stopped = 0, columns
        cdef cgru_scores scores
        cdef int64_t *tokens
        cdef int64_t *to
        cdef double *totals
        cdef uint8_t *ended
        cdef double score = 0
        cdef int status
        if not (n > 0 and plain(token, cnp.NPY_INT64, 2) and plain(chosen, cnp.NPY_INT64, 2) and plain(total, cnp.NPY_FLOAT64, 1)
                and plain(over, cnp.NPY_UINT8, 1) and token.shape[0] == chosen.shape[0] == total.shape[0] == over.shape[0] == n
                and token.shape[1] == 1 and 0 <= first and chosen.shape[1] >= first + steps and 0 <= token_input < net.inputs
                and cnp.PyArray_ISWRITEABLE(token) and cnp.PyArray_ISWRITEABLE(chosen) and cnp.PyArray_ISWRITEABLE(total)
                and cnp.PyArray_ISWRITEABLE(over) and net.values[token_input][2] == CGRU_IDS):
            raise ShapeError("the arrays of a search do not fit its rows")
        tokens, totals, ended = <int64_t *>cnp.PyArray_DATA(token), <double *>cnp.PyArray_DATA(total), <uint8_t *>cnp.PyArray_DATA(over)
        to, columns = <int64_t *>cnp.PyArray_DATA(chosen), chosen.shape[1]
        port_of(&self.ports_in[token_input], token, net.values[token_input], n, 1, False)
        self._aim(outputs)
        scores.scores, scores.row = <const float *>self.ports_out[0].data, self.ports_out[0].row
        scores.vocabulary, scores.allowed = net.values[net.outputs[0]][0], NULL
        scores.kind = CGRU_PROBABILITIES if probabilities else CGRU_LOGITS
        for r in range(n):
            stopped += ended[r]
        self.call.threads = 1
        while done < steps and stopped < leave:
            status = self.run()
            if status != CGRU_OK:
                refuse(status)
            scores.forbidden = stop if first + done < least else -1
            for r in range(n):
                if ended[r]:
                    continue
                status = cgru_likeliest(&scores, r, &tokens[r], &score)
                if status != CGRU_CHOSEN:
                    raise_scores(status)
                to[r * columns + first + done] = tokens[r]
                totals[r] += score
                if tokens[r] == stop:
                    ended[r] = 1
                    stopped += 1
            done += 1
            if done % 64 == 0 and PyErr_CheckSignals():
                reraise()
        return done


cdef void raise_scores(int status) except *:
    if status == CGRU_NO_TOKEN:
        raise CgruError("search: at a step no token that is allowed has a probability above zero")
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
        self.s.forbidden = forbidden
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

    def continuations(self, cnp.ndarray base not None, cnp.ndarray bounds not None, cnp.ndarray want not None):
        """The best continuations of groups of rows: of rows bounds[g] to bounds[g + 1] the want[g] best.

        base (B,) float64 is what each row's score begins with. Returns for all groups, one after the other, rows, tokens
        (int64) and scores (float64), best first, and how many there are of each group.
        """
        cdef Py_ssize_t groups = want.shape[0], g, i, most = 0
        cdef Py_ssize_t found = 0
        cdef const int64_t *bound = <const int64_t *>cnp.PyArray_DATA(bounds)
        cdef const int64_t *wanted = <const int64_t *>cnp.PyArray_DATA(want)
        cdef cgru_continuation *made
        cdef int status = CGRU_CHOSEN
        if not (plain(base, cnp.NPY_FLOAT64, 1) and plain(bounds, cnp.NPY_INT64, 1) and plain(want, cnp.NPY_INT64, 1)
                and base.shape[0] == self.rows and bounds.shape[0] == groups + 1):
            raise ShapeError("continuations: the groups do not fit the rows")
        for g in range(groups):
            if not 0 <= bound[g] <= bound[g + 1] <= self.rows or wanted[g] < 1:
                raise ShapeError("continuations: the groups do not fit the rows")
            most = max(most, wanted[g])
        rows, tokens, scores, counts = [], [], [], []
        made = <cgru_continuation *>malloc((most + 1) * sizeof(cgru_continuation))
        if made == NULL:
            raise TooLargeError("no memory for so wide a beam")
        for g in range(groups):
            status = cgru_continuations(
                &self.s, bound[g], bound[g + 1], <const double *>cnp.PyArray_DATA(base), wanted[g], made, &found
            )
            if status != CGRU_CHOSEN:
                break
            counts.append(found)
            for i in range(found):
                rows.append(made[i].row)
                tokens.append(made[i].token)
                scores.append(made[i].score)
        free(made)
        if status != CGRU_CHOSEN:
            raise_scores(status)
        return rows, tokens, scores, counts

    cdef void _check(self, cnp.ndarray token, cnp.ndarray score) except *:
        if not (plain(token, cnp.NPY_INT64, 1) and plain(score, cnp.NPY_FLOAT64, 1) and token.shape[0] == score.shape[0] == self.rows
                and cnp.PyArray_ISWRITEABLE(token) and cnp.PyArray_ISWRITEABLE(score)):
            raise ShapeError("expected as many tokens and scores as there are rows")


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
