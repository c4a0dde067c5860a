/* It says what it is, but has no descriptor. */
#include "plugin_api.h"

PLUG_META_(, "name=no-descriptor\0version=1.0.0\0description=lacks the descriptor\0license=MIT OR "
             "Apache-2.0\0api=1\0toolchain=" PLUG_TOOLCHAIN_ "\0target=" PLUG_TARGET_
             "\0lang=c");

PLUG_EXPORT(uint64_t, add, (uint64_t a, uint64_t b)) {
    return a + b;
}
