/* A step of one row that takes a tile of the projection of rows to come along (cgru_ahead).
 *
 * Its weights come from the second-level cache or from behind it, and half of the multipliers wait for them; a tile of a
 * projection has its weights at hand. In one loop both take less time than one after the other: on Zen 4, one row of I = H,
 * 0.91 of it at H = 128, 256 and 512, 0.88 at 400. Neither sum changes its order.
 *
 * Beside a tile's 15 or 16 sums there are registers for two panels of the step. */
#define BESIDE_PANELS 2

/* total += P panels of w times v over `inner` inputs, a multiple of SPAN, as multiply() does it; made += the tile's panel
 * wx times the rows x over as many. */
INLINE void multiply_two(const int P, const int G, vec *total, const float *w, ptrdiff_t panel, const float *v,
                         const int R, const int GX, vec *made, const float *wx, const float *const *x, int inner)
{
    const float *row[TILE_ROWS], *weight[BESIDE_PANELS];
    vec acc[BESIDE_PANELS * 4], beside[MOST_SUMS];
    UNROLL for (int r = 0; r < R; r++) row[r] = x[r];
    UNROLL for (int p = 0; p < P; p++) weight[p] = w + p * panel;
    for (int k = 0; k < inner;) {
        const int end = k + SPAN;
        __asm__("" : "+m"(*(vec(*)[P * G])total), "+m"(*(vec(*)[R * GX])made)); /* no register for a total while chains run */
        UNROLL for (int j = 0; j < P * G; j++) acc[j] = v_set(0.0f);
        UNROLL for (int j = 0; j < R * GX; j++) beside[j] = v_set(0.0f);
        for (; k < end; k++) {
            vec a[4], in = v_set(v[k]);
            UNROLL for (int g = 0; g < GX; g++) a[g] = v_load(wx + g * VL);
            UNROLL for (int j = 0; j < P * G; j++) acc[j] = v_fma(v_load(weight[j / G] + j % G * VL), in, acc[j]);
            UNROLL for (int r = 0; r < R; r++)
            {
                vec one = v_set(row[r][k]);
                UNROLL for (int g = 0; g < GX; g++) beside[r * GX + g] = v_fma(a[g], one, beside[r * GX + g]);
            }
            UNROLL for (int p = 0; p < P; p++) weight[p] += G * VL;
            wx += GX * VL;
        }
        UNROLL for (int j = 0; j < P * G; j++) total[j] = v_add(total[j], acc[j]);
        UNROLL for (int j = 0; j < R * GX; j++) made[j] = v_add(made[j], beside[j]);
    }
}

/* total += P panels, from p0 on, of m times v, and one tile that is due. */
INLINE void product_beside(const int P, const int G, const int GX, vec *total, const cgru_scan *scan, const cgru_matrix *m,
                           const float *v, cgru_ahead *ahead, int p0)
{
    const int R = ROWS_OF(GX);
    const cgru_matrix *mx = &scan->x;
    const ptrdiff_t panel = (ptrdiff_t)m->in_features * G * VL, panel_x = (ptrdiff_t)mx->in_features * GX * VL;
    const float *w = weights(m) + p0 * panel, *wx = weights(mx) + ahead->panel * panel_x;
    const float *const *x = ahead->v + ahead->tile * R, *rest[TILE_ROWS];
    const int least = m->in_features < mx->in_features ? m->in_features : mx->in_features, both = least / SPAN * SPAN;
    vec made[MOST_SUMS];
    start(R, 1, GX, made, mx->bias + ahead->panel * GX * VL, GX, 0);
    multiply_two(P, G, total, w, panel, v, R, GX, made, wx, x, both);
    v += both;
    UNROLL for (int r = 0; r < R; r++) rest[r] = x[r] + both;
    multiply(1, P, G, total, w + (ptrdiff_t)both * G * VL, panel, G, 0, &v, m->in_features - both);
    multiply(R, 1, GX, made, wx + (ptrdiff_t)both * GX * VL, panel_x, GX, 0, rest, mx->in_features - both);
    UNROLL for (int r = 0; r < R; r++)
        store_tile(GX, made + r * GX, ahead->out[ahead->tile * R + r] + ahead->panel * GX * VL);
    ahead->due--;
    if (++ahead->tile == ahead->tiles) ahead->tile = 0, ahead->panel++;
}

/* sums of G gates of a single row, one tile that is due beside every two panels; `candidate` as gru_after_sums has it,
 * or NULL. */
#define PANELS_BESIDE(P, G, GX)                                                                                        \
    {                                                                                                                  \
        vec acc[(P) * (G)];                                                                                            \
        input_side(1, P, G, GX, 0, acc, &scan->x, rows, 0, p0 + p);                                                    \
        UNROLL for (int i = 0; candidate && i < (P); i++)                                                              \
        {                                                                                                              \
            v_store(candidate + (p + i) * VL, acc[i * (G) + (G) - 1]);                                                 \
            acc[i * (G) + (G) - 1] = v_load(scan->h.bias + (p0 + p + i) * VL);                                         \
        }                                                                                                              \
        if (rows->ahead->due) product_beside(P, G, GX, acc, scan, m, rows->h[0], rows->ahead, p0 + p);                 \
        else multiply(1, P, G, acc, weights(m) + (p0 + p) * panel, panel, G, 0, rows->h, m->in_features);              \
        store_tile((P) * (G), acc, sums + p * (G) * VL);                                                               \
    }
#define SUMS_BESIDE(G, GX)                                                                                             \
    static __attribute__((noinline)) void sums_beside##G##_of##GX(float *sums, float *candidate, const cgru_scan *scan, \
                                                                  const cgru_matrix *m, const cgru_rows *rows, int p0, \
                                                                  int panels)                                          \
    {                                                                                                                  \
        const ptrdiff_t panel = (ptrdiff_t)m->in_features * (G) * VL;                                                  \
        int p = 0;                                                                                                     \
        for (; p + 1 < panels; p += 2) PANELS_BESIDE(2, G, GX)                                                         \
        if (p < panels) PANELS_BESIDE(1, G, GX)                                                                        \
    }
SUMS_BESIDE(2, 3)
SUMS_BESIDE(3, 3)
SUMS_BESIDE(4, 4)
