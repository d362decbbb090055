#define ISA generic
#define PRECISION fp16
#include "vec_generic.h"
#include "half_generic.h"

#include "half_body.h"
