/*
 * A plugin of version 1, built from the frozen header beside it. Neither may be changed: they
 * stand for a plugin that was built long ago and must keep loading.
 */
#include "plugin_api.h"

typedef struct frozen_v1 {
    uint64_t (*twice)(uint64_t n);
} frozen_v1;

static uint64_t twice(uint64_t n) {
    return 2 * n;
}

static const frozen_v1 TABLE = {twice};

static int32_t init(const plug_host_context *ctx) {
    plug_str why;
    if (plug_param(ctx, "refuse", &why)) {
        plug_raise(ctx, "asked to refuse");
        return PLUG_FAILED;
    }
    plug_log_info(ctx, "the frozen plugin is ready");
    return PLUG_OK;
}

static void stop(void) {}

PLUG_AUTHOR("the authors of Plug");
PLUG_INTERFACES((INTERFACE, "test.frozen", 1, 0, TABLE));
PLUG_PLUGIN_WITH_INTERFACES("frozen", "1.0.0", "stands for plugins of version 1",
                            "MIT OR Apache-2.0", init, stop);

PLUG_EXPORT(uint64_t, frozen_add, (uint64_t a, uint64_t b)) {
    return a + b;
}
