/* One step of every cell, on the sums of each gate that a precision's kernels make; included once for each instruction
 * set and precision, after these are defined:
 *
 * gate_sums(G, gates, first, sums, scan, m, source, rows, r0, n, p0, panels): sums[row][panel][g] = the input side of
 *   gates [first, first + G) of `gates`, and m times the source's vector of the row (m NULL: no more);
 * gru_after_sums(sums, candidate, …): the same for reset after, the candidate's input side by itself in candidate;
 * projection_sums(sums, …): scan->phase1 times the operand;
 * prepare(scan, m, source, rows): done once before the tiles of a phase;
 * planes_of(m), panel_bytes(m). */

/* Each row and panel of a tile: `row`, the first `unit` of the panel, and where its sums lie. */
#define EACH_PLACE(G)                                                                                                  \
    for (float *sum = sums, *last = sums; last; last = NULL)                                                           \
        for (int row = r0; row < r0 + n; row++)                                                                        \
            for (int unit = p0 * VL; unit < (p0 + panels) * VL; unit += VL, sum += (G) * VL)

INLINE vec load_units(const float *from, int unit, int units)
{
    return units - unit >= VL ? v_load(from + unit) : v_load_part(from + unit, units - unit);
}

INLINE void store_units(float *to, int unit, int units, vec value)
{
    if (units - unit >= VL) v_store(to + unit, value);
    else v_store_part(to + unit, value, units - unit);
}

/* z ⊙ h + (1 − z) ⊙ n, which keeps h exactly where z is 1. */
INLINE vec interpolate(vec z, vec h, vec n)
{
    return v_fma(z, h, v_mul(v_sub(v_set(1.0f), z), n));
}

/* count vectors of each of n groups of G, activated where they stand. The chains of one activation are long and those of
 * different vectors independent, so all of one kind are done before what waits for them (int8, 64 rows of 128 units:
 * 48.2 µs a step, against 50.3). */
INLINE void activate_each(int activation, float *sums, const int G, const int count, int n)
{
    if (activation == CGRU_SIGMOID) {
        for (int i = 0; i < n; i++, sums += G * VL) {
            UNROLL for (int g = 0; g < count; g++) v_store(sums + g * VL, v_sigmoid(v_load(sums + g * VL)));
        }
    } else {
        for (int i = 0; i < n; i++, sums += G * VL) {
            for (int g = 0; g < count; g++) v_store(sums + g * VL, v_activate(activation, v_load(sums + g * VL)));
        }
    }
}

/* r, z = σ(sums); n = φ(input side + r ⊙ recurrent side) */
INLINE void gru_after_epilogue(const cgru_scan *scan, const cgru_rows *rows, float *sums, const float *input, int r0, int n,
                               int p0, int panels)
{
    activate_each(scan->recurrent_activation, sums, 3, 2, n * panels);
    EACH_PLACE(3)
    {
        vec c = v_activate(scan->activation, v_fma(v_load(sum), v_load(sum + 2 * VL), v_load(input)));
        vec h = load_units(rows->h[row], unit, scan->hidden);
        store_units(rows->out[row], unit, scan->hidden, interpolate(v_load(sum + VL), h, c));
        input += VL;
    }
}

static void gru_after_tile(const void *what, const void *given, int r0, int n, int p0, int panels)
{
    float sums[MOST_SUMS * VL], candidate[MOST_SUMS * VL]; /* a third would do; gcc 12 cannot see it, and warns */
    gru_after_sums(sums, candidate, what, given, r0, n, p0, panels);
    gru_after_epilogue(what, given, sums, candidate, r0, n, p0, panels);
}

/* Phase 0: r, z = σ(sums); puts down z and r ⊙ h. */
INLINE void gru_before_epilogue(const cgru_scan *scan, const cgru_rows *rows, float *sums, int r0, int n, int p0, int panels)
{
    activate_each(scan->recurrent_activation, sums, 2, 2, n * panels);
    EACH_PLACE(2)
    {
        vec h = load_units(rows->h[row], unit, scan->hidden);
        v_store(rows->scratch[row] + unit, v_load(sum + VL));
        v_store(operand(scan, rows, row) + unit, v_mul(v_load(sum), h));
    }
}

static void gru_before_gates_tile(const void *what, const void *given, int r0, int n, int p0, int panels)
{
    const cgru_scan *scan = what;
    float sums[MOST_SUMS * VL];
    gate_sums(2, 3, 0, sums, scan, &scan->h, STATE, given, r0, n, p0, panels);
    gru_before_epilogue(scan, given, sums, r0, n, p0, panels);
}

/* Phase 1: n = φ(W x + R v) with v and z as phase 0 left them; n is the last of `gates`. */
INLINE void candidate_tile(const int gates, const cgru_scan *scan, const cgru_rows *rows, int r0, int n, int p0, int panels)
{
    float sums[MOST_SUMS * VL];
    gate_sums(1, gates, gates - 1, sums, scan, &scan->phase1, OPERAND, rows, r0, n, p0, panels);
    EACH_PLACE(1)
    {
        vec c = v_activate(scan->activation, v_load(sum));
        vec z = v_load(rows->scratch[row] + unit), h = load_units(rows->h[row], unit, scan->hidden);
        store_units(rows->out[row], unit, scan->hidden, interpolate(z, h, c));
    }
}

static void gru_before_candidate_tile(const void *what, const void *given, int r0, int n, int p0, int panels)
{
    candidate_tile(3, what, given, r0, n, p0, panels);
}

/* Phase 0 of the minimal gated unit: z = σ(sum); puts down z and (1 − z) ⊙ h. */
static void mgu_gate_tile(const void *what, const void *given, int r0, int n, int p0, int panels)
{
    const cgru_scan *scan = what;
    const cgru_rows *rows = given;
    float sums[MOST_SUMS * VL];
    gate_sums(1, 2, 0, sums, scan, &scan->h, STATE, rows, r0, n, p0, panels);
    EACH_PLACE(1)
    {
        vec z = v_activate(scan->recurrent_activation, v_load(sum)), h = load_units(rows->h[row], unit, scan->hidden);
        v_store(rows->scratch[row] + unit, z);
        v_store(operand(scan, rows, row) + unit, v_mul(v_sub(v_set(1.0f), z), h));
    }
}

static void mgu_candidate_tile(const void *what, const void *given, int r0, int n, int p0, int panels)
{
    candidate_tile(2, what, given, r0, n, p0, panels);
}

/* h' = φ(sum) */
static void rnn_tile(const void *what, const void *given, int r0, int n, int p0, int panels)
{
    const cgru_scan *scan = what;
    const cgru_rows *rows = given;
    float sums[MOST_SUMS * VL];
    gate_sums(1, 1, 0, sums, scan, &scan->h, STATE, rows, r0, n, p0, panels);
    EACH_PLACE(1) store_units(rows->out[row], unit, scan->hidden, v_activate(scan->activation, v_load(sum)));
}

/* i, f, o = σ(sums), the peepholes p added: p_i ⊙ c, p_f ⊙ c, p_o ⊙ c'; g = φ(sum); c' = f ⊙ c + i ⊙ g, in place;
 * the output is o ⊙ φ(c'), h' or what a projection makes h' of. */
INLINE void lstm_epilogue(const int peepholes, const int projects, const cgru_scan *scan, const cgru_rows *rows,
                          float *sums, int r0, int n, int p0, int panels)
{
    const int gate = scan->recurrent_activation, act = scan->activation, hidden = scan->hidden;
    if (peepholes) {
        EACH_PLACE(4)
        {
            const float *peep = scan->h.bias + unit * 3;
            vec c = load_units(rows->cell_state[row], unit, hidden);
            v_store(sum, v_fma(v_load(peep), c, v_load(sum)));
            v_store(sum + VL, v_fma(v_load(peep + VL), c, v_load(sum + VL)));
        }
    }
    activate_each(gate, sums, 4, 2, n * panels);
    if (!peepholes) activate_each(gate, sums + 3 * VL, 4, 1, n * panels);
    EACH_PLACE(4)
    {
        float *cell_state = rows->cell_state[row];
        vec c = load_units(cell_state, unit, hidden), o = v_load(sum + 3 * VL);
        c = v_fma(v_load(sum + VL), c, v_mul(v_load(sum), v_activate(act, v_load(sum + 2 * VL))));
        if (peepholes) o = v_activate(gate, v_fma(v_load(scan->h.bias + unit * 3 + 2 * VL), c, o));
        vec y = v_mul(o, v_activate(act, c));
        store_units(cell_state, unit, hidden, c);
        if (projects) v_store(operand(scan, rows, row) + unit, y);
        else store_units(rows->out[row], unit, hidden, y);
    }
}

#define LSTM_TILE(NAME_, PEEPHOLES, PROJECTS)                                                                          \
    static void NAME_(const void *what, const void *given, int r0, int n, int p0, int panels)                          \
    {                                                                                                                  \
        const cgru_scan *scan = what;                                                                                  \
        const cgru_rows *rows = given;                                                                                 \
        float sums[MOST_SUMS * VL];                                                                                    \
        gate_sums(4, 4, 0, sums, scan, &scan->h, STATE, rows, r0, n, p0, panels);                                      \
        lstm_epilogue(PEEPHOLES, PROJECTS, scan, rows, sums, r0, n, p0, panels);                                       \
    }
LSTM_TILE(lstm_tile, 0, 0)
LSTM_TILE(lstm_peephole_tile, 1, 0)
LSTM_TILE(lstm_projected_tile, 0, 1)
LSTM_TILE(lstm_peephole_projected_tile, 1, 1)

/* Phase 1 of a projection: h' = W (o ⊙ φ(c')), P units of H. */
static void projection_tile(const void *what, const void *given, int r0, int n, int p0, int panels)
{
    const cgru_scan *scan = what;
    const cgru_rows *rows = given;
    float sums[MOST_SUMS * VL];
    projection_sums(sums, scan, rows, r0, n, p0, panels);
    EACH_PLACE(1) store_units(rows->out[row], unit, scan->out, v_load(sum));
}

/* f, i, o = σ(sums), c = φ(sum); h' = f ⊙ h + i ⊙ c; emits h', or o ⊙ h' where h is a state by itself. That one is
 * read by all units, so h' waits in scratch for phase 1. */
INLINE void three_gate(const int output_gate, const cgru_scan *scan, const cgru_rows *rows, int r0, int n, int p0,
                       int panels)
{
    const float *const *from = output_gate ? (const float *const *)rows->cell_state : rows->h;
    const int gate = scan->recurrent_activation, hidden = scan->hidden;
    float sums[MOST_SUMS * VL];
    gate_sums(4, 4, 0, sums, scan, &scan->h, output_gate ? CELL_STATE : STATE, rows, r0, n, p0, panels);
    EACH_PLACE(4)
    {
        vec f = v_activate(gate, v_load(sum)), i_ = v_activate(gate, v_load(sum + VL));
        vec c = v_activate(scan->activation, v_load(sum + 3 * VL));
        vec h = v_fma(f, load_units(from[row], unit, hidden), v_mul(i_, c));
        if (output_gate) {
            v_store(rows->scratch[row] + unit, h);
            h = v_mul(v_activate(gate, v_load(sum + 2 * VL)), h);
        }
        store_units(rows->out[row], unit, hidden, h);
    }
}

static void three_gate_tile(const void *what, const void *given, int r0, int n, int p0, int panels)
{
    three_gate(0, what, given, r0, n, p0, panels);
}

static void three_gate_output_tile(const void *what, const void *given, int r0, int n, int p0, int panels)
{
    three_gate(1, what, given, r0, n, p0, panels);
}

static void keep_cell_state_tile(const void *what, const void *given, int r0, int n, int p0, int panels)
{
    const cgru_scan *scan = what;
    const cgru_rows *rows = given;
    for (int r = r0; r < r0 + n; r++) {
        for (int unit = p0 * VL; unit < (p0 + panels) * VL; unit += VL)
            store_units(rows->cell_state[r], unit, scan->hidden, v_load(rows->scratch[r] + unit));
    }
}

/* z = σ(sum), n = φ(sum), from the input alone. */
static void min_gru_tile(const void *what, const void *given, int r0, int n, int p0, int panels)
{
    const cgru_scan *scan = what;
    const cgru_rows *rows = given;
    float sums[MOST_SUMS * VL];
    gate_sums(2, 2, 0, sums, scan, NULL, NOTHING, rows, r0, n, p0, panels);
    EACH_PLACE(2)
    {
        vec z = v_activate(scan->recurrent_activation, v_load(sum)), c = v_activate(scan->activation, v_load(sum + VL));
        store_units(rows->out[row], unit, scan->hidden, interpolate(z, load_units(rows->h[row], unit, scan->hidden), c));
    }
}

/* A single row whose step makes some of a projection as well (cgru_rows.ahead). */
#ifdef TAKES_AHEAD
static void gru_after_ahead_tile(const void *what, const void *given, int r0, int n, int p0, int panels)
{
    const cgru_scan *scan = what;
    const cgru_rows *rows = given;
    float sums[MOST_SUMS * VL], candidate[MOST_SUMS * VL];
    (void)r0, (void)n;
    if (rows->ahead->due) sums_beside3_of3(sums, candidate, scan, &scan->h, rows, p0, panels);
    else gru_after_sums(sums, candidate, scan, rows, 0, 1, p0, panels);
    gru_after_epilogue(scan, rows, sums, candidate, 0, 1, p0, panels);
}

static void gru_before_ahead_tile(const void *what, const void *given, int r0, int n, int p0, int panels)
{
    const cgru_scan *scan = what;
    const cgru_rows *rows = given;
    float sums[MOST_SUMS * VL];
    (void)r0, (void)n;
    if (rows->ahead->due) sums_beside2_of3(sums, NULL, scan, &scan->h, rows, p0, panels);
    else gate_sums(2, 3, 0, sums, scan, &scan->h, STATE, rows, 0, 1, p0, panels);
    gru_before_epilogue(scan, rows, sums, 0, 1, p0, panels);
}

static void lstm_ahead_tile(const void *what, const void *given, int r0, int n, int p0, int panels)
{
    const cgru_scan *scan = what;
    const cgru_rows *rows = given;
    float sums[MOST_SUMS * VL];
    (void)r0, (void)n;
    if (rows->ahead->due) sums_beside4_of4(sums, NULL, scan, &scan->h, rows, p0, panels);
    else gate_sums(4, 4, 0, sums, scan, &scan->h, STATE, rows, 0, 1, p0, panels);
    lstm_epilogue(0, 0, scan, rows, sums, 0, 1, p0, panels);
}

#define BESIDE(G) ROWS_OF(G)
#define AHEAD(TILE, G)                                                                                                 \
    if (rows->ahead && phase == 0) {                                                                                   \
        for_tiles(TILE, scan, rows, G, 1, 1, p0, p1, rows->backwards, panel_bytes(&scan->h));                          \
        return;                                                                                                        \
    }
#else
#define BESIDE(G) 0
#define AHEAD(TILE, G)
#endif

/* A cell's step: the tile of each phase, how many sums a unit has in it, and what is multiplied; before that AHEAD, or
 * nothing. */
#define STEP_OF(CELL, TILE, G, SOURCE, LOOKS_AHEAD)                                                                    \
    static void NAME(cgru_##CELL)(const cgru_scan *scan, const cgru_rows *rows, int phase, int p0, int p1)             \
    {                                                                                                                  \
        (void)phase;                                                                                                   \
        LOOKS_AHEAD                                                                                                    \
        prepare(scan, &scan->h, SOURCE, rows);                                                                         \
        for_tiles(TILE, scan, rows, G, planes_of(&scan->h), rows->n, p0, p1, rows->backwards, panel_bytes(&scan->h));  \
    }
#define STEPS_OF(CELL, TILE, G, SOURCE, PHASE1, PHASE1_SOURCE, LOOKS_AHEAD)                                            \
    static void NAME(cgru_##CELL)(const cgru_scan *scan, const cgru_rows *rows, int phase, int p0, int p1)             \
    {                                                                                                                  \
        LOOKS_AHEAD                                                                                                    \
        const cgru_matrix *m = phase == 0 ? &scan->h : &scan->phase1;                                                  \
        prepare(scan, m, phase == 0 ? SOURCE : PHASE1_SOURCE, rows);                                                   \
        if (phase == 0) for_tiles(TILE, scan, rows, G, planes_of(m), rows->n, p0, p1, rows->backwards, panel_bytes(m)); \
        else for_tiles(PHASE1, scan, rows, 1, planes_of(m), rows->n, p0, p1, rows->backwards, 0);                      \
    }
STEP_OF(gru_after, gru_after_tile, 3, STATE, AHEAD(gru_after_ahead_tile, 3))
STEPS_OF(gru_before, gru_before_gates_tile, 2, STATE, gru_before_candidate_tile, OPERAND, AHEAD(gru_before_ahead_tile, 2))
STEP_OF(rnn, rnn_tile, 1, STATE, )
STEP_OF(lstm, lstm_tile, 4, STATE, AHEAD(lstm_ahead_tile, 4))
STEP_OF(lstm_peephole, lstm_peephole_tile, 4, STATE, )
STEPS_OF(lstm_projected, lstm_projected_tile, 4, STATE, projection_tile, OPERAND, )
STEPS_OF(lstm_peephole_projected, lstm_peephole_projected_tile, 4, STATE, projection_tile, OPERAND, )
STEP_OF(three_gate, three_gate_tile, 4, STATE, )
STEPS_OF(three_gate_output, three_gate_output_tile, 4, CELL_STATE, keep_cell_state_tile, NOTHING, )
STEP_OF(min_gru, min_gru_tile, 2, NOTHING, )
STEPS_OF(mgu, mgu_gate_tile, 1, STATE, mgu_candidate_tile, OPERAND, )

/* What is not named is 0. */
static const cgru_cell NAME(cgru_cells)[] = {
    {.name = "gru_reset_after", .gates = 3, .recurrent = 3, .phases = 1, .separate_candidate_bias = 1, .vectors = 1,
     .states = 1, .beside = BESIDE(3), .bounded = 1, .step = NAME(cgru_gru_after)},
    {.name = "gru_reset_before", .gates = 3, .recurrent = 2, .phases = 2, .states = 1, .beside = BESIDE(3), .bounded = 1,
     .step = NAME(cgru_gru_before)},
    {.name = "rnn", .gates = 1, .recurrent = 1, .phases = 1, .states = 1, .bounded = 1, .step = NAME(cgru_rnn)},
    {.name = "lstm", .gates = 4, .recurrent = 4, .phases = 1, .states = 2, .beside = BESIDE(4),
     .bounded = 1, .step = NAME(cgru_lstm)},
    {.name = "lstm_peephole", .gates = 4, .recurrent = 4, .phases = 1, .vectors = 3, .states = 2, .bounded = 1,
     .step = NAME(cgru_lstm_peephole)},
    {.name = "lstm_projected", .gates = 4, .recurrent = 4, .phases = 2, .projects = 1, .states = 2,
     .step = NAME(cgru_lstm_projected)},
    {.name = "lstm_peephole_projected", .gates = 4, .recurrent = 4, .phases = 2, .projects = 1, .vectors = 3, .states = 2,
     .step = NAME(cgru_lstm_peephole_projected)},
    {.name = "three_gate", .gates = 4, .recurrent = 4, .phases = 1, .states = 1, .step = NAME(cgru_three_gate)},
    {.name = "three_gate_output", .gates = 4, .recurrent = 4, .phases = 2, .states = 2,
     .step = NAME(cgru_three_gate_output)},
    {.name = "min_gru", .gates = 2, .phases = 1, .states = 1, .bounded = 1, .step = NAME(cgru_min_gru)},
    {.name = "mgu", .gates = 2, .recurrent = 1, .phases = 2, .states = 1, .bounded = 1, .step = NAME(cgru_mgu)},
};

static void NAME(cgru_activate)(int activation, float *values, ptrdiff_t n)
{
    ptrdiff_t i = 0;
    for (; i + VL <= n; i += VL) v_store(values + i, v_activate(activation, v_load(values + i)));
    if (i < n) v_store_part(values + i, v_activate(activation, v_load_part(values + i, (int)(n - i))), (int)(n - i));
}

const cgru_arithmetic JOIN(cgru, PRECISION, ISA) = {
    GROUP,
    PREPARED,
    NAME(cgru_linear),
    NAME(cgru_project),
    NAME(cgru_cells),
    sizeof NAME(cgru_cells) / sizeof NAME(cgru_cells)[0],
    NAME(cgru_activate),
};
