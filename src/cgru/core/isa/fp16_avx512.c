#define ISA avx512
#define PRECISION fp16
#include "vec_avx512.h"
#include "half_avx512.h"

#include "half_body.h"
