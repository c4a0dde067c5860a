/* What plugins in C do that may keep them from leaving; one number each. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "plugin_api.h"
#include <dlfcn.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <threads.h>
#include <time.h>
#include <unistd.h>

#ifndef NAME
#define NAME "matrix-c"
#endif

/* The host's words: how many destructors have run, and whether threads shall end. */
static _Atomic uint32_t *words;
static _Atomic int ending;
static int was_built;
static _Atomic int ticks;

static void tell(void) { atomic_fetch_add(&words[0], 1); }

static int32_t init(const plug_host_context *ctx) { (void)ctx; return PLUG_OK; }
static void stop_threads(void) { atomic_store(&ending, 1); }
PLUG_PLUGIN(NAME, "1.0.0", "for a test", "MIT", init, stop_threads);

PLUG_EXPORT(uint32_t, listen_at, (uint64_t at)) { words = (_Atomic uint32_t *)(uintptr_t)at; return 1; }
PLUG_EXPORT(uint32_t, stop, (uint32_t none)) { stop_threads(); return none; }

#ifdef STATICS
__attribute__((constructor)) static void build(void) { was_built = 1; }
__attribute__((destructor)) static void destroy(void) { tell(); }
#else
__attribute__((constructor)) static void build(void) { was_built = 1; }
#endif

static void destroy_value(void *value) { (void)value; tell(); }
static void *returns(void *none) { return none; }
static int returns_short(void *none) { (void)none; return 0; }
static void *leaves(void *none) { pthread_exit(none); }
static void *is_cancelled(void *none) { while (!none) pthread_testcancel(); return none; }
static void *lingers(void *none) {
    (void)none;
    while (!atomic_load(&words[1])) sched_yield();
    return 0;
}
static void *until_exit(void *none) {
    (void)none;
    while (!atomic_load(&ending)) sched_yield();
    return 0;
}

static int joined(void *(*start)(void *), int is_to_be_cancelled) {
    pthread_t thread;
    if (pthread_create(&thread, 0, start, 0)) return 0;
    if (is_to_be_cancelled && pthread_cancel(thread)) return 0;
    return pthread_join(thread, 0) == 0;
}

static int detached(void *(*start)(void *)) {
    pthread_t thread;
    if (pthread_create(&thread, 0, start, 0)) return 0;
    /* Before it is detached: it may end at any moment then. */
    pthread_setname_np(thread, "lingerer");
    return pthread_detach(thread) == 0;
}

static void handle(int signal) { (void)signal; ticks += 1; }
static void tick(union sigval value) { (void)value; ticks += 1; }
static void at_exit(int status, void *none) { (void)status; (void)none; tell(); }

/* The host has a handler for it. */
static int handler(void) {
    struct sigaction action = {.sa_handler = handle};
    return sigaction(SIGUSR2, &action, 0) == 0;
}

/* Fires every 2 ms until it is deleted. */
static int timer(struct sigevent *event) {
    struct itimerspec often = {{0, 2000000}, {0, 2000000}};
    timer_t made;
    int i;
    if (timer_create(CLOCK_MONOTONIC, event, &made) || timer_settime(made, 0, &often, 0)) return 0;
    for (i = 0; i < 5000 && ticks == 0; i++) usleep(1000);
    return ticks > 0;
}

#ifdef CORE
int core_answer(void);
#endif

PLUG_EXPORT(uint32_t, act, (uint32_t what)) {
    switch (what) {
    case 0: return 1;
    case 1: return puts("a plugin prints") >= 0 && fflush(stdout) == 0;
    case 2: return was_built;
    case 3: return atexit(tell) == 0;
    case 4: {
        pthread_key_t key;
        return !pthread_key_create(&key, destroy_value) && !pthread_setspecific(key, &words);
    }
    case 5: {
        tss_t key;
        return tss_create(&key, destroy_value) == thrd_success && tss_set(key, &words) == thrd_success;
    }
    case 6: return joined(returns, 0);
    case 7: return joined(leaves, 0);
    case 8: return joined(is_cancelled, 1);
    case 9: {
        thrd_t thread;
        return thrd_create(&thread, returns_short, 0) == thrd_success && thrd_join(thread, 0) == thrd_success;
    }
    case 10: return detached(lingers);
    case 11: return detached(until_exit);
    case 12: {
        int status;
        pid_t child = fork();
        if (child == 0) _exit(was_built ? 7 : 8);
        return child > 0 && waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 7;
    }
    case 13: return pthread_atfork(tell, tell, tell) == 0;
    case 14: return handler() && raise(SIGUSR2) == 0 && ticks == 1;
    case 15: {
        struct sigevent event = {.sigev_notify = SIGEV_THREAD, .sigev_notify_function = tick};
        return timer(&event);
    }
    case 16: {
        struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR2};
        return handler() && timer(&event);
    }
    case 17: return on_exit(at_exit, 0) == 0;
    case 18: return dlopen(getenv("PLUG_MATRIX_LIBRARY"), RTLD_NOW) != 0;
#ifdef CORE
    case 19: return core_answer() == CORE;
    case 20: return core_answer() == CORE && (CORE != 1 || detached(lingers));
#endif
    default: return 0;
    }
}
