/* The instruction sets of this build and of this machine: asked of the processor once, never of /proc or /sys. */
#include <math.h>
#include <string.h>

#include "kernels.h"

extern const cgru_kernels cgru_kernels_generic;

/* A build for several processors at once (macOS' universal2) cannot give each file its flags, and defines this. */
#if defined(__x86_64__) && !defined(CGRU_GENERIC_ONLY)
#define X86
#elif defined(__aarch64__) && !defined(CGRU_GENERIC_ONLY)
#define ARM
#endif

#if defined(X86)
#include <cpuid.h>
extern const cgru_kernels cgru_kernels_avx2, cgru_kernels_avx512;

static int registers_saved(unsigned wanted)
{
    unsigned low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    (void)high;
    return (low & wanted) == wanted;
}

static int has(int avx512)
{
    unsigned a, b, c, d;
    if (!__get_cpuid(1, &a, &b, &c, &d)) return 0;
    const unsigned fma = 1u << 12, osxsave = 1u << 27, avx = 1u << 28, f16c = 1u << 29;
    if ((c & (fma | osxsave | avx | f16c)) != (fma | osxsave | avx | f16c)) return 0;
    if (!registers_saved(0x6)) return 0; /* the system keeps XMM and YMM */
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return 0;
    const unsigned avx2 = 1u << 5, f = 1u << 16, dq = 1u << 17, bw = 1u << 30, vl = 1u << 31;
    if (!(b & avx2)) return 0;
    if (!avx512) return 1;
    return (b & (f | dq | bw | vl)) == (f | dq | bw | vl) && registers_saved(0xe6); /* and masks and ZMM */
}
#endif

#if defined(ARM)
extern const cgru_kernels cgru_kernels_neon;
#endif

static const cgru_kernels *const built[] = {
    &cgru_kernels_generic,
#if defined(X86)
    &cgru_kernels_avx2,
    &cgru_kernels_avx512,
#endif
#if defined(ARM)
    &cgru_kernels_neon,
#endif
};

const cgru_kernels *cgru_kernels_at(int index)
{
    return index >= 0 && index < (int)(sizeof built / sizeof *built) ? built[index] : NULL;
}

int cgru_kernels_usable(int index)
{
#if defined(X86)
    if (index == 1) return has(0);
    if (index == 2) return has(1);
#endif
    return cgru_kernels_at(index) != NULL; /* generic always; NEON is part of AArch64 */
}

const cgru_cell *cgru_cell_named(const cgru_kernels *kernels, const char *name)
{
    for (int i = 0; i < kernels->cell_count; i++) {
        if (strcmp(kernels->cells[i].name, name) == 0) return &kernels->cells[i];
    }
    return NULL;
}

float cgru_activate_scalar(int activation, float x)
{
    switch (activation) {
    case CGRU_SOFTSIGN:
        return x / (1.0f + fabsf(x));
    case CGRU_SOFTPLUS:
        return (x > 0 ? x : 0) + log1pf(expf(-fabsf(x)));
    case CGRU_ELU:
        return x > 0 ? x : expm1f(x);
    default: /* the others have vector forms */
        return x;
    }
}
