/* Base64 of a stream in one line or in lines of equal length, as `base64 -w` prints it. */
#include "plug_filter.h"

#include <stdlib.h>

static const char ALPHABET[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/* Input bytes encoded at once: a multiple of three whose output fits the stack with ease. */
#define STEP ((size_t)3 * 1024)

struct base64 {
    const plug_host_context *ctx;
    uint8_t carry[3]; /* the bytes of an incomplete group */
    size_t n_carry;
    uint64_t wrap;
    uint64_t column; /* characters in the line that is not full yet */
};

/* Encodes n bytes, a multiple of three. */
static size_t encode(const uint8_t *in, size_t n, char *out) {
    char *to = out;
    size_t i;
    for (i = 0; i < n; i += 3) {
        uint32_t group = (uint32_t)in[i] << 16 | (uint32_t)in[i + 1] << 8 | in[i + 2];
        to[0] = ALPHABET[group >> 18];
        to[1] = ALPHABET[group >> 12 & 63];
        to[2] = ALPHABET[group >> 6 & 63];
        to[3] = ALPHABET[group & 63];
        to += 4;
    }
    return (size_t)(to - out);
}

/* Encodes the last one or two bytes with their padding: always four characters. */
static void encode_rest(const uint8_t *in, size_t n, char *out) {
    uint8_t group[3] = {0, 0, 0};
    memcpy(group, in, n);
    encode(group, 3, out);
    out[3] = '=';
    if (n == 1) {
        out[2] = '=';
    }
}

static int32_t refused(const struct base64 *self) {
    plug_raise(self->ctx, "the host takes no more output");
    return PLUG_FAILED;
}

/* Writes n characters, STEP / 3 * 4 at most, and the ends of the lines that they fill. */
static int32_t put(struct base64 *self, const plug_sink *out, const char *text, size_t n) {
    char lines[STEP / 3 * 4 * 2];
    char *to = lines;

    if (self->wrap == 0) {
        return plug_write(out, text, n) == 0 ? PLUG_OK : refused(self);
    }
    while (n > 0) {
        uint64_t room = self->wrap - self->column;
        size_t part = n < room ? n : (size_t)room;
        memcpy(to, text, part);
        to += part;
        text += part;
        n -= part;
        self->column += part;
        if (self->column == self->wrap) {
            *to++ = '\n';
            self->column = 0;
        }
    }
    return plug_write(out, lines, (size_t)(to - lines)) == 0 ? PLUG_OK : refused(self);
}

static void *create(const plug_host_context *ctx, const plug_params *params) {
    struct base64 *self = calloc(1, sizeof *self);
    plug_str wrap;
    (void)params;
    if (self == NULL) {
        plug_raise(ctx, "out of memory");
        return NULL;
    }
    self->ctx = ctx;
    /* Not there in a host that has this plugin linked in. */
    if (plug_param(ctx, "wrap", &wrap)) {
        plug_uint(wrap, &self->wrap); /* the host has checked it */
    }
    return self;
}

static int32_t process(void *instance, const uint8_t *input, size_t len, const plug_sink *out) {
    struct base64 *self = instance;
    char buffer[STEP / 3 * 4];
    size_t whole;

    if (self->n_carry > 0) {
        while (self->n_carry < 3 && len > 0) {
            self->carry[self->n_carry++] = *input++;
            len--;
        }
        if (self->n_carry < 3) {
            return PLUG_OK;
        }
        self->n_carry = 0;
        if (put(self, out, buffer, encode(self->carry, 3, buffer)) != PLUG_OK) {
            return PLUG_FAILED;
        }
    }
    for (whole = len - len % 3; whole > 0;) {
        size_t n = whole < STEP ? whole : STEP;
        if (put(self, out, buffer, encode(input, n, buffer)) != PLUG_OK) {
            return PLUG_FAILED;
        }
        input += n;
        whole -= n;
    }
    self->n_carry = len % 3;
    if (self->n_carry > 0) {
        memcpy(self->carry, input, self->n_carry);
    }
    return PLUG_OK;
}

static int32_t finish(void *instance, const plug_sink *out) {
    struct base64 *self = instance;
    char buffer[4];

    if (self->n_carry > 0) {
        encode_rest(self->carry, self->n_carry, buffer);
        self->n_carry = 0;
        if (put(self, out, buffer, sizeof buffer) != PLUG_OK) {
            return PLUG_FAILED;
        }
    }
    if (self->column > 0) {
        self->column = 0;
        return plug_write(out, "\n", 1) == 0 ? PLUG_OK : refused(self);
    }
    return PLUG_OK;
}

static void destroy(void *instance) {
    free(instance);
}

static const plug_filter_v1 BASE64 = {create, process, finish, destroy};

static int32_t init(const plug_host_context *ctx) {
    plug_log_debug(ctx, "base64 is ready");
    return PLUG_OK;
}

static void stop(void) {}

PLUG_INTERFACES(PLUG_FILTER_V1(BASE64));
PLUG_PARAM(wrap, "uint", "0", "characters in a line of the filter's output, 0 for one line without an end");
PLUG_PLUGIN_WITH_INTERFACES("base64", "1.0.0", "base64 of a stream",
                            "MIT OR Apache-2.0", init, stop);

/*
 * Encodes len bytes into out in one line, if its capacity suffices; returns the length needed in any
 * case, without a terminating zero. For plugins, too: mime imports it.
 */
PLUG_EXPORT(size_t, base64_encode, (const uint8_t *in, size_t len, char *out, size_t capacity)) {
    size_t whole = len - len % 3;
    size_t needed = (len + 2) / 3 * 4;
    if (needed <= capacity) {
        size_t done = encode(in, whole, out);
        if (len > whole) {
            encode_rest(in + whole, len - whole, out + done);
        }
    }
    return needed;
}
