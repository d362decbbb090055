#define ISA neon
#define PRECISION fp16
#include "vec_neon.h"
#include "half_neon.h"

#include "half_body.h"
