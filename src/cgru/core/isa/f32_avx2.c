#define ISA avx2
#include "vec_avx2.h"

#include "f32_body.h"
