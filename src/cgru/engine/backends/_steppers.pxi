# One step at a time: the parts of streams and pools that call the core with nothing of Python's between.

# Counts forks, so that a call inherited from the parent is known for what it is.
cdef int generation = 1


def _forked():
    global generation
    generation += 1


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)


cdef class Stepper:
    """Steps a fixed batch of rows, or a choice of them, through a network; holds scratch and the call's frame.

    Subclasses hold the state, say with ``_called`` what they are to the user, and with :meth:`_admit` what to make of
    input that is not as it should be.
    """

    cdef cgru_net *net
    cdef cgru_graph *graph  # instead of net, for a network that is no chain
    cdef cgru_graph_call graph_call
    cdef cgru_port ports_in[8]
    cdef cgru_port ports_out[16]
    cdef int given          # which of the graph's inputs a step brings
    cdef int64_t cost       # of a row and step
    cdef bint made
    cdef cgru_work *work
    cdef cgru_call call
    cdef readonly Py_ssize_t inputs, outputs
    cdef bint ids
    cdef int busy  # the generation of the process with a call under way, else 0
    cdef object held

    def __dealloc__(self):
        cgru_work_free(self.work)

    def _bind(self, net not None, cnp.ndarray state not None):
        """The :class:`Net` or :class:`GraphNet`, and the state rows (B, width) that steps advance in place. Once: a step
        may be under way.

        A graph must take one input that advances, and give outputs that all have a frame for each step: they come as
        one array (B, O), one after the other in their order.
        """
        if self.made:
            raise CgruError(f"this {self._called} is made already; make another")
        if not (plain(state, cnp.NPY_FLOAT32, 2) and cnp.PyArray_ISWRITEABLE(state) and state.shape[1] >= net.width):
            raise ShapeError(f"state: expected float32 rows of {net.width} numbers in C order")
        self.work = cgru_work_new()
        if self.work == NULL:
            raise TooLargeError("no memory for the scratch of a step")
        if isinstance(net, GraphNet):
            self.bind_graph(<GraphNet>net)
        else:
            self.net, self.cost = (<Net?>net).net, cgru_net_cost((<Net>net).net)
            self.inputs, self.outputs, self.ids = net.inputs, net.outputs, net.ids
        self.held, self.made = (net, state), True
        self.call.rows, self.call.steps, self.call.threads = state.shape[0], 1, 1
        self.call.state = <float *>cnp.PyArray_DATA(state)
        self.call.state_row, self.call.state_rows = state.shape[1], state.shape[0]
        self.call.x_row, self.call.y_row = 1 if self.ids else self.inputs, self.outputs
        self.call.x_step = self.call.y_step = 0

    cdef void bind_graph(self, GraphNet net) except *:
        cdef cgru_graph_call *call = &self.graph_call
        cdef Py_ssize_t i
        self.given = -1
        if net.inputs > 8 or len(net.outputs) > 16:
            raise ShapeError("a step takes at most 8 inputs and 16 outputs")
        for i in range(net.inputs):
            size, clock, content = net.values[i]
            if content == CGRU_MASK:
                continue
            if self.given >= 0 or clock != CGRU_STEPS:
                raise ShapeError("a step takes one input that advances")
            self.given, self.inputs, self.ids = i, size, content == CGRU_IDS
        for i, value in enumerate(net.outputs):
            size, clock, content = net.values[value]
            if clock != CGRU_STEPS or content != CGRU_FEATURES:
                raise ShapeError("a step gives outputs with a frame for each step")
            self.ports_out[i].frames = 1
            self.ports_out[i].frame = self.outputs  # until the call: where in a row of the result it begins
            self.outputs += size
        call.steps, call.before, call.ended = 1, 0, 0
        call.inputs, call.outputs, call.lengths = self.ports_in, self.ports_out, NULL
        self.graph, self.cost = net.graph, cgru_graph_cost(net.graph)

    cdef int run_graph(self) noexcept:
        cdef cgru_graph_call *call = &self.graph_call
        cdef Py_ssize_t i, count = len((<GraphNet>(<tuple>self.held)[0]).outputs)
        call.rows, call.index, call.threads = self.call.rows, self.call.index, self.call.threads
        call.state, call.state_row, call.state_rows = self.call.state, self.call.state_row, self.call.state_rows
        self.ports_in[self.given].data, self.ports_in[self.given].row = self.call.x, self.call.x_row
        for i in range(count):
            self.ports_out[i].data, self.ports_out[i].row = self.call.y + self.ports_out[i].frame, self.outputs
        if self.cost * call.rows < RELEASE:
            return cgru_graph_run(self.graph, call, self.work)
        with nogil:
            i = cgru_graph_run(self.graph, call, self.work)
        return i

    def _enter(self):
        """Take the stepper for one call, or refuse: it is one thread's at a time."""
        if not self.made:
            raise CgruError(f"this {self._called} was never made; a network's own method makes one")
        if self.busy:
            raise in_use(self._called, self.busy != generation)
        self.busy = generation

    def _leave(self):
        self.busy = 0

    cdef inline void _aim(self, cnp.ndarray x, cnp.ndarray y) noexcept:
        """What the next call reads and writes. The stepper must be claimed: a call under way reads from its frame."""
        self.call.x = cnp.PyArray_DATA(x)
        self.call.y = <float *>cnp.PyArray_DATA(y)

    @cython.final
    cdef inline bint fits(self, object x, Py_ssize_t rows, bint single) noexcept:
        """Whether x is one step of that many rows as the core reads it."""
        if self.ids:
            return plain(x, cnp.NPY_INT64, 1) and cnp.PyArray_DIM(x, 0) == rows
        if single:
            return rows == 1 and plain(x, cnp.NPY_FLOAT32, 1) and cnp.PyArray_DIM(x, 0) == self.inputs
        return (
            plain(x, cnp.NPY_FLOAT32, 2) and cnp.PyArray_DIM(x, 0) == rows and cnp.PyArray_DIM(x, 1) == self.inputs
        )

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
        if not self.made:
            self._enter()
        if not self.ids and self.fits(x, batch, True):
            single = True
        elif not self.ids and self.fits(x, batch, False):
            single = False
        else:
            x, single = self._admit(x)
            if not self.fits(x, batch, single):
                raise ShapeError(f"x: expected one step of {batch} rows of {self.inputs}")
        if out is None:
            shape[0], shape[1] = batch, self.outputs
            y = cnp.PyArray_SimpleNew(1, &shape[1], cnp.NPY_FLOAT32) if single else (
                cnp.PyArray_SimpleNew(2, shape, cnp.NPY_FLOAT32))
        else:
            y = self._receive(out, batch, single, x)
        if self.busy:
            self._enter()
        self.busy = generation
        self._aim(x, y)
        if self.graph != NULL:
            status = self.run_graph()
        elif self.cost * batch < RELEASE:
            status = cgru_net_run(self.net, &self.call, self.work)
        else:
            try:
                status = run_kept(self.net, &self.call, self.work)
            finally:
                self.busy = 0
        self.busy = 0
        if status != CGRU_OK:
            refuse(status)
        return y


cdef class IndexedStepper(Stepper):
    """One step of some rows, each named by its id: a serial number times a power of two, plus the row.

    Subclasses say with :meth:`_names`, :meth:`_rows` and :meth:`_input` what to make of ids and input that are not as
    they should be.

    A step lets other threads run only while the core does. They meanwhile find the states of before in ``saved``, and
    leave what they change in ``pending``, which takes effect at the end. The interpreter's lock guards both: no method
    here runs anything of Python's between looking and writing.
    """

    cdef object names
    cdef dict pending      # row → the state it takes on
    cdef float *saved      # the states of before the step under way, in the order of its rows
    cdef Py_ssize_t room   # floats there
    cdef Py_ssize_t under  # rows under way
    cdef const int64_t *owner
    cdef int64_t *place
    cdef int64_t capacity, low

    def _name(self, cnp.ndarray owner not None, cnp.ndarray place not None, int64_t most):
        """owner: the id of each row; place: scratch for as many; both int64. Ids modulo most are rows."""
        if self.names is not None:
            raise CgruError(f"this {self._called} is made already; make another")
        if not (plain(owner, cnp.NPY_INT64, 1) and plain(place, cnp.NPY_INT64, 1) and place.shape[0] == owner.shape[0] <= self.call.rows
                and most >= owner.shape[0] and most & (most - 1) == 0):
            raise ShapeError("owner, place: expected as many int64 in each, and fewer rows than ids have room for")
        self.names, self.pending = (owner, place), {}
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

    def __dealloc__(self):
        free(self.saved)

    cdef float *state_at(self, int64_t row) noexcept:
        return self.call.state + row * self.call.state_row

    cdef void settle(self) noexcept:
        """Give rows the states that wait for them."""
        cdef size_t bytes = self.call.state_row * sizeof(float)
        for row, data in self.pending.items():
            memcpy(self.state_at(row), cnp.PyArray_DATA(<cnp.ndarray>data), bytes)
        self.pending.clear()

    def _write(self, int64_t row, data):
        """Give a row a state, now or at the end of the step under way."""
        if not plain(data, cnp.NPY_FLOAT32, 1) or cnp.PyArray_DIM(data, 0) != self.call.state_row or not (
                0 <= row < self.capacity):
            raise ShapeError(f"state: expected {self.call.state_row} numbers for one of {self.capacity} rows")
        self.pending[row] = data
        if not self.busy:
            self.settle()

    def _read(self, int64_t row):
        """A copy of the state of a row, as it was before the step under way."""
        cdef cnp.npy_intp width = self.call.state_row
        cdef cnp.ndarray found = cnp.PyArray_SimpleNew(1, &width, cnp.NPY_FLOAT32)
        cdef const float *data
        if not 0 <= row < self.capacity:
            raise ShapeError(f"state: there is no row {row} of {self.capacity}")
        waiting = self.pending.get(row)
        if waiting is not None:
            data = floats(waiting)
        elif self.place[row] < self.under and self.call.index[self.place[row]] == row:
            data = self.saved + self.place[row] * width
        else:
            data = self.state_at(row)
        memcpy(cnp.PyArray_DATA(found), data, width * sizeof(float))
        return found

    cdef int save(self) except -1:
        """Keep the states of the rows of the call."""
        cdef Py_ssize_t width = self.call.state_row, i
        cdef float *more
        if self.room < self.call.rows * width:
            more = <float *>realloc(self.saved, self.call.rows * width * sizeof(float))
            if more == NULL:
                raise TooLargeError("no memory to keep the states of before a step; step fewer streams at once")
            self.saved, self.room = more, self.call.rows * width
        for i in range(self.call.rows):
            memcpy(self.saved + i * width, self.state_at(self.call.index[i]), width * sizeof(float))
        self.under = self.call.rows
        return 0

    cdef void put_back(self) noexcept:
        """Give the rows under way the states that were kept."""
        cdef Py_ssize_t width = self.call.state_row, i
        for i in range(self.under):
            memcpy(self.state_at(self.call.index[i]), self.saved + i * width, width * sizeof(float))

    def step(self, sids, x, out=None, *, threads=None):
        """One step of the streams named: ``x`` (n, I), or ids (n,), row i for the i-th of them → (n, O).

        ``out`` receives the result if given: float32 (n, O) in C order. Raises :class:`CgruError` for an id that is
        not open or stands twice, and :class:`ShapeError` for input that does not fit.
        """
        cdef cnp.npy_intp shape[2]
        cdef cnp.ndarray y
        cdef int status, team = min(resolve(threads), 1 << 20)
        if not self.made:
            self._enter()
        if not PyList_CheckExact(sids) and not plain(sids, cnp.NPY_INT64, 1):
            sids = self._names(sids)
        # Whatever runs code of others comes first: from the claim on nothing lets another thread in until the core runs.
        shape[0], shape[1] = len(sids), self.outputs
        if self.ids or not self.fits(x, shape[0], False):
            try:
                x = self._input(x, shape[0])
            except CgruError:
                self._names(sids)  # what is wrong with those is said first
                raise
            if not self.fits(x, shape[0], False):
                raise ShapeError(f"x: expected one step of {shape[0]} streams of {self.inputs}")
        if out is None:
            y = cnp.PyArray_SimpleNew(2, shape, cnp.NPY_FLOAT32)
        else:
            y = self._receive(out, shape[0], False, x)
        if self.busy:
            self._enter()
        rows = self._find(sids)
        if rows is None:
            sids = self._names(sids)
            rows = self._find(sids)
            if rows is None:
                self._rows(sids)
                raise CgruError("sids: expected a sequence of stream ids as open() gave them")
            if self.busy:
                self._enter()
        if cnp.PyArray_DIM(rows, 0) != shape[0]:
            raise CgruError("sids: the list has been changed during the call")
        if shape[0] == 0:
            return y
        self.busy = generation
        try:
            self.settle()
            self.call.rows, self.call.threads = shape[0], team
            self.call.index = <const int64_t *>cnp.PyArray_DATA(<cnp.ndarray>rows)
            if self.cost * self.call.rows >= RELEASE:
                self.save()
            self._aim(x, y)
            if self.graph != NULL:
                status = self.run_graph()
            else:
                if self.under and asks(self.cost * self.call.rows):
                    self.call.interrupted = interrupted
                status = run_call(self.net, &self.call, self.work)
                self.call.interrupted = NULL
            if status != CGRU_OK:
                self.put_back()
                refuse(status)
        finally:
            self.under = 0
            self.settle()
            self.busy = 0
        return y
