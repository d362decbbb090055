/* Products whose sums are floats, on multiply(R, P, G, acc, m, p0, v). */
INLINE void store_tile(const int R, const int P, const int G, const vec *acc, const tile_out *out)
{
    COMPLETED(vec, sums, acc, R * P * G)
    UNROLL for (int r = 0; r < R; r++)
    {
        UNROLL for (int p = 0; p < P; p++)
        {
            UNROLL for (int g = 0; g < G; g++) put_sum(out, r, p, g, G, sums[(r * P + p) * G + g]);
        }
    }
}

#define PRODUCT_TILE(R, P)                                                                                             \
    {                                                                                                                  \
        vec acc[MOST_SUMS];                                                                                            \
        multiply(R, P, GATES, acc, m, p0, v);                                                                          \
        store_tile(R, P, GATES, acc, out);                                                                             \
    }
#define PRODUCT(G)                                                                                                     \
    static __attribute__((noinline)) void product##G(const cgru_matrix *m, const void *const *v, int n, int p0,        \
                                                     int panels, const tile_out *out)                                  \
    {                                                                                                                  \
        enum { GATES = G };                                                                                            \
        WITH_CONSTANTS(n, panels, G, PRODUCT_TILE)                                                                     \
    }
PRODUCT(1)
PRODUCT(2)
PRODUCT(3)
PRODUCT(4)
