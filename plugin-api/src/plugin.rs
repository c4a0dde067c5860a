//! The macro that makes a library a plugin.

/// Declares the plugin: its metadata, and the descriptor through which the host enters it.
///
/// Once per plugin, at the root of its crate. `init` is a `fn(&Context) -> plug_api::Result`,
/// `exit` a `fn()`; both may panic, which the host sees as an error with the panic's text.
/// `version` takes any constant, so `env!("CARGO_PKG_VERSION")` as well. `author`, `permanent`,
/// `interfaces` and `services` may be left out, the order is fixed.
///
/// `permanent` is the reason why the plugin can never be unloaded, as a text that whoever tries is
/// shown; without it, it can.
///
/// ```standalone_crate
/// use plug_api::Context;
///
/// plug_api::plugin! {
///     name: "hello",
///     version: "1.0.0",
///     description: "greets",
///     license: "MIT",
///     init: init,
///     exit: exit,
/// }
///
/// fn init(ctx: &Context) -> plug_api::Result {
///     ctx.info(ctx.param("greeting").unwrap_or("hello"));
///     Ok(())
/// }
///
/// fn exit() {}
/// # fn main() { assert_eq!(descriptor().abi_version, 1); }
/// ```
///
/// With an interface, whose table is a constant or a static:
///
/// ```standalone_crate
/// # use plug_api::Context;
/// plug_api::interface! {
///     /// Adds.
///     pub struct AdderV1("example.adder", 1, 0) {
///         /// Adds two numbers.
///         pub add: unsafe extern "C-unwind" fn(u64, u64) -> u64,
///     }
/// }
///
/// unsafe extern "C-unwind" fn add(a: u64, b: u64) -> u64 {
///     a.wrapping_add(b)
/// }
///
/// static ADDER: AdderV1 = AdderV1 { add };
///
/// plug_api::plugin! {
///     name: "adder",
///     version: env!("CARGO_PKG_VERSION"),
///     description: "adds",
///     license: "MIT",
///     author: "A. N. Other",
///     init: |_ctx: &Context| Ok(()),
///     exit: || (),
///     interfaces: [AdderV1 => ADDER],
/// }
/// # fn main() { assert_eq!(descriptor().n_interfaces, 1); }
/// ```
///
/// # What it emits
/// The exported statics `plug_descriptor_v1` and `plug_meta_v1`, the latter in the section
/// `.plug.meta` (`readelf -p .plug.meta` prints it), and `pub fn descriptor()`, through which a
/// host that links the crate statically reaches the same descriptor. The statics have their
/// plain names there too, so no more than one such crate can be linked into one binary.
#[macro_export]
macro_rules! plugin {
    (
        name: $name:expr,
        version: $version:expr,
        description: $description:expr,
        license: $license:expr,
        $(author: $author:expr,)?
        $(permanent: $permanent:expr,)?
        init: $init:expr,
        exit: $exit:expr
        $(, interfaces: [$($interface:ty => $interface_table:expr),* $(,)?])?
        $(, services: [$($service:ty => $service_table:expr),* $(,)?])?
        $(,)?
    ) => {
        /// The plugin's descriptor, for hosts that link it statically.
        #[allow(unreachable_pub, dead_code, reason = "only hosts that link statically need it")]
        pub fn descriptor() -> &'static $crate::abi::Descriptor {
            // A copy of the exported one: going by the symbol could find another plugin's.
            static __PLUG_LOCAL: $crate::abi::Descriptor = __PLUG_DESCRIPTOR;
            &__PLUG_LOCAL
        }

        #[doc(hidden)]
        const __PLUG_DESCRIPTOR: $crate::abi::Descriptor = {
            static __PLUG_ENTRIES: &[$crate::abi::InterfaceEntry] = &[
                $($($crate::__entry!($interface, $interface_table, KIND_INTERFACE),)*)?
                $($($crate::__entry!($service, $service_table, KIND_SERVICE),)*)?
            ];

            unsafe extern "C-unwind" fn __plug_init(context: *const $crate::abi::HostContext) -> i32 {
                const __PLUG_INIT: fn(&$crate::Context) -> $crate::Result = $init;
                // SAFETY: `context` is what the host passed to this function.
                unsafe { $crate::__private::init(context, __PLUG_INIT) }
            }

            unsafe extern "C-unwind" fn __plug_exit() {
                const __PLUG_EXIT: fn() = $exit;
                $crate::__private::exit(__PLUG_EXIT);
            }

            $crate::abi::Descriptor {
                abi_version: $crate::abi::ABI_VERSION,
                size: ::core::mem::size_of::<$crate::abi::Descriptor>() as u32,
                init: ::core::option::Option::Some(__plug_init),
                exit: ::core::option::Option::Some(__plug_exit),
                interfaces: __PLUG_ENTRIES.as_ptr(),
                n_interfaces: __PLUG_ENTRIES.len(),
            }
        };

        const _: () = {
            use $crate::__private::Part as __PlugPart;

            const __PLUG_PARTS: &[__PlugPart<'_>] = &[
                __PlugPart::Text("name="), __PlugPart::Text($crate::__private::name($name)), __PlugPart::End,
                __PlugPart::Text("version="), __PlugPart::Text($version), __PlugPart::End,
                __PlugPart::Text("description="), __PlugPart::Text($description), __PlugPart::End,
                __PlugPart::Text("license="), __PlugPart::Text($license), __PlugPart::End,
                $(__PlugPart::Text("author="), __PlugPart::Text($author), __PlugPart::End,)?
                $(__PlugPart::Text("permanent="), __PlugPart::Text($permanent), __PlugPart::End,)?
                __PlugPart::Text("api="), $crate::__private::API, __PlugPart::End,
                __PlugPart::Text("toolchain="), __PlugPart::Text($crate::__private::TOOLCHAIN), __PlugPart::End,
                __PlugPart::Text("target="), __PlugPart::Text($crate::__private::TARGET), __PlugPart::End,
                __PlugPart::Text("panic="),
                __PlugPart::Text(if cfg!(panic = "unwind") { "unwind" } else { "abort" }),
                __PlugPart::End,
                __PlugPart::Text("lang=rust"), __PlugPart::End,
                $($(
                    __PlugPart::Text("interface="),
                    __PlugPart::Text(<$interface as $crate::abi::Interface>::NAME),
                    __PlugPart::Text("/"),
                    __PlugPart::Number(<$interface as $crate::abi::Interface>::MAJOR),
                    __PlugPart::Text("."),
                    __PlugPart::Number(<$interface as $crate::abi::Interface>::MINOR),
                    __PlugPart::End,
                    __PlugPart::Text("table="),
                    __PlugPart::Text(<$interface as $crate::abi::Interface>::NAME),
                    __PlugPart::Text("/"),
                    __PlugPart::Number(<$interface as $crate::abi::Interface>::MAJOR),
                    __PlugPart::Text("."),
                    __PlugPart::Number(<$interface as $crate::abi::Interface>::MINOR),
                    __PlugPart::Text(":"),
                    __PlugPart::Layout(<$interface as $crate::abi::Interface>::LAYOUT),
                    __PlugPart::End,
                )*)?
                $($(
                    __PlugPart::Text("service="),
                    __PlugPart::Text(<$service as $crate::abi::Interface>::NAME),
                    __PlugPart::Text("/"),
                    __PlugPart::Number(<$service as $crate::abi::Interface>::MAJOR),
                    __PlugPart::Text("."),
                    __PlugPart::Number(<$service as $crate::abi::Interface>::MINOR),
                    __PlugPart::End,
                    __PlugPart::Text("table="),
                    __PlugPart::Text(<$service as $crate::abi::Interface>::NAME),
                    __PlugPart::Text("/"),
                    __PlugPart::Number(<$service as $crate::abi::Interface>::MAJOR),
                    __PlugPart::Text("."),
                    __PlugPart::Number(<$service as $crate::abi::Interface>::MINOR),
                    __PlugPart::Text(":"),
                    __PlugPart::Layout(<$service as $crate::abi::Interface>::LAYOUT),
                    __PlugPart::End,
                )*)?
            ];

            #[unsafe(export_name = "plug_descriptor_v1")]
            pub static DESCRIPTOR: $crate::abi::Descriptor = __PLUG_DESCRIPTOR;

            #[unsafe(export_name = "plug_meta_v1")]
            #[unsafe(link_section = ".plug.meta")]
            pub static METADATA: [u8; $crate::__private::len(__PLUG_PARTS)] =
                $crate::__private::join(__PLUG_PARTS);
        };
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __entry {
    ($interface:ty, $table:expr, $kind:ident) => {{
        const __PLUG_TABLE: &$interface = &$table;
        $crate::abi::InterfaceEntry {
            name: $crate::abi::Str::new(<$interface as $crate::abi::Interface>::NAME),
            major: <$interface as $crate::abi::Interface>::MAJOR,
            minor: <$interface as $crate::abi::Interface>::MINOR,
            table: ::core::ptr::from_ref(__PLUG_TABLE).cast(),
            table_size: ::core::mem::size_of::<$interface>() as u32,
            kind: $crate::abi::$kind,
        }
    }};
}
