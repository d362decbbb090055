#define ISA neon
#include "vec_neon.h"

#include "f32_body.h"
