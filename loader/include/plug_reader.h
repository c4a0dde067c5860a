/* plug_reader.h: what is loaded at an address, asked from C or C++.
 *
 * plug_resolve() is async-signal-safe: no lock, no allocation, no system call, no thread-local
 * storage, errno untouched. It may be called from any thread at any moment, from a handler on an
 * alternate stack included. Compiles as C11 and as C++17. SPDX-License-Identifier: MIT OR Apache-2.0
 */
#ifndef PLUG_READER_H
#define PLUG_READER_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
#define PLUG_READER_ASSERT static_assert
extern "C" {
#else
#define PLUG_READER_ASSERT _Static_assert
#endif

/* Values of plug_resolved.state. */
#define PLUG_STATE_EMPTY 0
#define PLUG_STATE_UNFORMED 1
#define PLUG_STATE_COMING 2
#define PLUG_STATE_LIVE 3
#define PLUG_STATE_GOING 4
#define PLUG_STATE_ZOMBIE 5

/* Text of `len` bytes, terminated by a zero byte; `truncated` is 1 where the original is longer. */
typedef struct plug_text_68 {
    uint16_t len;
    uint16_t truncated;
    char bytes[68];
} plug_text_68;

typedef struct plug_text_36 {
    uint16_t len;
    uint16_t truncated;
    char bytes[36];
} plug_text_36;

typedef struct plug_text_252 {
    uint16_t len;
    uint16_t truncated;
    char bytes[252];
} plug_text_252;

/* What is known about one address: a copy, which stays valid whatever happens to the plugin. */
typedef struct plug_resolved {
    uintptr_t address;      /* the address that was asked for */
    uintptr_t plugin_start; /* first address of the plugin's mapping */
    uintptr_t plugin_end;   /* one past its last address */
    uintptr_t bias;         /* run-time address minus link-time address */
    uint64_t generation;    /* process-wide number of the load, never reused */
    uintptr_t symbol_start; /* first address of the symbol, of the plugin where there is none */
    uint64_t symbol_size;   /* 0 where there is none */
    uint64_t offset;        /* address - symbol_start */
    uint8_t state;          /* PLUG_STATE_... at the moment of the call */
    uint8_t build_id_len;   /* 0 where the file has none */
    uint8_t build_id[32];
    plug_text_68 plugin;    /* name of the plugin */
    plug_text_36 version;   /* its version, empty for a foreign library */
    plug_text_252 symbol;   /* name of the symbol, empty where no exported one covers the address */
} plug_resolved;

PLUG_READER_ASSERT(sizeof(uintptr_t) == 8, "64-bit only");
PLUG_READER_ASSERT(sizeof(plug_text_68) == 72, "plug_text_68");
PLUG_READER_ASSERT(sizeof(plug_text_36) == 40, "plug_text_36");
PLUG_READER_ASSERT(sizeof(plug_text_252) == 256, "plug_text_252");
PLUG_READER_ASSERT(offsetof(plug_text_252, bytes) == 4, "plug_text_252.bytes");
PLUG_READER_ASSERT(sizeof(plug_resolved) == 472, "plug_resolved");
PLUG_READER_ASSERT(offsetof(plug_resolved, address) == 0, "address");
PLUG_READER_ASSERT(offsetof(plug_resolved, plugin_start) == 8, "plugin_start");
PLUG_READER_ASSERT(offsetof(plug_resolved, plugin_end) == 16, "plugin_end");
PLUG_READER_ASSERT(offsetof(plug_resolved, bias) == 24, "bias");
PLUG_READER_ASSERT(offsetof(plug_resolved, generation) == 32, "generation");
PLUG_READER_ASSERT(offsetof(plug_resolved, symbol_start) == 40, "symbol_start");
PLUG_READER_ASSERT(offsetof(plug_resolved, symbol_size) == 48, "symbol_size");
PLUG_READER_ASSERT(offsetof(plug_resolved, offset) == 56, "offset");
PLUG_READER_ASSERT(offsetof(plug_resolved, state) == 64, "state");
PLUG_READER_ASSERT(offsetof(plug_resolved, build_id_len) == 65, "build_id_len");
PLUG_READER_ASSERT(offsetof(plug_resolved, build_id) == 66, "build_id");
PLUG_READER_ASSERT(offsetof(plug_resolved, plugin) == 98, "plugin");
PLUG_READER_ASSERT(offsetof(plug_resolved, version) == 170, "version");
PLUG_READER_ASSERT(offsetof(plug_resolved, symbol) == 210, "symbol");

/* 1, and *out filled unless out is null, when a plugin covers `address`; otherwise 0. */
int32_t plug_resolve(uintptr_t address, plug_resolved *out);

#undef PLUG_READER_ASSERT

#ifdef __cplusplus
}
#endif

#endif /* PLUG_READER_H */
