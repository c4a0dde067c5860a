/*
 * The example interface "plug.filter" 1.0 for C11 and C++17: a filter that takes a stream in
 * blocks and writes a stream. An instance belongs to one worker at a time. Statuses are those of
 * plugin_api.h: 0 ok, 1 a caught exception, negative the author's error, with a message raised.
 */
#ifndef PLUG_FILTER_H
#define PLUG_FILTER_H

#include "plugin_api.h"

#ifdef __cplusplus
extern "C" {
#endif

PLUG_STRUCT(plug_param_pair, (plug_str, key), (plug_str, value));

/* The parameters of one instance, valid for the call. */
PLUG_STRUCT(plug_params, (size_t, n_pairs), (const plug_param_pair *, pairs));

/* Where a filter writes, valid for the call; not 0 means that the host takes no more. */
PLUG_STRUCT(plug_sink, (void *, state),
            (int32_t, (*write)(void *state, const uint8_t *bytes, size_t len)));

/*
 * create returns a new instance, or null with the reason raised; ctx may be null, else it lives till
 * destroy.
 */
PLUG_STRUCT(plug_filter_v1,
            (void *, (*create)(const plug_host_context *ctx, const plug_params *params)),
            (int32_t, (*process)(void *instance, const uint8_t *input, size_t len, const plug_sink *out)),
            (int32_t, (*finish)(void *instance, const plug_sink *out)),
            (void, (*destroy)(void *instance)));

#ifdef __cplusplus
}
#endif

PLUG_SIZE_(plug_param_pair, 32);
PLUG_SIZE_(plug_params, 16);
PLUG_SIZE_(plug_sink, 16);
PLUG_SIZE_(plug_filter_v1, 32);

/* One entry for PLUG_INTERFACES. */
#define PLUG_FILTER_V1(table) (INTERFACE, "plug.filter", 1, 0, table, plug_filter_v1)

static inline int32_t plug_write(const plug_sink *out, const void *bytes, size_t len) {
    return out->write(out->state, (const uint8_t *)bytes, len);
}

/* 1 and *value when the instance was given the parameter, else 0. */
static inline int plug_params_get(const plug_params *params, const char *key, plug_str *value) {
    size_t i;
    for (i = 0; i < params->n_pairs; i++) {
        if (plug_text_eq(params->pairs[i].key, key)) {
            *value = params->pairs[i].value;
            return 1;
        }
    }
    return 0;
}

#ifdef __cplusplus
namespace plug {

/* What a filter in C++ writes to; throws when the host takes no more. */
class output {
  public:
    explicit output(const plug_sink *sink) : sink_(sink) {}

    void write(const char *bytes, size_t len) {
        if (plug_write(sink_, bytes, len) != 0) {
            throw closed();
        }
    }

  private:
    struct closed : std::exception {
        const char *what() const noexcept override { return "the host takes no more output"; }
    };

    const plug_sink *sink_;
};

/* What an instance of filter_table<Filter>() points to. */
template <class Filter> struct filter_held {
    const plug_host_context *ctx;
    bool broken;
    Filter filter;
    filter_held(const plug_host_context *c, const plug_params &params)
        : ctx(c), broken(false), filter(params) {}

    template <class Body> int32_t run(Body &&body) {
        if (broken) {
            plug_raise(ctx, "the filter threw before");
            return PLUG_FAILED;
        }
        int32_t status = guard(ctx, int32_t(PLUG_CAUGHT), [&] {
            body();
            return int32_t(PLUG_OK);
        });
        broken = status != PLUG_OK;
        return status;
    }
};

/*
 * The table of a class with a constructor from `const plug_params &`, and the members
 * `void process(const uint8_t *, size_t, output &)` and `void finish(output &)`. What they throw
 * becomes a status and a message; after that the instance is only destroyed.
 */
template <class Filter> constexpr plug_filter_v1 filter_table() {
    using held = filter_held<Filter>;
    return {
        [](const plug_host_context *ctx, const plug_params *params) -> void * {
            return guard(ctx, static_cast<void *>(nullptr),
                         [&]() -> void * { return new held(ctx, *params); });
        },
        [](void *instance, const uint8_t *input, size_t len, const plug_sink *out) -> int32_t {
            held *self = static_cast<held *>(instance);
            return self->run([&] {
                output to(out);
                self->filter.process(input, len, to);
            });
        },
        [](void *instance, const plug_sink *out) -> int32_t {
            held *self = static_cast<held *>(instance);
            return self->run([&] {
                output to(out);
                self->filter.finish(to);
            });
        },
        [](void *instance) {
            held *self = static_cast<held *>(instance);
            guard(self->ctx, [&] { delete self; });
        },
    };
}

} // namespace plug
#endif

#endif
