/*
 * What plugin authors in C11 and C++17 build against: the binary contract of version 1, and
 * macros that write the metadata and the descriptor. src/abi.rs says the same in Rust; static
 * assertions on both sides pin each layout.
 *
 *     #include "plugin_api.h"
 *
 *     static int32_t init(const plug_host_context *ctx) {
 *         plug_log_info(ctx, "hello");
 *         return PLUG_OK;
 *     }
 *     static void stop(void) {}
 *
 *     PLUG_PLUGIN("hello", "1.0.0", "greets", "MIT", init, stop);
 *
 *     PLUG_EXPORT(uint64_t, add, (uint64_t a, uint64_t b)) { return a + b; }
 *
 * Build it with: cc -shared -fPIC -I.../plugin-api/include hello.c -o libhello.so
 *
 * What must not cross the border: exceptions (see plug::guard below), memory to be freed by the
 * other side, text and pointers beyond the call that passed them, callbacks that outlive exit.
 *
 * With -DPLUG_STATIC_NAME=hello the same source links statically into a host: the descriptor
 * becomes hello_plug_descriptor_v1, and the metadata stays local to the object file.
 */
#ifndef PLUG_PLUGIN_API_H
#define PLUG_PLUGIN_API_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#ifdef __cplusplus
#include <exception>
#include <memory>
#include <type_traits>
#include <utility>
#if defined(__GLIBCXX__) || defined(__GLIBCPP__)
#include <cxxabi.h>
#endif
#endif

/* ---- The binary contract ---------------------------------------------------------------- */

#define PLUG_ABI_VERSION 1

#define PLUG_OK 0      /* success */
#define PLUG_CAUGHT 1  /* an exception was caught inside the plugin; its text was raised */
#define PLUG_FAILED -1 /* the author's error; every negative status is one */

#define PLUG_KIND_INTERFACE 0u /* a table that the host calls */
#define PLUG_KIND_SERVICE 1u   /* a table that other plugins and the host look up */

#define PLUG_LEVEL_ERROR 1
#define PLUG_LEVEL_WARN 2
#define PLUG_LEVEL_INFO 3
#define PLUG_LEVEL_DEBUG 4
#define PLUG_LEVEL_TRACE 5

#ifdef __cplusplus
extern "C" {
#endif

/* Borrowed UTF-8 text, valid for the duration of the call that passes it; no zero at its end. */
typedef struct plug_str {
    const char *ptr;
    size_t len;
} plug_str;

/*
 * What the host hands to init; valid until exit has returned. Every function takes `host` first
 * and may be called from any thread, but not from a signal handler.
 */
typedef struct plug_host_context {
    uint32_t abi_version;
    uint32_t size;
    void *host;
    /* 1 and *value when the parameter was given, else 0; the text stays valid like the context */
    int32_t (*param)(void *host, plug_str key, plug_str *value);
    /* the parameter at index in the order given: 1 while there is one, 0 past the end */
    int32_t (*param_at)(void *host, size_t index, plug_str *key, plug_str *value);
    void (*log)(void *host, int32_t level, plug_str message);
    /* the table of a service with this major and at least this minor, or null */
    const void *(*service)(void *host, plug_str name, uint32_t major, uint32_t minor);
    /* says why the call in progress on this thread fails, whatever it returns */
    void (*raise)(void *host, plug_str message);
} plug_host_context;

/* One interface or service that the plugin exports. */
typedef struct plug_interface_entry {
    plug_str name;
    uint32_t major;
    uint32_t minor;
    const void *table;
    uint32_t table_size;
    uint32_t kind;
} plug_interface_entry;

/* The one exported table of entry points. */
typedef struct plug_descriptor {
    uint32_t abi_version;
    uint32_t size;
    int32_t (*init)(const plug_host_context *ctx);
    void (*exit)(void);
    const plug_interface_entry *interfaces;
    size_t n_interfaces;
} plug_descriptor;

/*
 * The way to a function of another plugin, which PLUG_IMPORT declares and the host writes before any
 * code of the plugin runs. `enter` is null where it refuses, and fills `call`, the caller's memory until
 * `leave`, on the same thread and innermost first; that is not PLUG_OK where the function raised an
 * error. `take` hands that to `put` and is 1, or 0; what nobody takes is the error of the plugin's own
 * call in progress.
 */
typedef void (*plug_function)(void);

typedef struct plug_import_call {
    uint64_t words[8] __attribute__((aligned(16)));
} plug_import_call;

typedef struct plug_import_slot {
    uint32_t abi_version;
    uint32_t size;
    plug_function (*enter)(const void *binding, plug_import_call *call);
    int32_t (*leave)(plug_import_call *call);
    int32_t (*take)(void (*put)(void *to, plug_str message), void *to);
    const void *binding;
} plug_import_slot;

/* Statuses of plug_threads_v1.spawn beside PLUG_OK. */
#define PLUG_SPAWN_GOING -1     /* the plugin is on its way out */
#define PLUG_SPAWN_NO_THREAD -2 /* the system has no thread left */

/*
 * The service "plug.threads" 1.0, which a host offers to every plugin: threads that it tells to stop
 * when the plugin leaves, and joins before exit. Every function takes `host` first.
 */
typedef struct plug_threads_v1 {
    /* A thread of that name runs run(data); unless the status is PLUG_OK, none does. The plugin
       neither joins nor detaches it. run may leave by pthread_exit. */
    int32_t (*spawn)(void *host, plug_str name, void (*run)(void *data), void *data);
    /* 1 while threads are told to stop, else 0 */
    int32_t (*should_stop)(void *host);
    /* Sleeps, UINT64_MAX for ever; 1 as soon as threads are told to stop, 0 when the time is over */
    int32_t (*sleep)(void *host, uint64_t nanoseconds);
    /* Readable while threads are told to stop, -1 where there is none; neither read nor close it */
    int32_t (*stop_fd)(void *host);
} plug_threads_v1;

/*
 * Tasks: futures that cross the border. A plugin returns a plug_task from an exported function or a
 * table's; the host polls it, one call at a time on any thread, and drops it once.
 */
#define PLUG_TASK_PENDING 0 /* not ready; the waker will be woken */
#define PLUG_TASK_READY 1   /* ready, *output is written */
#define PLUG_TASK_FAILED 2  /* it failed; why was raised */

struct plug_waker_vtable;

/* What wakes a task: borrowed where poll gets it, owned where clone returned it. */
typedef struct plug_waker {
    const void *data;
    const struct plug_waker_vtable *vtable;
} plug_waker;

/* A waker's functions: on any thread, at any time, but not in a signal handler. */
typedef struct plug_waker_vtable {
    uint32_t size;
    uint32_t reserved;
    plug_waker (*clone)(const void *data);
    void (*wake)(const void *data); /* gives the waker up, too */
    void (*wake_by_ref)(const void *data);
    void (*drop)(const void *data);
} plug_waker_vtable;

typedef struct plug_task_vtable {
    uint32_t size;
    uint32_t output_size; /* bytes of the output */
    int32_t (*poll)(void *state, const plug_waker *waker, void *output);
    void (*drop)(void *state);
} plug_task_vtable;

typedef struct plug_task {
    void *state;
    const plug_task_vtable *vtable; /* null where there is no task */
} plug_task;

#ifdef __cplusplus
}
#define PLUG_STATIC_ASSERT_(condition, text) static_assert(condition, text)
#else
#define PLUG_STATIC_ASSERT_(condition, text) _Static_assert(condition, text)
#endif

#define PLUG_SIZE_(type, size) PLUG_STATIC_ASSERT_(sizeof(type) == (size), "size of " #type)
#define PLUG_OFFSET_(type, field, offset) \
    PLUG_STATIC_ASSERT_(offsetof(type, field) == (offset), "offset of " #type "." #field)

#if UINTPTR_MAX == 0xffffffffffffffffu
PLUG_SIZE_(plug_str, 16);
PLUG_OFFSET_(plug_str, ptr, 0);
PLUG_OFFSET_(plug_str, len, 8);
PLUG_SIZE_(plug_host_context, 56);
PLUG_OFFSET_(plug_host_context, abi_version, 0);
PLUG_OFFSET_(plug_host_context, size, 4);
PLUG_OFFSET_(plug_host_context, host, 8);
PLUG_OFFSET_(plug_host_context, param, 16);
PLUG_OFFSET_(plug_host_context, param_at, 24);
PLUG_OFFSET_(plug_host_context, log, 32);
PLUG_OFFSET_(plug_host_context, service, 40);
PLUG_OFFSET_(plug_host_context, raise, 48);
PLUG_SIZE_(plug_interface_entry, 40);
PLUG_OFFSET_(plug_interface_entry, name, 0);
PLUG_OFFSET_(plug_interface_entry, major, 16);
PLUG_OFFSET_(plug_interface_entry, minor, 20);
PLUG_OFFSET_(plug_interface_entry, table, 24);
PLUG_OFFSET_(plug_interface_entry, table_size, 32);
PLUG_OFFSET_(plug_interface_entry, kind, 36);
PLUG_SIZE_(plug_descriptor, 40);
PLUG_OFFSET_(plug_descriptor, abi_version, 0);
PLUG_OFFSET_(plug_descriptor, size, 4);
PLUG_OFFSET_(plug_descriptor, init, 8);
PLUG_OFFSET_(plug_descriptor, exit, 16);
PLUG_OFFSET_(plug_descriptor, interfaces, 24);
PLUG_OFFSET_(plug_descriptor, n_interfaces, 32);
PLUG_SIZE_(plug_import_slot, 40);
PLUG_OFFSET_(plug_import_slot, abi_version, 0);
PLUG_OFFSET_(plug_import_slot, size, 4);
PLUG_OFFSET_(plug_import_slot, enter, 8);
PLUG_OFFSET_(plug_import_slot, leave, 16);
PLUG_OFFSET_(plug_import_slot, take, 24);
PLUG_OFFSET_(plug_import_slot, binding, 32);
PLUG_SIZE_(plug_import_call, 64);
PLUG_SIZE_(plug_threads_v1, 32);
PLUG_OFFSET_(plug_threads_v1, spawn, 0);
PLUG_OFFSET_(plug_threads_v1, should_stop, 8);
PLUG_OFFSET_(plug_threads_v1, sleep, 16);
PLUG_OFFSET_(plug_threads_v1, stop_fd, 24);
PLUG_SIZE_(plug_waker, 16);
PLUG_OFFSET_(plug_waker, data, 0);
PLUG_OFFSET_(plug_waker, vtable, 8);
PLUG_SIZE_(plug_waker_vtable, 40);
PLUG_OFFSET_(plug_waker_vtable, size, 0);
PLUG_OFFSET_(plug_waker_vtable, reserved, 4);
PLUG_OFFSET_(plug_waker_vtable, clone, 8);
PLUG_OFFSET_(plug_waker_vtable, wake, 16);
PLUG_OFFSET_(plug_waker_vtable, wake_by_ref, 24);
PLUG_OFFSET_(plug_waker_vtable, drop, 32);
PLUG_SIZE_(plug_task_vtable, 24);
PLUG_OFFSET_(plug_task_vtable, size, 0);
PLUG_OFFSET_(plug_task_vtable, output_size, 4);
PLUG_OFFSET_(plug_task_vtable, poll, 8);
PLUG_OFFSET_(plug_task_vtable, drop, 16);
PLUG_SIZE_(plug_task, 16);
PLUG_OFFSET_(plug_task, state, 0);
PLUG_OFFSET_(plug_task, vtable, 8);
#endif

/* ---- Names and sections ----------------------------------------------------------------- */

#define PLUG_CAT_(a, b) PLUG_CAT_2_(a, b)
#define PLUG_CAT_2_(a, b) a##b
#define PLUG_TEXT_(a) PLUG_TEXT_2_(a)
#define PLUG_TEXT_2_(a) #a

#ifdef PLUG_STATIC_NAME
#define PLUG_NAME_(name) PLUG_CAT_(PLUG_STATIC_NAME, PLUG_CAT_(_, name))
#else
#define PLUG_NAME_(name) name
#endif

#ifdef __cplusplus
#define PLUG_C_BEGIN_ extern "C" {
#define PLUG_C_END_ }
#define PLUG_C_ extern "C"
#define PLUG_LANG_ "c++"
#define PLUG_NULL_ nullptr
#else
#define PLUG_C_BEGIN_
#define PLUG_C_END_
#define PLUG_C_
#define PLUG_LANG_ "c"
#define PLUG_NULL_ NULL
#endif

#define PLUG_VISIBLE_ __attribute__((visibility("default")))
#define PLUG_HIDDEN_ __attribute__((visibility("hidden")))

/* aligned(1): compilers pad large arrays otherwise, and the section is read as one text. */
#define PLUG_META_ATTRIBUTES_ __attribute__((used, aligned(1), section(".plug.meta")))

/* Emits "key=value\0" strings; `id` tells the symbols of one plugin apart. */
#ifdef PLUG_STATIC_NAME
#define PLUG_META_(id, text) static const char PLUG_CAT_(plug_meta_v1, id)[] PLUG_META_ATTRIBUTES_ = text
#define PLUG_META_SHARED_(id, text) PLUG_META_(id, text)
#else
/* The same for what a header says to several files of one plugin. */
#define PLUG_META_SHARED_(id, text)                                                 \
    PLUG_C_BEGIN_                                                                   \
    extern PLUG_VISIBLE_ __attribute__((weak)) const char PLUG_CAT_(plug_meta_v1, id)[]; \
    PLUG_C_END_                                                                     \
    PLUG_META_(id, text)

#define PLUG_META_(id, text)                                            \
    PLUG_C_BEGIN_                                                       \
    extern PLUG_VISIBLE_ const char PLUG_CAT_(plug_meta_v1, id)[];      \
    const char PLUG_CAT_(plug_meta_v1, id)[] PLUG_META_ATTRIBUTES_ = text; \
    PLUG_C_END_                                                         \
    PLUG_STATIC_ASSERT_(1, "takes the semicolon")
#endif

#if defined(__x86_64__) && defined(__linux__) && defined(__GLIBC__)
#define PLUG_TARGET_ "x86_64-unknown-linux-gnu"
#elif defined(__aarch64__) && defined(__linux__) && defined(__GLIBC__)
#define PLUG_TARGET_ "aarch64-unknown-linux-gnu"
#else
#define PLUG_TARGET_ "unknown"
#endif

#if defined(__clang__)
#define PLUG_TOOLCHAIN_ __VERSION__
#else
#define PLUG_TOOLCHAIN_ "gcc " __VERSION__
#endif

#if defined(__cplusplus) && defined(__cpp_exceptions)
#define PLUG_PANIC_ "panic=exceptions\0"
#else
#define PLUG_PANIC_
#endif

/* ---- What a plugin says about itself ---------------------------------------------------- */

/* Optional: who wrote it. */
#define PLUG_AUTHOR(author) PLUG_META_(_author, "author=" author)

/* Optional: it can never be unloaded, for this reason, which whoever tries is told. */
#define PLUG_PERMANENT(reason) PLUG_META_(_permanent, "permanent=" reason)

/*
 * The plugin, once: texts are literals, init is `int32_t (*)(const plug_host_context *)`, exit is
 * `void (*)(void)`. In C++ both may throw.
 */
#define PLUG_PLUGIN(name, version, description, license, init, exit) \
    PLUG_PLUGIN_(name, version, description, license, init, exit, PLUG_NULL_, 0)

/* The same for a plugin with PLUG_INTERFACES, which comes first. */
#define PLUG_PLUGIN_WITH_INTERFACES(name, version, description, license, init, exit) \
    PLUG_PLUGIN_(name, version, description, license, init, exit, plug_interfaces_,  \
                 sizeof plug_interfaces_ / sizeof plug_interfaces_[0])

/*
 * The tables it exports, up to eight: PLUG_INTERFACES((INTERFACE, "plug.filter", 1, 0, TABLE)),
 * with SERVICE for a service. TABLE is a const object with static storage. Where its type is one of
 * PLUG_STRUCT and stands behind it, as in (INTERFACE, "plug.filter", 1, 0, TABLE, plug_filter_v1), hosts
 * compare its fields.
 */
#define PLUG_INTERFACES(...)                                                                   \
    static const plug_interface_entry plug_interfaces_[] = {PLUG_EACH_(PLUG_ENTRY_, __VA_ARGS__)}; \
    PLUG_EACH_(PLUG_ENTRY_META_, __VA_ARGS__)                                                      \
    PLUG_STATIC_ASSERT_(1, "takes the semicolon")

/*
 * A struct of up to eight fields that may stand in signatures; both sides tell its fields and compare
 * them. A field that points to a function is (RET, (*NAME)(ARGS)).
 *     PLUG_STRUCT(example_point, (int32_t, x), (double, y));
 */
#define PLUG_STRUCT(name, ...)                                                              \
    typedef struct name {                                                                   \
        PLUG_EACH_(PLUG_FIELD_, __VA_ARGS__)                                                \
    } name;                                                                                 \
    PLUG_META_SHARED_(_layout_##name, "layout=" #name ":" PLUG_EACH_(PLUG_FIELD_TEXT_, __VA_ARGS__))

#define PLUG_FIELD_(i, field) PLUG_FIELD_2_ field
#define PLUG_FIELD_2_(type, name) type name;
#define PLUG_FIELD_TEXT_(i, field) PLUG_FIELD_TEXT_2_ field
#define PLUG_FIELD_TEXT_2_(type, name) #type " " #name ";"

/*
 * Exports a function under its own name, with its signature in the metadata:
 *     PLUG_EXPORT(uint64_t, add, (uint64_t a, uint64_t b)) { return a + b; }
 * A host that calls it compares the signature, if its types are those of <stdint.h> and <stddef.h>,
 * C's own, this header's, structs of PLUG_STRUCT, or pointers to such.
 * In C++ its body goes through plug::guard if it can throw.
 */
#define PLUG_EXPORT(ret, name, args)                                        \
    PLUG_META_(_export_##name, "export=" #name ":" #ret #args               \
                               "\0signature=" #name ":" #ret #args);         \
    PLUG_C_BEGIN_                                                           \
    PLUG_VISIBLE_ ret name args;                                            \
    PLUG_C_END_                                                             \
    PLUG_C_ ret name args

/*
 * Imports a function of another plugin under its own name: the plugin's name, which of its versions
 * will do ("^1.2", ">=1.2, <3", "*"), what the function returns, its name, its parameters, and their
 * names once more:
 *     PLUG_IMPORT("base64", "^1", size_t, base64_len, (size_t len), (len));
 * The host loads this plugin only where the other one is Live, has such a version and exports a function
 * of that signature; keeps it for as long as this plugin is there; and leads calls to what replaces it.
 * It may stand in a header that several files of this plugin include, but no two plugins can be asked for
 * functions of one name.
 * Where the function raised an error, zero is returned, and the error is that of this plugin's own call in
 * progress unless it takes it by plug_import_error. In C++ a plug::import_error is thrown instead; not with
 * PLUG_IMPORT_NO_THROW defined before this header is included, as for calls in destructors.
 * Before init, in constructors that is, and where there is no host, calls are refused: zero, in C++ too.
 * The load is refused then.
 * A function that is left by pthread_exit, by pthread_cancel or by an exception is only left in order by a
 * plugin in C that is compiled with -fexceptions.
 */
#define PLUG_IMPORT(plugin, requirement, ret, name, args, names)                                \
    PLUG_IMPORT_SLOT_(plugin, requirement, ret, name, args);                                     \
    static inline __attribute__((unused)) ret name args {                                \
        PLUG_IMPORT_CALL_(ret, name, ((ret(*) args)plug_function_)names)                        \
    }                                                                                           \
    PLUG_STATIC_ASSERT_(1, "takes the semicolon")

/* The same for a function that returns nothing. */
#define PLUG_IMPORT_VOID(plugin, requirement, name, args, names)                                \
    PLUG_IMPORT_SLOT_(plugin, requirement, void, name, args);                                    \
    static inline __attribute__((unused)) void name args {                               \
        PLUG_IMPORT_CALL_VOID_(name, ((void (*) args)plug_function_)names)                       \
    }                                                                                           \
    PLUG_STATIC_ASSERT_(1, "takes the semicolon")

#define PLUG_IMPORT_SLOT_(plugin, requirement, ret, name, args)                                 \
    PLUG_META_SHARED_(_import_##name, "import=" plugin ":" #name ":" requirement                        \
                               "\0import-signature=" #name ":" #ret #args);                       \
    PLUG_C_BEGIN_                                                                               \
    extern PLUG_PARAM_VISIBLE_ __attribute__((weak)) plug_import_slot PLUG_NAME_(plug_import_v1_##name); \
    plug_import_slot PLUG_NAME_(plug_import_v1_##name) = {                                      \
        PLUG_ABI_VERSION, sizeof(plug_import_slot), PLUG_NULL_, PLUG_NULL_, PLUG_NULL_, PLUG_NULL_}; \
    PLUG_C_END_                                                                                 \
    PLUG_STATIC_ASSERT_(1, "takes the semicolon")

#define PLUG_IMPORT_CALL_(ret, name, call)                                                      \
    PLUG_IMPORT_ENTER_(name)                                                                    \
    static ret plug_zero_;                                                                      \
    if (plug_function_ != PLUG_NULL_) {                                                         \
        ret plug_result_ = call;                                                                \
        if (PLUG_IMPORT_FINISH_) {                                                              \
            return plug_result_;                                                                \
        }                                                                                       \
    }                                                                                           \
    return plug_zero_;
#define PLUG_IMPORT_CALL_VOID_(name, call)                                                      \
    PLUG_IMPORT_ENTER_(name)                                                                    \
    if (plug_function_ != PLUG_NULL_) {                                                         \
        call;                                                                                   \
        (void)PLUG_IMPORT_FINISH_;                                                              \
    }
#ifdef __cplusplus
#define PLUG_IMPORT_ENTER_(name)                                                                \
    plug::import_call plug_call_(PLUG_NAME_(plug_import_v1_##name), #name);                     \
    plug_function plug_function_ = plug_call_.function();
#define PLUG_IMPORT_FINISH_ plug_call_.finish()
#else
#define PLUG_IMPORT_ENTER_(name)                                                                \
    __attribute__((cleanup(plug_import_abandon_))) struct plug_importing_ plug_call_;           \
    plug_function plug_function_ =                                                              \
        plug_import_enter_(&plug_call_, &PLUG_NAME_(plug_import_v1_##name), #name);
#define PLUG_IMPORT_FINISH_ plug_import_finish_(&plug_call_)
#endif

/*
 * A parameter: type is "bool", "int(0..=9)", "uint(..)", "float", "string", "enum(one|two)",
 * "duration(1ms..=1h)", "bytes(..=1GiB)" or "list(TYPE)", value its default as text. The host checks
 * what it is given against that, and plug_param and its kin tell it: numbers in decimal, durations in
 * nanoseconds, sizes in bytes, true or false.
 *     PLUG_PARAM(level, "int(0..=9)", "6", "how hard to try");
 */
#define PLUG_PARAM(name, type, value, doc) \
    PLUG_META_(_param_##name, "param=" #name ":" type "\0param-default=" #name ":" value "\0param-doc=" #name ":" doc)

/* The same for one that must be given. */
#define PLUG_PARAM_REQUIRED(name, type, doc) \
    PLUG_META_(_param_##name, "param=" #name ":" type "\0param-doc=" #name ":" doc)

/*
 * A parameter that can be written while the plugin is Live: `set` is told its value before init, and
 * whenever it is written; what it refuses by a status other than PLUG_OK, saying why by plug_raise,
 * stays as it was. It runs on a thread of the host's. In C++ it may throw.
 *     static int32_t set_level(const plug_host_context *ctx, plug_str value);
 *     PLUG_PARAM_WRITABLE(level, "int(0..=9)", "6", "how hard to try", set_level);
 */
#define PLUG_PARAM_WRITABLE(name, type, value, doc, set)                                        \
    PLUG_META_(_param_##name, "param=" #name ":" type " writable\0param-default=" #name ":" value \
               "\0param-doc=" #name ":" doc "\0param-set=" #name ":plug_param_v1_" #name);         \
    PLUG_C_BEGIN_                                                                               \
    PLUG_PARAM_VISIBLE_ int32_t PLUG_NAME_(plug_param_v1_##name)(const plug_host_context *ctx, plug_str text); \
    PLUG_PARAM_VISIBLE_ int32_t PLUG_NAME_(plug_param_v1_##name)(const plug_host_context *ctx, plug_str text) { \
        return PLUG_CALL_SET_(ctx, set, text);                                                  \
    }                                                                                           \
    PLUG_C_END_                                                                                 \
    PLUG_STATIC_ASSERT_(1, "takes the semicolon")

/*
 * How one version of the plugin takes over from another, when the host replaces it. `save` hands the
 * old one's state over by one call of put(to, version, bytes, len), which copies the bytes; the old one
 * goes on being called meanwhile and afterwards. `restore` gets it in the new one, after init and before
 * anybody calls that. A status other than PLUG_OK, with a reason by plug_raise, refuses the replace, and
 * the old one stays. Both run on threads of the host's. In C++ they may throw.
 *     static int32_t save(const plug_host_context *ctx, plug_put put, void *to);
 *     static int32_t restore(const plug_host_context *ctx, uint32_t version, const void *bytes, size_t len);
 *     PLUG_HAND_OVER(save, restore);
 */
typedef void (*plug_put)(void *to, uint32_t version, const void *bytes, size_t len);

#define PLUG_HAND_OVER(save, restore)                                                           \
    PLUG_C_BEGIN_                                                                               \
    PLUG_PARAM_VISIBLE_ int32_t PLUG_NAME_(plug_save_v1)(const plug_host_context *ctx, plug_put put, void *to); \
    PLUG_PARAM_VISIBLE_ int32_t PLUG_NAME_(plug_save_v1)(const plug_host_context *ctx, plug_put put, void *to) { \
        return PLUG_CALL_SAVE_(ctx, save, put, to);                                             \
    }                                                                                           \
    PLUG_PARAM_VISIBLE_ int32_t PLUG_NAME_(plug_restore_v1)(const plug_host_context *ctx, uint32_t version, const void *bytes, size_t len); \
    PLUG_PARAM_VISIBLE_ int32_t PLUG_NAME_(plug_restore_v1)(const plug_host_context *ctx, uint32_t version, const void *bytes, size_t len) { \
        return PLUG_CALL_RESTORE_(ctx, restore, version, bytes, len);                           \
    }                                                                                           \
    PLUG_C_END_                                                                                 \
    PLUG_STATIC_ASSERT_(1, "takes the semicolon")

#ifdef PLUG_STATIC_NAME
#define PLUG_PARAM_VISIBLE_
#else
#define PLUG_PARAM_VISIBLE_ PLUG_VISIBLE_
#endif

/* The host's context between the start of init and the end of exit, else null. */
#define plug_context() ((const plug_host_context *)PLUG_NAME_(plug_context_v1))

PLUG_C_BEGIN_
extern PLUG_HIDDEN_ const plug_host_context *PLUG_NAME_(plug_context_v1);
PLUG_C_END_

#define PLUG_PLUGIN_(name, version, description, license, init, exit, interfaces, n)             \
    PLUG_META_(, "name=" name "\0version=" version "\0description=" description                  \
                 "\0license=" license "\0api=" PLUG_TEXT_(PLUG_ABI_VERSION) "\0toolchain="       \
                 PLUG_TOOLCHAIN_ "\0target=" PLUG_TARGET_ "\0" PLUG_PANIC_ "lang=" PLUG_LANG_);  \
    PLUG_C_BEGIN_                                                                                \
    const plug_host_context *PLUG_NAME_(plug_context_v1) = PLUG_NULL_;                           \
    static int32_t plug_init_(const plug_host_context *ctx) {                                    \
        int32_t status;                                                                          \
        if (ctx == PLUG_NULL_ || ctx->abi_version != PLUG_ABI_VERSION ||                         \
            ctx->size < sizeof(plug_host_context)) {                                             \
            return PLUG_FAILED;                                                                  \
        }                                                                                        \
        PLUG_NAME_(plug_context_v1) = ctx;                                                       \
        status = PLUG_CALL_INIT_(ctx, init);                                                     \
        if (status != PLUG_OK) { /* no exit follows, and the host may drop its context */        \
            PLUG_NAME_(plug_context_v1) = PLUG_NULL_;                                            \
        }                                                                                        \
        return status;                                                                           \
    }                                                                                            \
    static void plug_exit_(void) {                                                               \
        PLUG_CALL_EXIT_(PLUG_NAME_(plug_context_v1), exit);                                      \
        PLUG_NAME_(plug_context_v1) = PLUG_NULL_;                                                \
    }                                                                                            \
    extern PLUG_VISIBLE_ const plug_descriptor PLUG_NAME_(plug_descriptor_v1);                   \
    const plug_descriptor PLUG_NAME_(plug_descriptor_v1) = {                                     \
        PLUG_ABI_VERSION, sizeof(plug_descriptor), plug_init_, plug_exit_, interfaces, n};       \
    PLUG_C_END_                                                                                  \
    PLUG_STATIC_ASSERT_(sizeof(name) > 1, "a plugin needs a name")

#ifdef __cplusplus
#define PLUG_CALL_INIT_(ctx, init) plug::guard(ctx, int32_t(PLUG_CAUGHT), [&] { return init(ctx); })
#define PLUG_CALL_EXIT_(ctx, exit) plug::guard(ctx, [] { exit(); })
#define PLUG_CALL_SET_(ctx, set, text) plug::guard(ctx, int32_t(PLUG_CAUGHT), [&] { return set(ctx, text); })
#define PLUG_CALL_SAVE_(ctx, save, put, to) plug::guard(ctx, int32_t(PLUG_CAUGHT), [&] { return save(ctx, put, to); })
#define PLUG_CALL_RESTORE_(ctx, restore, version, bytes, len) \
    plug::guard(ctx, int32_t(PLUG_CAUGHT), [&] { return restore(ctx, version, bytes, len); })
#else
#define PLUG_CALL_SAVE_(ctx, save, put, to) save(ctx, put, to)
#define PLUG_CALL_RESTORE_(ctx, restore, version, bytes, len) restore(ctx, version, bytes, len)
#define PLUG_CALL_SET_(ctx, set, text) set(ctx, text)
#define PLUG_CALL_INIT_(ctx, init) init(ctx)
#define PLUG_CALL_EXIT_(ctx, exit) exit()
#endif

#define PLUG_ENTRY_(i, entry) PLUG_ENTRY_2_ entry
#define PLUG_ENTRY_2_(...) PLUG_ENTRY_3_(__VA_ARGS__, _)
#define PLUG_ENTRY_3_(kind, name, major, minor, table, ...) \
    {{name, sizeof(name) - 1}, major, minor, &table, (uint32_t)sizeof(table), PLUG_KIND_##kind},
#define PLUG_ENTRY_META_(i, entry) PLUG_META_(_interface_##i, PLUG_ENTRY_META_2_ entry);
#define PLUG_ENTRY_META_2_(...) \
    PLUG_PICK_6_(__VA_ARGS__, PLUG_ENTRY_TOLD_, PLUG_ENTRY_UNTOLD_, _)(__VA_ARGS__)
#define PLUG_PICK_6_(a, b, c, d, e, f, picked, ...) picked
#define PLUG_ENTRY_UNTOLD_(kind, name, major, minor, table) \
    PLUG_ENTRY_KEY_##kind name "/" PLUG_TEXT_2_(major) "." PLUG_TEXT_2_(minor)
#define PLUG_ENTRY_TOLD_(kind, name, major, minor, table, type)  \
    PLUG_ENTRY_UNTOLD_(kind, name, major, minor, table)          \
    "\0table=" name "/" PLUG_TEXT_2_(major) "." PLUG_TEXT_2_(minor) ":" #type
#define PLUG_ENTRY_KEY_INTERFACE "interface="
#define PLUG_ENTRY_KEY_SERVICE "service="

#define PLUG_EACH_(f, ...)                                                                       \
    PLUG_PICK_(__VA_ARGS__, PLUG_EACH_8_, PLUG_EACH_7_, PLUG_EACH_6_, PLUG_EACH_5_, PLUG_EACH_4_, \
               PLUG_EACH_3_, PLUG_EACH_2_, PLUG_EACH_1_, _)(f, __VA_ARGS__)
#define PLUG_PICK_(a, b, c, d, e, f, g, h, picked, ...) picked
#define PLUG_EACH_1_(f, a) f(1, a)
#define PLUG_EACH_2_(f, a, ...) f(2, a) PLUG_EACH_1_(f, __VA_ARGS__)
#define PLUG_EACH_3_(f, a, ...) f(3, a) PLUG_EACH_2_(f, __VA_ARGS__)
#define PLUG_EACH_4_(f, a, ...) f(4, a) PLUG_EACH_3_(f, __VA_ARGS__)
#define PLUG_EACH_5_(f, a, ...) f(5, a) PLUG_EACH_4_(f, __VA_ARGS__)
#define PLUG_EACH_6_(f, a, ...) f(6, a) PLUG_EACH_5_(f, __VA_ARGS__)
#define PLUG_EACH_7_(f, a, ...) f(7, a) PLUG_EACH_6_(f, __VA_ARGS__)
#define PLUG_EACH_8_(f, a, ...) f(8, a) PLUG_EACH_7_(f, __VA_ARGS__)

/* ---- The host as a plugin sees it ------------------------------------------------------- */

static inline plug_str plug_text(const char *text) {
    plug_str str;
    str.ptr = text;
    str.len = strlen(text);
    return str;
}

static inline int plug_text_eq(plug_str str, const char *text) {
    return str.len == strlen(text) && memcmp(str.ptr, text, str.len) == 0;
}

/* 1 and *value when the parameter was given, else 0. */
static inline int plug_param(const plug_host_context *ctx, const char *key, plug_str *value) {
    return ctx != PLUG_NULL_ && ctx->param(ctx->host, plug_text(key), value) == 1;
}

/* A number out of what plug_param told: 1 and *number, or 0. For int. */
static inline int plug_int(plug_str text, int64_t *number) {
    int negative = text.len > 0 && text.ptr[0] == '-';
    uint64_t sum = 0;
    size_t i = (size_t)negative;
    if (i == text.len || text.len - i > 19) {
        return 0;
    }
    for (; i < text.len; i++) {
        if (text.ptr[i] < '0' || text.ptr[i] > '9') {
            return 0;
        }
        sum = sum * 10 + (uint64_t)(text.ptr[i] - '0');
    }
    if (sum > (uint64_t)INT64_MAX + (uint64_t)negative) {
        return 0;
    }
    *number = negative && sum != 0 ? -(int64_t)(sum - 1) - 1 : (int64_t)sum;
    return 1;
}

/* The same for uint, for duration in nanoseconds, and for bytes. */
static inline int plug_uint(plug_str text, uint64_t *number) {
    uint64_t sum = 0;
    size_t i;
    if (text.len == 0) {
        return 0;
    }
    for (i = 0; i < text.len; i++) {
        uint64_t digit = (uint64_t)(unsigned char)text.ptr[i] - '0';
        if (digit > 9 || sum > (UINT64_MAX - digit) / 10) {
            return 0;
        }
        sum = sum * 10 + digit;
    }
    *number = sum;
    return 1;
}

static inline void plug_log(const plug_host_context *ctx, int32_t level, const char *message) {
    if (ctx != PLUG_NULL_) {
        ctx->log(ctx->host, level, plug_text(message));
    }
}

static inline void plug_log_error(const plug_host_context *ctx, const char *message) {
    plug_log(ctx, PLUG_LEVEL_ERROR, message);
}

static inline void plug_log_warn(const plug_host_context *ctx, const char *message) {
    plug_log(ctx, PLUG_LEVEL_WARN, message);
}

static inline void plug_log_info(const plug_host_context *ctx, const char *message) {
    plug_log(ctx, PLUG_LEVEL_INFO, message);
}

static inline void plug_log_debug(const plug_host_context *ctx, const char *message) {
    plug_log(ctx, PLUG_LEVEL_DEBUG, message);
}

static inline void plug_log_trace(const plug_host_context *ctx, const char *message) {
    plug_log(ctx, PLUG_LEVEL_TRACE, message);
}

/* The table of a service of the host, or null; valid until exit has returned. */
static inline const void *plug_service(const plug_host_context *ctx, const char *name,
                                       uint32_t major, uint32_t minor) {
    return ctx == PLUG_NULL_ ? PLUG_NULL_ : ctx->service(ctx->host, plug_text(name), major, minor);
}

/* Says why the call in progress on this thread fails; the last message of a call counts. */
static inline void plug_raise(const plug_host_context *ctx, const char *message) {
    if (ctx != PLUG_NULL_) {
        ctx->raise(ctx->host, plug_text(message));
    }
}

/* ---- Imports ---------------------------------------------------------------------------- */

struct plug_importing_ {
    plug_import_call call;
    const plug_import_slot *slot;
    plug_function function; /* null once it is left */
};

/* The function, entered; null where no host has bound it, or where that refuses. */
static inline plug_function plug_import_enter_(struct plug_importing_ *it, const plug_import_slot *slot,
                                               const char *name) {
    it->slot = slot;
    it->function = PLUG_NULL_;
    if (slot->enter != PLUG_NULL_) {
        it->function = slot->enter(slot->binding, &it->call);
    } else {
        char text[128] = "an imported function is not bound, since no loader loaded this plugin: ";
        strncat(text, name, sizeof text - strlen(text) - 1);
        plug_raise(plug_context(), text);
    }
    return it->function;
}

/* Leaves it; whether it raised nothing. */
static inline int plug_import_finish_(struct plug_importing_ *it) {
    it->function = PLUG_NULL_;
    return it->slot->leave(&it->call) == PLUG_OK;
}

/* Leaves it where it was left by an exception. */
static inline void plug_import_abandon_(struct plug_importing_ *it) {
    if (it->function != PLUG_NULL_) {
        (void)plug_import_finish_(it);
    }
}

struct plug_room_ {
    char *out;
    size_t size;
};

static inline void plug_import_put_(void *to, plug_str message) {
    struct plug_room_ *room = (struct plug_room_ *)to;
    size_t len = message.len < room->size ? message.len : room->size - 1;
    memcpy(room->out, message.ptr, len);
    room->out[len] = 0;
}

/*
 * Whether the function imported by this slot, as in plug_import_error(base64_len, text, sizeof text), raised an error on this
 * thread, or another one did since it was asked last: it is taken, and its text is in `out`, cut to
 * `size` bytes with a zero at its end.
 */
#define plug_import_error(name, out, size) \
    plug_import_take_(&PLUG_NAME_(plug_import_v1_##name), out, size)

static inline int plug_import_take_(const plug_import_slot *slot, char *out, size_t size) {
    struct plug_room_ room;
    room.out = out;
    room.size = size;
    return size > 0 && slot->take != PLUG_NULL_ && slot->take(plug_import_put_, &room) == 1;
}

/* ---- Threads ---------------------------------------------------------------------------- */

static inline const plug_threads_v1 *plug_threads(const plug_host_context *ctx) {
    return (const plug_threads_v1 *)plug_service(ctx, "plug.threads", 1, 0);
}

/*
 * Starts a thread that runs run(data), which is to return soon after plug_should_stop() says so:
 *
 *     static void tick(void *data) {
 *         while (!plug_sleep(plug_context(), 1000000000)) { ... }
 *     }
 *     plug_spawn(ctx, "ticker", tick, NULL);
 *
 * PLUG_OK, PLUG_SPAWN_GOING or PLUG_SPAWN_NO_THREAD.
 */
static inline int32_t plug_spawn(const plug_host_context *ctx, const char *name,
                                 void (*run)(void *data), void *data) {
    const plug_threads_v1 *threads = plug_threads(ctx);
    return threads == PLUG_NULL_ ? PLUG_SPAWN_NO_THREAD
                                 : threads->spawn(ctx->host, plug_text(name), run, data);
}

/* Whether the plugin's threads are told to stop; they are, too, where there is no context any more. */
static inline int plug_should_stop(const plug_host_context *ctx) {
    const plug_threads_v1 *threads = plug_threads(ctx);
    return ctx == PLUG_NULL_ || (threads != PLUG_NULL_ && threads->should_stop(ctx->host) == 1);
}

/* Sleeps no longer than until threads are told to stop; whether they are. */
static inline int plug_sleep(const plug_host_context *ctx, uint64_t nanoseconds) {
    const plug_threads_v1 *threads = plug_threads(ctx);
    return ctx == PLUG_NULL_ || (threads != PLUG_NULL_ && threads->sleep(ctx->host, nanoseconds) == 1);
}

/* A descriptor for poll and epoll, readable while threads are told to stop; the host's. */
static inline int plug_stop_fd(const plug_host_context *ctx) {
    const plug_threads_v1 *threads = plug_threads(ctx);
    return threads == PLUG_NULL_ ? -1 : threads->stop_fd(ctx->host);
}

/* ---- Tasks ------------------------------------------------------------------------------ */

/* A waker of the same task to keep: give it up by plug_waker_wake or plug_waker_drop, once. */
static inline plug_waker plug_waker_clone(const plug_waker *waker) {
    return waker->vtable->clone(waker->data);
}

/* Wakes, and gives the waker up. */
static inline void plug_waker_wake(plug_waker waker) {
    waker.vtable->wake(waker.data);
}

static inline void plug_waker_wake_by_ref(const plug_waker *waker) {
    waker->vtable->wake_by_ref(waker->data);
}

static inline void plug_waker_drop(plug_waker waker) {
    waker.vtable->drop(waker.data);
}

/*
 * The functions of tasks with that output: a step of a state machine, and its end.
 *
 *     struct adding { int step; uint64_t a, b; };
 *     static int32_t add_poll(void *state, const plug_waker *waker, void *output) {
 *         struct adding *adding = state;
 *         if (adding->step++ == 0) {
 *             plug_waker_wake_by_ref(waker);
 *             return PLUG_TASK_PENDING;
 *         }
 *         *(uint64_t *)output = adding->a + adding->b;
 *         return PLUG_TASK_READY;
 *     }
 *     PLUG_TASK(add_task, uint64_t, add_poll, free);
 *     PLUG_EXPORT(plug_task, add_slowly, (uint64_t a, uint64_t b)) {
 *         struct adding *adding = calloc(1, sizeof *adding);
 *         ...
 *         return plug_task_of(&add_task, adding);
 *     }
 */
#define PLUG_TASK(name, output, poll, drop)                                          \
    static const plug_task_vtable name = {(uint32_t)sizeof(plug_task_vtable),        \
                                          (uint32_t)sizeof(output), poll, drop}

static inline plug_task plug_task_of(const plug_task_vtable *vtable, void *state) {
    plug_task task;
    task.state = state;
    task.vtable = vtable;
    return task;
}

/* No task: what a function returns that raised an error. */
static inline plug_task plug_task_none(void) {
    return plug_task_of(PLUG_NULL_, PLUG_NULL_);
}

#ifdef __cplusplus
namespace plug {

/*
 * Runs `body`; an exception becomes `fallback`, and its text goes to the host. The unwinding of
 * pthread_exit and pthread_cancel is let through: swallowing it ends the process.
 */
template <class Result, class Body>
Result guard(const plug_host_context *ctx, Result fallback, Body &&body) {
#ifdef __cpp_exceptions
    try {
        return std::forward<Body>(body)();
    }
#if defined(__GLIBCXX__) || defined(__GLIBCPP__)
    catch (abi::__forced_unwind &) {
        throw;
    }
#endif
    catch (const std::exception &error) {
        plug_raise(ctx, error.what());
        return fallback;
    } catch (...) {
        plug_raise(ctx, "an exception that is not a std::exception");
        return fallback;
    }
#else
    (void)ctx;
    (void)fallback;
    return std::forward<Body>(body)();
#endif
}

/* The same for a body without a value. */
template <class Body> void guard(const plug_host_context *ctx, Body &&body) {
    guard(ctx, 0, [&] {
        std::forward<Body>(body)();
        return 0;
    });
}

/* What a function of another plugin raised, or why it was not called. */
class import_error : public std::exception {
  public:
    explicit import_error(plug_str text) noexcept {
        plug_room_ room = {text_, sizeof text_};
        plug_import_put_(&room, text);
    }
    const char *what() const noexcept override { return text_; }

  private:
    char text_[256];
};

/* A call of an imported function; leaves when it goes out of scope, also by an exception. */
class import_call {
  public:
    import_call(const plug_import_slot &slot, const char *name) {
        plug_import_enter_(&importing_, &slot, name);
    }
    import_call(const import_call &) = delete;
    import_call &operator=(const import_call &) = delete;
    ~import_call() { plug_import_abandon_(&importing_); }
    /* Null where it is refused. */
    plug_function function() const { return importing_.function; }
    /* Whether the function raised nothing. */
    bool finish() {
        bool is_fine = plug_import_finish_(&importing_) != 0;
#if defined(__cpp_exceptions) && !defined(PLUG_IMPORT_NO_THROW)
        char text[256];
        if (!is_fine && plug_import_take_(importing_.slot, text, sizeof text)) {
            throw import_error(plug_text(text));
        }
#endif
        return is_fine;
    }

  private:
    plug_importing_ importing_;
};

/*
 * Starts a thread that runs `body`, as plug_spawn; an exception ends that thread alone, and its text
 * goes to the host.
 */
template <class Body>
PLUG_HIDDEN_ int32_t spawn(const plug_host_context *ctx, const char *name, Body &&body) {
    struct Start {
        const plug_host_context *ctx;
        typename std::decay<Body>::type body;
        static void run(void *data) {
            std::unique_ptr<Start> start(static_cast<Start *>(data));
            guard(start->ctx, [&] { start->body(); });
        }
    };
    std::unique_ptr<Start> start(new Start{ctx, std::forward<Body>(body)});
    int32_t status = plug_spawn(ctx, name, Start::run, start.get());
    if (status == PLUG_OK) {
        start.release();
    }
    return status;
}

/* A waker to keep. */
class Waker {
public:
    Waker() noexcept : raw_{nullptr, nullptr} {}
    explicit Waker(const plug_waker &borrowed) : raw_(plug_waker_clone(&borrowed)) {}
    Waker(const Waker &other) : raw_(other ? plug_waker_clone(&other.raw_) : other.raw_) {}
    Waker(Waker &&other) noexcept : raw_(other.raw_) { other.raw_ = {nullptr, nullptr}; }
    Waker &operator=(Waker other) noexcept {
        std::swap(raw_, other.raw_);
        return *this;
    }
    ~Waker() {
        if (*this) {
            plug_waker_drop(raw_);
        }
    }
    explicit operator bool() const noexcept { return raw_.vtable != nullptr; }
    void wake() const {
        if (*this) {
            plug_waker_wake_by_ref(&raw_);
        }
    }

private:
    plug_waker raw_;
};

/*
 * A task of an object with `bool poll(const plug_waker &waker, Output &output)`, which is true when
 * the output is there; it may throw. The object goes with the task.
 */
template <class Output, class State>
PLUG_HIDDEN_ plug_task task(std::unique_ptr<State> state) {
    struct Functions {
        static int32_t poll(void *state, const plug_waker *waker, void *output) {
            return guard(plug_context(), int32_t(PLUG_TASK_FAILED), [&] {
                bool ready = static_cast<State *>(state)->poll(*waker, *static_cast<Output *>(output));
                return int32_t(ready ? PLUG_TASK_READY : PLUG_TASK_PENDING);
            });
        }
        static void drop(void *state) { delete static_cast<State *>(state); }
    };
    static const plug_task_vtable vtable = {sizeof(plug_task_vtable), sizeof(Output),
                                            Functions::poll, Functions::drop};
    return plug_task_of(&vtable, state.release());
}

} // namespace plug
#endif

#endif
