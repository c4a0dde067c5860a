//! liburcu, where its headers are there: see `urcu.c`.

/// One flavour.
pub struct Flavour {
    pub name: &'static str,
    /// A section around a read of what `head` leads to, `n` times.
    pub read: unsafe extern "C" fn(head: *const *const u64, n: usize) -> u64,
    pub register: unsafe extern "C" fn(),
    pub unregister: unsafe extern "C" fn(),
    pub enter: unsafe extern "C" fn(),
    pub leave: unsafe extern "C" fn(),
    pub synchronize: unsafe extern "C" fn(),
    /// For a flavour whose threads tell when they are outside.
    pub told: Option<Told>,
}

/// How a thread tells where it is.
pub struct Told {
    pub quiescent: unsafe extern "C" fn(),
    pub online: unsafe extern "C" fn(),
    pub offline: unsafe extern "C" fn(),
}

#[cfg(has_urcu)]
mod c {
    macro_rules! flavour {
        ($($read:ident $register:ident $unregister:ident $enter:ident $leave:ident $synchronize:ident)*) => {
            unsafe extern "C" {
                $(
                    pub fn $read(head: *const *const u64, n: usize) -> u64;
                    pub fn $register();
                    pub fn $unregister();
                    pub fn $enter();
                    pub fn $leave();
                    pub fn $synchronize();
                )*
            }
        };
    }
    flavour! {
        bench_urcu_memb_read bench_urcu_memb_register bench_urcu_memb_unregister
            bench_urcu_memb_enter bench_urcu_memb_leave
            bench_urcu_memb_synchronize
        bench_urcu_bp_read bench_urcu_bp_register bench_urcu_bp_unregister
            bench_urcu_bp_enter bench_urcu_bp_leave
            bench_urcu_bp_synchronize
        bench_urcu_qsbr_read bench_urcu_qsbr_register bench_urcu_qsbr_unregister
            bench_urcu_qsbr_enter bench_urcu_qsbr_leave
            bench_urcu_qsbr_synchronize
    }
    unsafe extern "C" {
        pub fn bench_urcu_qsbr_quiescent();
        pub fn bench_urcu_qsbr_online();
        pub fn bench_urcu_qsbr_offline();
    }
}

pub const MEMB: &str = "liburcu memb";
pub const QSBR: &str = "liburcu qsbr";

/// All flavours, or why there are none.
#[cfg(has_urcu)]
pub fn flavours() -> Result<&'static [Flavour], &'static str> {
    const FLAVOURS: [Flavour; 3] = [
        Flavour {
            name: MEMB,
            read: c::bench_urcu_memb_read,
            register: c::bench_urcu_memb_register,
            unregister: c::bench_urcu_memb_unregister,
            enter: c::bench_urcu_memb_enter,
            leave: c::bench_urcu_memb_leave,
            synchronize: c::bench_urcu_memb_synchronize,
            told: None,
        },
        Flavour {
            name: "liburcu bp",
            read: c::bench_urcu_bp_read,
            register: c::bench_urcu_bp_register,
            unregister: c::bench_urcu_bp_unregister,
            enter: c::bench_urcu_bp_enter,
            leave: c::bench_urcu_bp_leave,
            synchronize: c::bench_urcu_bp_synchronize,
            told: None,
        },
        Flavour {
            name: QSBR,
            read: c::bench_urcu_qsbr_read,
            register: c::bench_urcu_qsbr_register,
            unregister: c::bench_urcu_qsbr_unregister,
            enter: c::bench_urcu_qsbr_enter,
            leave: c::bench_urcu_qsbr_leave,
            synchronize: c::bench_urcu_qsbr_synchronize,
            told: Some(Told {
                quiescent: c::bench_urcu_qsbr_quiescent,
                online: c::bench_urcu_qsbr_online,
                offline: c::bench_urcu_qsbr_offline,
            }),
        },
    ];
    Ok(&FLAVOURS)
}

/// All flavours, or why there are none.
#[cfg(not(has_urcu))]
pub fn flavours() -> Result<&'static [Flavour], &'static str> {
    Err(env!("NO_URCU"))
}
