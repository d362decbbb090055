#define ISA avx512
#include "vec_avx512.h"

#include "kernel_body.h"
