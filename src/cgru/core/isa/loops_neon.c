#define ISA neon
#include "vec_neon.h"

#include "loops_body.h"
