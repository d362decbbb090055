#include <string.h>

#include "ops.h"

#define LISTED(name) &cgru_op_##name,
static const cgru_op *const OPS[] = {CGRU_OPERATIONS(LISTED)};
#undef LISTED

const cgru_op *cgru_op_named(const char *name)
{
    for (size_t i = 0; i < sizeof OPS / sizeof *OPS; i++) {
        if (strcmp(OPS[i]->name, name) == 0) return OPS[i];
    }
    return NULL;
}
