#define ISA avx2
#include "vec_avx2.h"

#include "kernel_body.h"
