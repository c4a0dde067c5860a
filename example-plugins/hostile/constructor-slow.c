/* Its ELF constructor takes two seconds. */
#define _GNU_SOURCE
#include "plugin_api.h"

#include <errno.h>
#include <time.h>

static int constructed;

__attribute__((constructor)) static void dawdle(void) {
    struct timespec left = {2, 0};
    while (nanosleep(&left, &left) != 0 && errno == EINTR) {
    }
    constructed = 1;
}

static int32_t init(const plug_host_context *ctx) {
    (void)ctx;
    return PLUG_OK;
}

static void stop(void) {}

PLUG_PLUGIN("constructor-slow", "1.0.0", "sits in a constructor for two seconds",
            "MIT OR Apache-2.0", init, stop);

/* 1 once the constructor is through, which is before any call can get here. */
PLUG_EXPORT(int32_t, is_constructed, (void)) {
    return constructed;
}

PLUG_EXPORT(uint64_t, slow_add, (uint64_t a, uint64_t b)) {
    return a + b;
}
