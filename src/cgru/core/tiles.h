/* How rows and panels are cut into tiles, for any kernel: included once for each instruction set and precision, after
 * VL, TILE_ROWS and ACCUMULATORS are defined.
 *
 * A tile is R rows by P panels; its R·P·G sums stay in registers over the whole inner dimension. When they are
 * complete, they are stored once. */
#define JOIN_(a, b, c) a##_##b##_##c
#define JOIN(a, b, c) JOIN_(a, b, c)
#define NAME(stem) JOIN(stem, PRECISION, ISA)
#define INLINE static inline __attribute__((always_inline))
/* A tile that is not unrolled has its sums in memory, and runs 2 to 3 times slower. Under gcc's pragma clang 14 leaves
 * float32's loops as they are (without any it unrolls them, but not all of int8's). A loop of one turn within others, such
 * as that over a single panel, still kept int8's sums in memory: in a product panels and gates are one loop. */
#ifdef __clang__
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 32")
#endif
#define MAX_PANELS 4 /* of a tile: more streams of weights than this do not run faster */

/* Sums of a tile at most, for G to a unit. */
#ifdef ACCUMULATORS_OF_FOUR
#define SUMS_OF(G) ((G) == 4 ? ACCUMULATORS_OF_FOUR : ACCUMULATORS)
#define MOST_SUMS (ACCUMULATORS_OF_FOUR > ACCUMULATORS ? ACCUMULATORS_OF_FOUR : ACCUMULATORS)
#else
#define SUMS_OF(G) ACCUMULATORS
#define MOST_SUMS ACCUMULATORS
#endif

#define ROWS_OF(G) ((TILE_ROWS) * (G) <= SUMS_OF(G) ? (TILE_ROWS) : SUMS_OF(G) / (G))
#define PANELS_OF(R, G) ((R) * (G) * MAX_PANELS <= SUMS_OF(G) ? MAX_PANELS : SUMS_OF(G) / ((R) * (G)))

#define TILE_CASE(R, P, G, CALL)                                                                                       \
    case ((R) * 8 + (P)):                                                                                              \
        if ((R) * (P) * (G) <= SUMS_OF(G) && (R) <= TILE_ROWS) { CALL(R, P); }                                         \
        break;
#define TILE_CASES(R, G, CALL)                                                                                         \
    TILE_CASE(R, 1, G, CALL)                                                                                           \
    TILE_CASE(R, 2, G, CALL) TILE_CASE(R, 3, G, CALL) TILE_CASE(R, 4, G, CALL)
/* CALL(R, P) with constants equal to the variables rows and panels. */
#if TILE_ROWS > 4
#define WIDE_CASES(G, CALL)                                                                                            \
    TILE_CASES(5, G, CALL) TILE_CASES(6, G, CALL) TILE_CASES(7, G, CALL) TILE_CASES(8, G, CALL)
#else
#define WIDE_CASES(G, CALL)
#endif
#define WITH_CONSTANTS(rows, panels, G, CALL)                                                                          \
    switch ((rows) * 8 + (panels)) {                                                                                   \
        TILE_CASES(1, G, CALL)                                                                                         \
        TILE_CASES(2, G, CALL) TILE_CASES(3, G, CALL) TILE_CASES(4, G, CALL) WIDE_CASES(G, CALL)                       \
    }

/* For a single row, weights a little larger than the first-level cache are visited two panels at a time: turning round at
 * every step then finds the last ones still there (H = 64: 0.46 µs a step, against 0.55 with four). */
#define NARROW_LOW (32 << 10)
#define NARROW_HIGH (160 << 10)

typedef void tile_function(const void *what, const void *rows, int r0, int n, int p0, int panels);

/* Groups of `width` panels of [p0, p1), and for each all rows in `tiles` tiles as even as they go: a panel's weights are
 * used for every row before the next. */
INLINE void for_panels(tile_function *tile, const void *what, const void *rows, int n, const int tiles, const int width,
                       int p0, int p1, int backwards)
{
    const int groups = (p1 - p0 + width - 1) / width;
    for (int i = 0; i < groups; i++) {
        int p = p0 + (backwards ? groups - 1 - i : i) * width, panels = p1 - p < width ? p1 - p : width;
        for (int t = 0, r = 0; t < tiles; t++) {
            int count = tiles == 1 ? n : (n - r + tiles - t - 1) / (tiles - t);
            tile(what, rows, r, count, p, panels);
            r += count;
        }
    }
}

/* n rows, each of them `planes` rows of a tile, by panels [p0, p1); bytes is the size of a panel's weights. One row goes
 * with constant widths, since the divisions would be felt in a step of a small network. */
INLINE void for_tiles(tile_function *tile, const void *what, const void *rows, const int gates, const int planes, int n,
                      int p0, int p1, int backwards, ptrdiff_t bytes)
{
    if (n == 1) {
        int narrow = (p1 - p0) * bytes > NARROW_LOW && (p1 - p0) * bytes <= NARROW_HIGH;
        if (narrow && PANELS_OF(planes, gates) > 2) for_panels(tile, what, rows, 1, 1, 2, p0, p1, backwards);
        else for_panels(tile, what, rows, 1, 1, PANELS_OF(planes, gates), p0, p1, backwards);
    } else if (n > 1) {
        const int most = ROWS_OF(gates) / planes;
        int tiles = (n + most - 1) / most, largest = (n + tiles - 1) / tiles;
        for_panels(tile, what, rows, n, tiles, PANELS_OF(largest * planes, gates), p0, p1, backwards);
    }
}

/* What a cell's product takes its vectors from: the state, the first of the row's further state arrays, or what phase 0
 * left. */
enum source { STATE, CELL_STATE, OPERAND, NOTHING };

/* What phase 0 leaves for phase 1 to multiply stands in the second half of a row's scratch. */
INLINE float *operand(const cgru_scan *scan, const cgru_rows *rows, int row)
{
    return rows->scratch[row] + scan->panels * VL;
}

/* Rows of a dense layer or an input projection. */
typedef struct {
    int activation;
    const float *const *v;
    float *const *out;
    cgru_prepared quantized_input;
} linear_rows;
