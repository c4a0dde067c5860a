/* liburcu's readers and grace periods, one flavour a compilation. Its readers are inline functions
 * (_LGPL_SOURCE), so that the loop over them is here and not a call per operation. */
#define _LGPL_SOURCE
#define URCU_INLINE_SMALL_FUNCTIONS
#ifdef FLAVOUR_MEMB
#include <urcu/urcu-memb.h>
#endif
#ifdef FLAVOUR_BP
#include <urcu/urcu-bp.h>
#endif
#ifdef FLAVOUR_QSBR
#include <urcu/urcu-qsbr.h>
#endif
#include <stddef.h>
#include <urcu/pointer.h>

#define PASTE3(a, b, c) a##b##c
#define JOIN3(a, b, c) PASTE3(a, b, c)
#define URCU(name) JOIN3(JOIN3(urcu_, FLAVOUR, _), name, )
#define BENCH(name) JOIN3(JOIN3(bench_urcu_, FLAVOUR, _), name, )

void BENCH(register)(void) { URCU(register_thread)(); }
void BENCH(unregister)(void) { URCU(unregister_thread)(); }
void BENCH(synchronize)(void) { URCU(synchronize_rcu)(); }
void BENCH(enter)(void) { URCU(read_lock)(); }
void BENCH(leave)(void) { URCU(read_unlock)(); }

/* A section around a load of the pointer and of what it points at, `n` times. */
unsigned long BENCH(read)(unsigned long **head, size_t n)
{
    unsigned long sum = 0;
    for (size_t i = 0; i < n; i++) {
        URCU(read_lock)();
        sum += *rcu_dereference(*head);
        URCU(read_unlock)();
#ifdef FLAVOUR_QSBR
        URCU(quiescent_state)();
#endif
    }
    return sum;
}

#ifdef FLAVOUR_QSBR
void BENCH(quiescent)(void) { URCU(quiescent_state)(); }
void BENCH(online)(void) { URCU(thread_online)(); }
void BENCH(offline)(void) { URCU(thread_offline)(); }
#endif
