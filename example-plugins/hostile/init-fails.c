/* Its init refuses, with a reason. */
#include "plugin_api.h"

static int32_t init(const plug_host_context *ctx) {
    plug_raise(ctx, "no license for this host");
    return PLUG_FAILED;
}

static void stop(void) {}

PLUG_PLUGIN("init-fails", "1.0.0", "refuses to start", "MIT OR Apache-2.0", init, stop);
