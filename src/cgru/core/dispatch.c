/* The instruction sets of this build and of this machine: asked of the processor once, never of /proc or /sys. */
#include <math.h>
#include <string.h>

#include "kernels.h"
#include "loops.h"

/* A build for several processors at once (macOS' universal2) cannot give each file its flags, and defines
 * CGRU_GENERIC_ONLY. */
#if defined(__x86_64__) && !defined(CGRU_GENERIC_ONLY)
#define X86
#elif defined(__aarch64__) && !defined(CGRU_GENERIC_ONLY)
#define ARM
#endif

/* Kernels of one precision, and loops, for one instruction set: isa/<precision>_<instruction set>.c, isa/loops_*.c. */
#define HAVE_LOOPS(isa) extern const cgru_loops cgru_loops_##isa
#define HAVE(precision, isa) extern const cgru_arithmetic cgru_##precision##_##isa
HAVE_LOOPS(generic);
HAVE(f32, generic);
HAVE(i8, generic);
HAVE(bf16, generic);
HAVE(fp16, generic);
#if defined(X86)
HAVE_LOOPS(avx2);
HAVE_LOOPS(avx512);
HAVE(f32, avx2);
HAVE(i8, avx2);
HAVE(i8, avxvnni);
HAVE(bf16, avx2);
HAVE(fp16, avx2);
HAVE(f32, avx512);
HAVE(i8, avx512);
HAVE(i8, avx512vnni);
HAVE(bf16, avx512);
HAVE(bf16, avx512bf16);
HAVE(fp16, avx512);
#endif
#if defined(ARM)
HAVE_LOOPS(neon);
HAVE(f32, neon);
HAVE(i8, neon);
HAVE(i8, neondot);
HAVE(bf16, neon);
HAVE(fp16, neon);
#endif

/* An instruction set that adds to another takes from it what it has nothing better for; loops go with float32. */
#define KERNELS(name, vl, f32, i8, bf16, fp16)                                                                         \
    {                                                                                                                  \
        {#name, vl, {&cgru_f32_##f32, &cgru_i8_##i8, &cgru_i8_##i8, &cgru_bf16_##bf16, &cgru_fp16_##fp16}},            \
            &cgru_loops_##f32                                                                                          \
    }
static const struct {
    cgru_kernels kernels;
    const cgru_loops *loops;
} built[] = {
    KERNELS(generic, 4, generic, generic, generic, generic),
#if defined(X86)
    KERNELS(avx2, 8, avx2, avx2, avx2, avx2),
    KERNELS(avxvnni, 8, avx2, avxvnni, avx2, avx2),
    KERNELS(avx512, 16, avx512, avx512, avx512, avx512),
    KERNELS(avx512vnni, 16, avx512, avx512vnni, avx512, avx512),
    KERNELS(avx512bf16, 16, avx512, avx512vnni, avx512bf16, avx512),
#endif
#if defined(ARM)
    KERNELS(neon, 4, neon, neon, neon, neon),
    KERNELS(neondot, 4, neon, neondot, neon, neon),
#endif
};

#if defined(X86)
#include <cpuid.h>

static int registers_saved(unsigned wanted)
{
    unsigned low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    (void)high;
    return (low & wanted) == wanted;
}

static int has(const char *name)
{
    unsigned a, b, c, d, more_a = 0, unused;
    if (!__get_cpuid(1, &a, &b, &c, &d)) return 0;
    const unsigned fma = 1u << 12, osxsave = 1u << 27, avx = 1u << 28, f16c = 1u << 29;
    if ((c & (fma | osxsave | avx | f16c)) != (fma | osxsave | avx | f16c)) return 0;
    if (!registers_saved(0x6)) return 0; /* the system keeps XMM and YMM */
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return 0;
    if (a >= 1) __get_cpuid_count(7, 1, &more_a, &unused, &unused, &unused);
    const unsigned avx2 = 1u << 5, f = 1u << 16, dq = 1u << 17, bw = 1u << 30, vl = 1u << 31;
    if (!(b & avx2)) return 0;
    if (strcmp(name, "avx2") == 0) return 1;
    if (strcmp(name, "avxvnni") == 0) return (more_a & 1u << 4) != 0;
    if ((b & (f | dq | bw | vl)) != (f | dq | bw | vl) || !registers_saved(0xe6)) return 0; /* and masks and ZMM */
    const int vnni = (c & 1u << 11) != 0, bf16 = (more_a & 1u << 5) != 0;
    return strcmp(name, "avx512") == 0 || (vnni && (strcmp(name, "avx512vnni") == 0 || bf16));
}
#elif defined(ARM)
#if defined(__linux__)
#include <sys/auxv.h>
#endif

static int has(const char *name)
{
    if (strcmp(name, "neon") == 0) return 1; /* part of AArch64 */
#if defined(__linux__)
    return (getauxval(AT_HWCAP) & 1ul << 20) != 0; /* HWCAP_ASIMDDP */
#elif defined(__APPLE__)
    return 1; /* every Apple processor of this architecture since 2018, and all that run macOS */
#else
    return 0;
#endif
}
#endif

const cgru_kernels *cgru_kernels_at(int index)
{
    return index >= 0 && index < (int)(sizeof built / sizeof *built) ? &built[index].kernels : NULL;
}

const cgru_loops *cgru_loops_of(const cgru_kernels *kernels)
{
    int index = 0;
    while (&built[index].kernels != kernels) index++;
    return built[index].loops;
}

int cgru_kernels_usable(int index)
{
#if defined(X86) || defined(ARM)
    if (index > 0 && cgru_kernels_at(index) != NULL) return has(cgru_kernels_at(index)->name);
#endif
    return index == 0; /* generic, always */
}

const cgru_cell *cgru_cell_named(const cgru_arithmetic *arithmetic, const char *name)
{
    for (int i = 0; i < arithmetic->cell_count; i++) {
        if (strcmp(arithmetic->cells[i].name, name) == 0) return &arithmetic->cells[i];
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
    case CGRU_SELU:
        return 1.05070099f * (x > 0 ? x : 1.67326324f * expm1f(x));
    case CGRU_GELU: /* erfc keeps the digits that 1 + erf loses below zero */
        return x * (0.5f * erfcf(-0.707106781f * x));
    case CGRU_MISH:
        return x * tanhf((x > 0 ? x : 0) + log1pf(expf(-fabsf(x))));
    case CGRU_LOG_SIGMOID:
        return (x < 0 ? x : 0) - log1pf(expf(-fabsf(x)));
    default: /* the others have vector forms */
        return x;
    }
}
