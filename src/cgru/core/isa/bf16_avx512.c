#define ISA avx512
#define PRECISION bf16
#define WEIGHTS_BF16
#include "vec_avx512.h"
#include "half_avx512.h"

#include "half_body.h"
