// What plugins in C++ do that may keep them from leaving; one number each.
#include "plugin_api.h"
#include <atomic>
#include <csignal>
#include <ctime>
#include <future>
#include <iostream>
#include <map>
#include <pthread.h>
#include <stdexcept>
#include <string>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>

namespace {
// The host's words: how many destructors have run, and whether threads shall end.
std::atomic<uint32_t> *words;
std::atomic<bool> ending{false};

int32_t init(const plug_host_context *) { return PLUG_OK; }
void stop_threads() { ending = true; }
} // namespace
PLUG_PLUGIN("matrix-cpp", "1.0.0", "for a test", "MIT", init, stop_threads);

PLUG_EXPORT(uint32_t, listen_at, (uint64_t at)) { words = reinterpret_cast<std::atomic<uint32_t> *>(at); return 1; }
PLUG_EXPORT(uint32_t, stop, (uint32_t none)) { stop_threads(); return none; }

namespace {
struct Counted {
    std::string text = std::string(100, 'x');
    ~Counted() {
        if (text.size() == 100) words[0] += 1;
    }
};
bool use_local() {
    thread_local Counted local;
    return local.text.size() == 100;
}
void destroy_value(void *value) {
    delete static_cast<std::string *>(value);
    words[0] += 1;
}
void destroy_by_local(void *value) {
    delete static_cast<std::string *>(value);
    use_local();
}
bool use_key(void (*destructor)(void *)) {
    pthread_key_t key;
    return !pthread_key_create(&key, destructor) && !pthread_setspecific(key, new std::string("v"));
}
bool joined(void *(*start)(void *), bool is_to_be_cancelled) {
    pthread_t thread;
    if (pthread_create(&thread, nullptr, start, nullptr)) return false;
    if (is_to_be_cancelled && pthread_cancel(thread)) return false;
    return pthread_join(thread, nullptr) == 0;
}
void *leaves(void *) {
    use_local();
    pthread_exit(nullptr);
}
void *is_cancelled(void *) {
    use_local();
    for (;;) pthread_testcancel();
}
void linger() {
    pthread_setname_np(pthread_self(), "lingerer");
    while (!words[1]) std::this_thread::yield();
}
// Waits until it has its name.
bool lingers() {
    std::promise<void> named;
    std::future<void> is_named = named.get_future();
    std::thread([](std::promise<void> tell) {
        pthread_setname_np(pthread_self(), "lingerer");
        tell.set_value();
        linger();
    }, std::move(named)).detach();
    is_named.wait();
    return true;
}

std::atomic<int> ticks{0};
void handle(int) { ticks += 1; }
void tick(sigval) { ticks += 1; }
// The host has a handler for it.
bool use_handler() {
    struct sigaction action = {};
    action.sa_handler = handle;
    return sigaction(SIGUSR2, &action, nullptr) == 0 && raise(SIGUSR2) == 0 && ticks == 1;
}
// Fires every 2 ms until it is deleted.
bool use_timer() {
    struct sigevent event = {};
    event.sigev_notify = SIGEV_THREAD;
    event.sigev_notify_function = tick;
    itimerspec often = {{0, 2000000}, {0, 2000000}};
    timer_t made;
    if (timer_create(CLOCK_MONOTONIC, &event, &made) || timer_settime(made, 0, &often, nullptr)) return false;
    for (int i = 0; i < 5000 && ticks == 0; i++) usleep(1000);
    return ticks > 0;
}

#ifdef STATICS
Counted at_start;
#endif
#ifdef LOCAL_AT_END
struct AtEnd { ~AtEnd() { use_local(); } };
AtEnd at_end;
#endif
} // namespace

#ifdef UNIQUE
template <typename T> struct Once {
    static std::map<int, T> &get() {
        static std::map<int, T> map;
        return map;
    }
};
inline std::map<int, int> shared_inline;
#endif

PLUG_EXPORT(uint32_t, act, (uint32_t what)) {
    switch (what) {
    case 0: return 1;
    case 1: std::cout << "a plugin prints" << std::endl; return std::cout.good();
    case 2: return use_local();
    case 3: try { throw std::runtime_error("x"); } catch (const std::exception &) { return 1; }
#ifdef STATICS
    case 4: return at_start.text.size() == 100;
#endif
    case 5: return std::atexit([] { words[0] += 1; }) == 0;
    case 6: return use_key(destroy_value);
    case 7: return use_key(destroy_by_local);
    case 8: { std::thread thread([] { use_local(); }); thread.join(); return 1; }
    case 9: return std::async(std::launch::async, [] { return 1u; }).get();
    case 10: return joined([](void *none) { use_local(); return none; }, false);
    case 11: return joined(leaves, false);
    case 12: return joined(is_cancelled, true);
    case 13: return lingers();
    case 14: std::thread([] { while (!ending) std::this_thread::yield(); }).detach(); return 1;
    case 15: {
        int status = 0;
        pid_t child = fork();
        if (child == 0) {
            use_local();
            _exit(7);
        }
        return child > 0 && waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 7;
    }
#ifdef UNIQUE
    case 16: Once<int>::get()[1] = 1; shared_inline[1] = 1; return 1;
#endif
    case 17: return use_handler();
    case 18: return use_timer();
    default: return 0;
    }
}
