#define ISA generic
#include "vec_generic.h"

#include "f32_body.h"
