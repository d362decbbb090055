# Graphs: nodes over values, as cgru.engine.backends.packed_graph lowers them.

cdef extern from "graph.h" nogil:
    enum: CGRU_NO_POSITION
    enum: CGRU_MAX_INPUTS
    enum: CGRU_AXES
    enum: CGRU_ONCE
    enum: CGRU_STATIC
    enum: CGRU_STEPS
    enum: CGRU_FEATURES
    enum: CGRU_IDS
    enum: CGRU_MASK
    ctypedef struct cgru_graph:
        pass
    ctypedef struct cgru_op:
        const char *name
    ctypedef struct cgru_value:
        int size, clock, content
    ctypedef struct cgru_window:
        int span, stride, left, right, up
    ctypedef struct cgru_gnode:
        const cgru_op *op
        int inputs
        int in_ "in"[8]
        int out
        cgru_window window
        int hold[8]
        int history[8]
        cgru_node scan
        const float *lookup
        Py_ssize_t lookup_width
        int lookup_ids
        const cgru_matrix *const *matrix
        int groups
        cgru_stored table
        int precision
        const float *vector[4]
        int64_t numbers[4]
        int activation, kind, flag, offset
        int number[6]
        float real[4]
        int size[4]
        int stride[3][4]
    ctypedef struct cgru_port:
        const void *data
        int64_t row, frame, frames
    ctypedef struct cgru_graph_call:
        int64_t rows, steps, before
        int ended
        const cgru_port *inputs
        const cgru_port *outputs
        const int64_t *lengths
        float *state
        int64_t state_row, state_rows
        const int64_t *index
        int threads
        int (*interrupted)() noexcept nogil
    const cgru_op *cgru_op_named(const char *name)
    cgru_graph *cgru_graph_new(const cgru_kernels *, const cgru_value *values, int value_count, int inputs,
                               const cgru_gnode *nodes, int count, const int *outputs, int output_count, int *status,
                               int *bad)
    void cgru_graph_free(cgru_graph *)
    int64_t cgru_graph_cost(const cgru_graph *)
    int cgru_graph_run(const cgru_graph *, const cgru_graph_call *, cgru_work *)

OPERATION_LIMITS = {"inputs": CGRU_MAX_INPUTS, "axes": CGRU_AXES}


def has_operation(str name not None):
    """Whether the core has an operation of that name."""
    return cgru_op_named(name.encode()) != NULL


cdef class GraphNet:
    """A graph in the core; immutable, shared by threads.

    ``values`` are (size, clock, content) of the inputs and then of every node's result; ``nodes`` dictionaries as
    :mod:`cgru.engine.backends.packed_graph` makes them; ``outputs`` numbers of values.
    """

    cdef cgru_graph *graph
    cdef cgru_work *spare
    cdef object held  # the packed weights and the vectors
    cdef list values
    cdef list outputs
    cdef readonly Py_ssize_t inputs, width
    cdef const cgru_matrix **matrices

    def __cinit__(self, list values not None, Py_ssize_t inputs, list nodes not None, list outputs not None, Py_ssize_t width):
        cdef cgru_value *typed = <cgru_value *>calloc(len(values) + 1, sizeof(cgru_value))
        cdef cgru_gnode *array = <cgru_gnode *>calloc(len(nodes) + 1, sizeof(cgru_gnode))
        cdef int *out = <int *>calloc(len(outputs) + 1, sizeof(int))
        cdef int status = CGRU_OK, bad = -1
        cdef Py_ssize_t many = 0, taken = 0
        for given in nodes:
            many += len(given.get("matrices", ()))
        self.matrices = <const cgru_matrix **>calloc(many + 1, sizeof(cgru_matrix *))
        try:
            if typed == NULL or array == NULL or out == NULL or self.matrices == NULL:
                raise MemoryError
            for i, (size, clock, content) in enumerate(values):
                typed[i].size, typed[i].clock, typed[i].content = size, clock, content
            for i, given in enumerate(nodes):
                fill_node(&array[i], given, inputs + i, &self.matrices[taken])
                taken += len(given.get("matrices", ()))
            for i, value in enumerate(outputs):
                out[i] = value
            self.graph = cgru_graph_new(
                kernels(), typed, len(values), inputs, array, len(nodes), out, len(outputs), &status, &bad
            )
        finally:
            free(typed)
            free(array)
            free(out)
        if status == CGRU_BAD_GRAPH:
            where = nodes[bad]["name"] if bad >= 0 else "the outputs"
            raise ShapeError(f"{where}: the core found that it does not fit together")
        if self.graph == NULL:
            raise TooLargeError("no memory for the plan of a network")
        self.held, self.values, self.outputs, self.inputs, self.width = nodes, values, outputs, inputs, width

    def __dealloc__(self):
        cgru_work_free(self.spare)
        cgru_graph_free(self.graph)
        free(self.matrices)

    def run(self, list inputs not None, list outputs not None, cnp.ndarray state not None, lengths, int64_t steps,
            int64_t before, bint ended, int threads):
        """inputs: for each, float32 (B, frames, F) or (B, F) with adjacent features, ids int64 (B, frames), a mask (B, T) bool
        or None; outputs likewise, float32; state (B, width) float32, advanced in place; lengths (B,) int64 or None.
        """
        cdef cgru_graph_call call
        cdef cgru_port ports_in[64]
        cdef cgru_port ports_out[64]
        cdef cgru_work *work
        cdef int status
        if len(inputs) != self.inputs or len(outputs) != len(self.outputs) or self.inputs > 64 or len(outputs) > 64:
            raise ShapeError(f"expected {self.inputs} inputs and {len(self.outputs)} outputs, at most 64 of each")
        if not (strided(state, cnp.NPY_FLOAT32, 2, True) and state.shape[1] >= self.width and cnp.PyArray_ISWRITEABLE(state)
                and (lengths is None or (plain(lengths, cnp.NPY_INT64, 1) and cnp.PyArray_DIM(lengths, 0) == state.shape[0]))):
            raise ShapeError("the state or the lengths of a call do not fit")
        call.rows, call.steps, call.before, call.ended = state.shape[0], steps, before, ended
        for i, array in enumerate(inputs):
            port_of(&ports_in[i], array, self.values[i], call.rows, steps, False)
        for i, array in enumerate(outputs):
            port_of(&ports_out[i], array, self.values[self.outputs[i]], call.rows, -1, True)
        call.inputs, call.outputs = ports_in, ports_out
        call.lengths = NULL if lengths is None else <const int64_t *>cnp.PyArray_DATA(<cnp.ndarray>lengths)
        call.state = <float *>cnp.PyArray_DATA(state)
        call.state_row, call.state_rows = state.strides[0] // 4, state.shape[0]
        call.index = NULL
        call.threads = threads
        # The states are the caller's own copy, so a call that ends early leaves nothing half done.
        call.interrupted = NULL
        if asks(cgru_graph_cost(self.graph) * call.rows * (steps + 1)):
            call.interrupted = interrupted
        work, self.spare = self.spare, NULL
        if work == NULL:
            work = cgru_work_new()
        if work == NULL:
            raise TooLargeError("no memory for the scratch of a call")
        if cgru_graph_cost(self.graph) * call.rows * (steps + 1) < RELEASE:
            status = cgru_graph_run(self.graph, &call, work)
        else:
            with nogil:
                status = cgru_graph_run(self.graph, &call, work)
        if self.spare == NULL and cgru_work_bytes(work) <= SPARE_BYTES:
            self.spare = work
        else:
            cgru_work_free(work)
        if status != CGRU_OK:
            refuse(status)


cdef void port_of(cgru_port *port, object given, tuple value, int64_t rows, int64_t steps, bint out) except *:
    """Where an array lies, checked against the type of its value; steps: the frames it must have, -1 for any."""
    cdef cnp.ndarray array
    cdef int size = value[0], clock = value[1], content = value[2]
    cdef bint moves = clock != CGRU_ONCE
    cdef bint wide = content == CGRU_FEATURES or (content == CGRU_IDS and np.ndim(given) > 1 + moves)
    port.data, port.row, port.frame, port.frames = NULL, 0, 0, 1
    if given is None:
        if content != CGRU_MASK:
            raise ShapeError("an input of the network is missing")
        return
    array = <cnp.ndarray?>given
    kind = cnp.NPY_INT64 if content == CGRU_IDS else cnp.NPY_BOOL if content == CGRU_MASK else cnp.NPY_FLOAT32
    axes = 1 + moves + wide
    if not (strided(array, kind, axes, wide) and array.shape[0] == rows
            and (array.shape[axes - 1] if wide else 1) == (1 if content == CGRU_MASK else size)
            and (not moves or steps < 0 or clock == CGRU_STATIC or array.shape[1] == steps)
            and (not out or cnp.PyArray_ISWRITEABLE(array))):
        raise ShapeError(f"an array of {array.dtype} {np.shape(array)} does not fit the network")
    port.data = cnp.PyArray_DATA(array)
    port.row = array.strides[0] // array.itemsize
    if moves:
        port.frame, port.frames = array.strides[1] // array.itemsize, array.shape[1]


cdef void fill_node(cgru_gnode *node, dict given, int out, const cgru_matrix **matrices) except *:
    cdef cgru_window *w = &node.window
    cdef cgru_direction *direction
    name = given["op"]
    node.op = cgru_op_named(name.encode())
    if node.op == NULL:
        raise UnsupportedError(f"{given['name']}: the core has no operation {name!r}")
    node.inputs, node.out = len(given["inputs"]), out
    if node.inputs > CGRU_MAX_INPUTS:
        raise UnsupportedError(f"{given['name']}: {node.inputs} inputs; the core takes {CGRU_MAX_INPUTS}")
    for k, value in enumerate(given["inputs"]):
        node.in_[k], node.hold[k], node.history[k] = value, given["hold"][k], given["history"][k]
    w.span, w.stride, w.left, w.right, w.up = given["window"]
    if "scan" in given:
        scan, reverse, state, emitted, repeat, flip = given["scan"]
        # Of the lines of a frame: the scan runner of chains has nothing to do with it.
        node.scan.kind, node.scan.directions, node.scan.sequences = CGRU_RECURRENT, not given.get("lines", False), 1
        node.scan.in_, node.scan.out = (<Scan?>scan).scan.input, (<Scan?>scan).scan.out
        node.scan.repeat, node.scan.flipped = repeat, flip
        direction = &node.scan.direction[0]
        direction.scan, direction.reverse, direction.state, direction.emitted = (<Scan?>scan).scan, reverse, state, emitted
    if "lookup" in given:
        rows, node.lookup_ids = given["lookup"]
        if not plain(rows, cnp.NPY_FLOAT32, 2):
            raise ShapeError(f"{name}: what is looked up is not float32 in C order")
        node.lookup, node.lookup_width = floats(<cnp.ndarray>rows), (<cnp.ndarray>rows).shape[1]
    for k, matrix in enumerate(given.get("matrices", ())):
        matrices[k] = (<Matrix?>matrix).m
    node.matrix, node.groups = matrices, len(given.get("matrices", ()))
    if "table" in given:
        node.table, node.precision = stored_at(given["table"]), PRECISIONS[given["precision"]]
    for k, vector in enumerate(given.get("vectors", ())):
        if vector is not None:
            if not (isinstance(vector, np.ndarray) and vector.dtype == np.float32 and cnp.PyArray_ISCARRAY_RO(<cnp.ndarray>vector)):
                raise ShapeError(f"{given['name']}: a vector is not float32 in C order")
            node.vector[k], node.numbers[k] = floats(<cnp.ndarray>vector), vector.size
    node.activation, node.kind = given.get("activation", 0), given.get("kind", 0)
    node.flag, node.offset = given.get("flag", 0), given.get("offset", 0)
    for k, number in enumerate(given.get("numbers", ())):
        node.number[k] = number
    for k, real in enumerate(given.get("reals", ())):
        node.real[k] = real
    for k in range(4):
        node.size[k] = given["size"][k] if "size" in given else 1
        node.stride[0][k] = given["stride"][k] if "stride" in given else 0
        node.stride[1][k] = given["stride_b"][k] if "stride_b" in given else 0
        node.stride[2][k] = given["stride_c"][k] if "stride_c" in given else 0
