#define ISA generic
#include "vec_generic.h"

#include "loops_body.h"
