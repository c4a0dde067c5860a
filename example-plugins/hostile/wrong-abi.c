/* It was built against another version of the binary contract. */
#include "plugin_api.h"

static int32_t init(const plug_host_context *ctx) {
    (void)ctx;
    return PLUG_OK;
}

static void stop(void) {}

#undef PLUG_ABI_VERSION
#define PLUG_ABI_VERSION 99
PLUG_PLUGIN("wrong-abi", "1.0.0", "speaks ABI 99", "MIT OR Apache-2.0", init, stop);
