// Its functions throw; the guard turns that into a status and a message.
#include "plugin_api.h"

#include <stdexcept>

static int32_t init(const plug_host_context *) { return PLUG_OK; }

static void stop() {}

PLUG_PLUGIN("export-throws", "1.0.0", "throws when it is called", "MIT OR Apache-2.0", init, stop);

// Throws a std::exception.
PLUG_EXPORT(int32_t, throws, (void)) {
    return plug::guard(plug_context(), int32_t(PLUG_CAUGHT), []() -> int32_t {
        throw std::runtime_error("the export gives up");
    });
}

// Throws something else.
PLUG_EXPORT(int32_t, throws_int, (void)) {
    return plug::guard(plug_context(), int32_t(PLUG_CAUGHT), []() -> int32_t { throw 42; });
}

// Does not throw.
PLUG_EXPORT(uint64_t, works, (uint64_t a)) { return a + 1; }
