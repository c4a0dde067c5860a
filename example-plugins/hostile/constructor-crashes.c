/* Its ELF constructor writes to address 0, before any of the host's protections. */
#include "plugin_api.h"

static int *volatile nowhere;

__attribute__((constructor)) static void crash(void) {
    *nowhere = 1;
}

static int32_t init(const plug_host_context *ctx) {
    (void)ctx;
    return PLUG_OK;
}

static void stop(void) {}

PLUG_PLUGIN("constructor-crashes", "1.0.0", "crashes in a constructor", "MIT OR Apache-2.0", init,
            stop);
