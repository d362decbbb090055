#define ISA neon
#define PRECISION bf16
#define WEIGHTS_BF16
#include "vec_neon.h"
#include "half_neon.h"

#include "half_body.h"
