/*
 * Encoded words of RFC 2047, by which headers of mail have text that is not ASCII: how a plugin uses
 * another one. base64 is loaded before it, stays as long as it does, and may be replaced under it.
 */
#include "plugin_api.h"

#include <stdio.h>

PLUG_IMPORT("base64", "^1", size_t, base64_encode,
            (const uint8_t *in, size_t len, char *out, size_t capacity), (in, len, out, capacity));

PLUG_PARAM(charset, "string", "UTF-8", "the charset that texts are in; any but UTF-8 has one byte a character");

/* No encoded word is longer. */
#define LONGEST ((size_t)75)

/* What stands around the charset and the base64 of a word. */
#define AROUND (sizeof "=?" - 1 + sizeof "?B?" - 1 + sizeof "?=" - 1)

/* Between two words; readers of mail drop it. */
static const char FOLD[] = "\r\n ";

/* Of letters, digits and `-_.`; long ones would leave no room for text. */
static int is_charset(plug_str name) {
    static const char LETTERS[] =
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.";
    size_t i;
    for (i = 0; i < name.len; i++) {
        if (memchr(LETTERS, name.ptr[i], sizeof LETTERS - 1) == NULL) {
            return 0;
        }
    }
    return name.len > 0 && name.len <= 40;
}

static plug_str charset(void) {
    plug_str name = plug_text("UTF-8");
    plug_param(plug_context(), "charset", &name);
    return name;
}

static int32_t init(const plug_host_context *ctx) {
    if (!is_charset(charset())) {
        plug_raise(ctx, "charset: expected 1 to 40 of A-Z a-z 0-9 - _ .");
        return PLUG_FAILED;
    }
    return PLUG_OK;
}

static void stop(void) {}

PLUG_PLUGIN("mime", "1.0.0", "encoded words for headers of mail", "MIT OR Apache-2.0", init, stop);

/* How much of a text the next word takes: no character is divided. */
static size_t piece(const uint8_t *text, size_t len, size_t most, int is_utf8) {
    size_t n = most;
    if (len <= most) {
        return len;
    }
    while (is_utf8 && n > 0 && (text[n] & 0xc0) == 0x80) {
        n--;
    }
    return n > 0 ? n : most; /* no UTF-8 after all */
}

/* Appends to what has room for `capacity`, and counts on where it is full. */
static size_t append(char *out, size_t capacity, size_t at, const char *text, size_t len) {
    if (at <= capacity && len <= capacity - at) {
        memcpy(out + at, text, len);
    }
    return at + len;
}

/*
 * Writes `len` bytes of text as encoded words into `out`, if its capacity suffices; returns the length
 * needed in any case, without a terminating zero. Where base64 fails it returns 0, and says why.
 */
PLUG_EXPORT(size_t, mime_words, (const uint8_t *text, size_t len, char *out, size_t capacity)) {
    plug_str name = charset();
    size_t most = (LONGEST - AROUND - name.len) / 4 * 3;
    int is_utf8 = plug_text_eq(name, "UTF-8") || plug_text_eq(name, "utf-8");
    size_t at = 0;

    while (len > 0) {
        char encoded[LONGEST], why[128], message[192];
        size_t n = piece(text, len, most, is_utf8);
        size_t n_encoded = base64_encode(text, n, encoded, sizeof encoded);
        /* Taken here to be put into this plugin's words: left alone, it would be this call's error as it
           is. Where there is one, the import returns zero. */
        if (plug_import_error(base64_encode, why, sizeof why)) {
            snprintf(message, sizeof message, "base64 fails: %s", why);
            plug_raise(plug_context(), message);
            return 0;
        }
        if (n_encoded > sizeof encoded) {
            plug_raise(plug_context(), "base64 fails: it tells a length that no base64 has");
            return 0;
        }
        if (at > 0) {
            at = append(out, capacity, at, FOLD, sizeof FOLD - 1);
        }
        at = append(out, capacity, at, "=?", 2);
        at = append(out, capacity, at, name.ptr, name.len);
        at = append(out, capacity, at, "?B?", 3);
        at = append(out, capacity, at, encoded, n_encoded);
        at = append(out, capacity, at, "?=", 2);
        text += n;
        len -= n;
    }
    return at;
}
