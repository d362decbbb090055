#define ISA avx2
#define PRECISION bf16
#define WEIGHTS_BF16
#include "vec_avx2.h"
#include "half_avx2.h"

#include "half_body.h"
