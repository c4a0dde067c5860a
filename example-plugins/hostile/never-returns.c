/* Its function does not return, until the caller's flag is set: a test must be able to end. */
#define _GNU_SOURCE
#include "plugin_api.h"

#include <time.h>

static int32_t init(const plug_host_context *ctx) {
    (void)ctx;
    return PLUG_OK;
}

static void stop(void) {}

PLUG_PLUGIN("never-returns", "1.0.0", "does not return from a call", "MIT OR Apache-2.0", init,
            stop);

/* Sleeps until *released is not 0, for ever if released is null; returns how often it slept. */
PLUG_EXPORT(uint64_t, never_returns, (const uint32_t *released)) {
    const struct timespec nap = {0, 1000000};
    uint64_t naps = 0;
    /* Acquire: pairs with the caller's store, which may free the flag after we returned only. */
    while (released == NULL || __atomic_load_n(released, __ATOMIC_ACQUIRE) == 0) {
        nanosleep(&nap, NULL);
        naps++;
    }
    return naps;
}
