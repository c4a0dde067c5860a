// How long it takes to read a text: how a plugin in C++ uses another one, which counts the words.
#include "plugin_api.h"

#include <atomic>
#include <string>

PLUG_IMPORT("wordcount", "^1", uint64_t, count_words, (const uint8_t *text, size_t len), (text, len));

namespace {

// Written by the host's thread that sets the parameter and read by every call; nothing else is
// published with it.
std::atomic<uint64_t> words_per_minute{200};

int32_t set_words_per_minute(const plug_host_context *, plug_str value) {
    uint64_t number = 0;
    if (!plug_uint(value, &number)) {
        return PLUG_FAILED;
    }
    words_per_minute.store(number, std::memory_order_relaxed);
    return PLUG_OK;
}

// Bytes of a word and of the space behind it, in ordinary English.
constexpr uint64_t BYTES_A_WORD = 6;

uint64_t words(const uint8_t *text, size_t len) {
    try {
        return count_words(text, len);
    } catch (const plug::import_error &error) {
        // An estimate will do here. Not caught, it would be this plugin's own error.
        plug_log_warn(plug_context(), (std::string("words are estimated: ") + error.what()).c_str());
        return (len + BYTES_A_WORD - 1) / BYTES_A_WORD;
    }
}

int32_t init(const plug_host_context *) { return PLUG_OK; }

void stop() {}

} // namespace

PLUG_PARAM_WRITABLE(words_per_minute, "uint(1..=10000)", "200", "how fast somebody reads",
                    set_words_per_minute);
PLUG_PLUGIN("reading", "1.0.0", "tells how long a text takes to read", "MIT OR Apache-2.0", init, stop);

// The seconds that it takes to read len bytes, the one that has begun included.
PLUG_EXPORT(uint64_t, reading_seconds, (const uint8_t *text, size_t len)) {
    return plug::guard(plug_context(), uint64_t(0), [&] {
        uint64_t speed = words_per_minute.load(std::memory_order_relaxed);
        return (words(text, len) * 60 + speed - 1) / speed;
    });
}
