# Rows of a graph stepped over inputs given once, and the loops of a search: choices between steps, without Python.

cdef extern from "forecast.h" nogil:
    enum: CGRU_VALUE
    enum: CGRU_GAUSSIAN
    enum: CGRU_STUDENT
    enum: CGRU_SCALE_LINEAR
    enum: CGRU_SCALE_LOG
    enum: CGRU_SCALE_SOFTPLUS
    enum: CGRU_FINE
    ctypedef struct cgru_head:
        int head, scale, drawn, size
        uint64_t seed
    int cgru_head_values(const cgru_head *, int64_t rows, const float *output, Py_ssize_t output_row, int64_t t, float *values,
                         Py_ssize_t values_row)

# What a step of a loop counts beside its multiply-adds: of a tiny network it is most of the time.
cdef int64_t STEP = 50_000


cdef class RowSteps:
    """Single steps of any graph whose every step gives a frame: several inputs that advance, others given once.

    Not for several threads: whoever searches owns it. Inputs and outputs are in the graph's order.
    """

    cdef cgru_graph *graph
    cdef cgru_graph_call call
    cdef cgru_port ports_in[64]
    cdef cgru_port ports_out[64]
    cdef cgru_work *work
    cdef int64_t cost, unheard
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

    # ---- searches ------------------------------------------------------------------------------------------------

    cdef void advance(self) except *:
        """A step of a loop, in which Ctrl-C is heard."""
        cdef int status = self.run()
        if status != CGRU_OK:
            refuse(status)
        self.unheard += self.cost * self.call.rows + STEP
        if self.unheard >= LONG:
            self.unheard = 0
            if PyErr_CheckSignals():
                reraise()

    cdef void _ready(self, Py_ssize_t fed, cnp.ndarray frame, list outputs) except *:
        """Outputs (B, 1, F), and the array that input number ``fed`` reads at every step."""
        cdef GraphNet net = self.net
        if not (self.rows > 0 and 0 <= fed < net.inputs and net.values[fed][1] == CGRU_STEPS and cnp.PyArray_ISWRITEABLE(frame)):
            raise ShapeError("the arrays of a search do not fit its rows")
        port_of(&self.ports_in[fed], frame, net.values[fed], self.rows, 1, False)
        self._aim(outputs)
        self.call.threads = 1

    cdef cgru_scores _scores(self, bint probabilities) noexcept:
        """Where the first output's scores lie at every step."""
        cdef GraphNet net = self.net
        cdef cgru_scores scores
        scores.loops = cgru_loops_of(kernels())
        scores.scores, scores.row = <const float *>self.ports_out[0].data, self.ports_out[0].row
        scores.vocabulary, scores.allowed, scores.forbidden = net.values[net.outputs[0]][0], NULL, -1
        scores.kind = CGRU_PROBABILITIES if probabilities else CGRU_LOGITS
        return scores

    def tokens(self, Py_ssize_t fed, list outputs not None, cnp.ndarray token not None, cnp.ndarray chosen not None,
               cnp.ndarray total not None, cnp.ndarray over not None, Py_ssize_t first, Py_ssize_t steps, Py_ssize_t least,
               int64_t stop, Py_ssize_t leave, bint probabilities, draws=None, cnp.ndarray which=None):
        """Steps until ``leave`` rows or more have stopped, or there were as many as ``steps``: each chooses a token and
        feeds it to the next. Returns how many there were.

        outputs[0] (B, 1, V) gets the scores. token (B, 1) is what goes in next, to input number ``fed``; chosen (B, N)
        takes the tokens from column ``first`` on, total (B,) their log-probabilities beside what it holds; over (B,) uint8
        says which rows have stopped. ``stop``, which is −1 where nothing stops, is not chosen before column ``least``.
        ``draws`` is temperature, top_k, top_p and seed of a draw, in which row r takes number c of stream which[r] (uint64)
        for column c; else the likeliest token is chosen.
        """
        cdef Py_ssize_t n = self.rows, done = 0, r, stopped = 0, columns
        cdef cgru_scores scores
        cdef cgru_draw_limits limits
        cdef uint64_t seed = 0
        cdef const uint64_t *stream = NULL
        cdef int64_t *order = NULL
        cdef int64_t *tokens
        cdef int64_t *to
        cdef double *totals
        cdef uint8_t *ended
        cdef double score = 0
        cdef int status
        if not (plain(token, cnp.NPY_INT64, 2) and plain(chosen, cnp.NPY_INT64, 2) and plain(total, cnp.NPY_FLOAT64, 1)
                and plain(over, cnp.NPY_UINT8, 1) and token.shape[0] == chosen.shape[0] == total.shape[0] == over.shape[0] == n
                and token.shape[1] == 1 and 0 <= first and chosen.shape[1] >= first + steps
                and cnp.PyArray_ISWRITEABLE(chosen) and cnp.PyArray_ISWRITEABLE(total) and cnp.PyArray_ISWRITEABLE(over)
                and (draws is None or (plain(which, cnp.NPY_UINT64, 1) and which.shape[0] == n))):
            raise ShapeError("the arrays of a search do not fit its rows")
        self._ready(fed, token, outputs)
        scores = self._scores(probabilities)
        tokens, totals, ended = <int64_t *>cnp.PyArray_DATA(token), <double *>cnp.PyArray_DATA(total), <uint8_t *>cnp.PyArray_DATA(over)
        to, columns = <int64_t *>cnp.PyArray_DATA(chosen), chosen.shape[1]
        for r in range(n):
            stopped += ended[r]
        if draws is not None:
            limits.temperature, limits.top_k, limits.top_p, seed = draws
            stream = <const uint64_t *>cnp.PyArray_DATA(which)
            order = <int64_t *>malloc(scores.vocabulary * sizeof(int64_t))
            if order == NULL:
                raise TooLargeError("no memory to draw from so many tokens")
        try:
            while done < steps and stopped < leave:
                self.advance()
                scores.forbidden = stop if first + done < least else -1
                for r in range(n):
                    if ended[r]:
                        continue
                    if order == NULL:
                        status = cgru_likeliest(&scores, r, &tokens[r], &score)
                    else:
                        status = cgru_draw(
                            &scores, r, &limits, cgru_uniform(seed, stream[r], first + done), order, &tokens[r], &score
                        )
                    if status != CGRU_CHOSEN:
                        raise_scores(status)
                    to[r * columns + first + done] = tokens[r]
                    totals[r] += score
                    if tokens[r] == stop:
                        ended[r] = 1
                        stopped += 1
                done += 1
        finally:
            free(order)
        return done

    def beam(self, Beams beams not None, Py_ssize_t fed, list outputs not None, cnp.ndarray token not None,
             cnp.ndarray state not None, cnp.ndarray spare not None, Py_ssize_t least, bint probabilities):
        """Steps of all beams until some input has more of them or fewer, or the search is over. The last of them has
        changed ``beams`` alone; those before have put the rows in the order of their beams.

        outputs[0] (B, 1, V) gets the scores; token (B, 1) is what goes in next, to input number ``fed``. The stop token is
        not chosen before step ``least``. Returns whether the rows' state now lies in ``spare``, which is as ``state``.
        """
        cdef GraphNet net = self.net
        cdef Py_ssize_t n = self.rows, r, width, row
        cdef cgru_scores scores
        cdef int64_t *tokens
        cdef const int32_t *parents
        cdef const int32_t *chosen
        cdef float *at
        cdef float *to
        cdef bint moved = False
        if not (n > 0 and beams.b.rows == n and plain(token, cnp.NPY_INT64, 2) and token.shape[0] == n and token.shape[1] == 1
                and plain(spare, cnp.NPY_FLOAT32, 2) and plain(state, cnp.NPY_FLOAT32, 2) and state.shape[0] == spare.shape[0] == n
                and state.shape[1] == spare.shape[1] and state.shape[1] >= net.width and cnp.PyArray_ISWRITEABLE(state)
                and cnp.PyArray_ISWRITEABLE(spare)):
            raise ShapeError("the arrays of a search do not fit its rows")
        self._ready(fed, token, outputs)
        scores = self._scores(probabilities)
        tokens, width = <int64_t *>cnp.PyArray_DATA(token), state.shape[1]
        at, to = <float *>cnp.PyArray_DATA(state), <float *>cnp.PyArray_DATA(spare)
        self.call.state, self.call.state_row, self.held = at, width, (self.held[0], state, spare)
        while True:
            self.advance()
            scores.forbidden = beams.b.stop if beams.b.steps < least else -1
            beams.advance(&scores)
            if beams.b.moved or beams.b.rows == 0:
                return moved
            parents, chosen = cgru_beams_parents(&beams.b), cgru_beams_tokens(&beams.b)
            for r in range(n):
                row = parents[r]
                tokens[r] = chosen[r]
                memcpy(to + r * width, at + row * width, width * sizeof(float))
            at, to, moved = to, at, not moved
            self.call.state = at

    def forecast(self, Py_ssize_t fed, list outputs not None, cnp.ndarray frame not None, cnp.ndarray first not None,
                 cnp.ndarray beside not None, cnp.ndarray made not None, str head not None, str scale not None, seed):
        """A value at every step by what the step before said of it: made (B, N, D) takes them.

        first (B, O) is what the first value comes of, outputs[0] (B, 1, O) what the others do; frame (B, 1, D + K) is what
        goes in, to input number ``fed``: a value, and beside[:, t] of beside (B, N, K). ``head`` and ``scale`` as in
        HEADS and SCALES; ``seed`` None: nothing is drawn. Returns how many steps there were and CGRU_FINE, or what was
        wrong with what the last of them gave.
        """
        cdef Py_ssize_t n = self.rows, t, r, steps, size, known
        cdef cgru_head asked
        cdef const float *y
        cdef const float *aside
        cdef float *to
        cdef float *into
        cdef Py_ssize_t row
        cdef int status = CGRU_FINE
        asked.head, asked.scale, asked.drawn = HEADS[head], SCALES[scale], seed is not None
        asked.seed = 0 if seed is None else seed
        if not (plain(made, cnp.NPY_FLOAT32, 3) and plain(beside, cnp.NPY_FLOAT32, 3) and plain(frame, cnp.NPY_FLOAT32, 3)
                and plain(first, cnp.NPY_FLOAT32, 2) and made.shape[0] == beside.shape[0] == first.shape[0] == n
                and made.shape[1] == beside.shape[1] and frame.shape[2] == made.shape[2] + beside.shape[2]
                and first.shape[1] >= (asked.head + 1) * made.shape[2] and cnp.PyArray_ISWRITEABLE(made)):
            raise ShapeError("the arrays of a forecast do not fit its rows")
        self._ready(fed, frame, outputs)
        if (<tuple>(<GraphNet>self.net).values[(<GraphNet>self.net).outputs[0]])[0] != first.shape[1]:
            raise ShapeError("the arrays of a forecast do not fit its rows")
        steps, size, known, asked.size = made.shape[1], made.shape[2], beside.shape[2], made.shape[2]
        y, row = floats(first), first.shape[1]
        to, into, aside = floats(made), floats(frame), floats(beside)
        for t in range(steps):
            if t > 0:
                self.advance()
                y, row = <const float *>self.ports_out[0].data, self.ports_out[0].row
            with nogil:
                status = cgru_head_values(&asked, n, y, row, t, to + t * size, steps * size)
                for r in range(n):
                    memcpy(into + r * (size + known), to + (r * steps + t) * size, size * sizeof(float))
                    memcpy(into + r * (size + known) + size, aside + (r * steps + t) * known, known * sizeof(float))
            if status != CGRU_FINE:
                return t, status
        return steps, CGRU_FINE


HEADS = {"value": CGRU_VALUE, "gaussian": CGRU_GAUSSIAN, "student": CGRU_STUDENT}
SCALES = {"linear": CGRU_SCALE_LINEAR, "log": CGRU_SCALE_LOG, "softplus": CGRU_SCALE_SOFTPLUS}
