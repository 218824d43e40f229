//! Kernel struct fields a probe reads, declared once and seen from both sides.
//!
//! rustc emits no CO-RE relocations. So a probe lists the members it needs with [`fields!`]; the agent finds their
//! byte offsets in the running kernel's BTF and writes the struct into a read-only global of the object; the verifier
//! then sees constants.

/// The offset of a member the running kernel does not have. Programs compare with it to choose another way; the
/// verifier removes the branch that is not taken.
pub const MISSING: u32 = u32::MAX;

/// One declared field: its name in the table and the members that may hold it, best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FieldSpec {
    /// Name in the probe's table, for messages.
    pub name: &'static str,
    /// `struct.member.member` paths, newest kernel's name first.
    pub paths: &'static [&'static str],
    /// A probe can do without an optional field; a missing required one makes the probe unsupported.
    pub optional: bool,
}

/// Declares a `#[repr(C)]` table of `u32` byte offsets and the list the agent resolves it from. A name marked
/// `optional` may be missing from the kernel; its offset is then [`MISSING`].
///
/// ```
/// sidecar_common::fields! {
///     /// What the example reads.
///     pub struct Fields {
///         state: "task_struct.__state" | "task_struct.state",
///         optional drops: "sock.sk_drops",
///     }
/// }
/// assert_eq!(Fields::SPECS[0].paths.len(), 2);
/// assert!(Fields::SPECS[1].optional);
/// ```
#[macro_export]
macro_rules! fields {
    (@optional optional) => { true };
    (@optional) => { false };
    (@table [$(#[$doc:meta])* $vis:vis struct $table:ident] $( {$($optional:ident)? ; $name:ident ; $($path:literal)+} )+) => {
        $(#[$doc])*
        #[repr(C)]
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        $vis struct $table {
            $(
                #[doc = concat!("Byte offset of ", $("`", $path, "` "),+)]
                pub $name: u32,
            )+
        }
        impl $table {
            /// What the object holds until the agent has resolved the offsets.
            pub const UNRESOLVED: Self = Self { $($name: $crate::field::MISSING),+ };
            /// The declarations, in the order of the table.
            pub const SPECS: &'static [$crate::field::FieldSpec] = &[
                $($crate::field::FieldSpec {
                    name: stringify!($name),
                    paths: &[$($path),+],
                    optional: $crate::fields!(@optional $($optional)?),
                }),+
            ];
        }
    };
    (@munch [$($head:tt)*] [$($done:tt)*]) => {
        $crate::fields!(@table [$($head)*] $($done)*);
    };
    (@munch $head:tt [$($done:tt)*] optional $name:ident : $first:literal $(| $more:literal)* $(, $($rest:tt)*)?) => {
        $crate::fields!(@munch $head [$($done)* {optional ; $name ; $first $($more)*}] $($($rest)*)?);
    };
    (@munch $head:tt [$($done:tt)*] $name:ident : $first:literal $(| $more:literal)* $(, $($rest:tt)*)?) => {
        $crate::fields!(@munch $head [$($done)* {; $name ; $first $($more)*}] $($($rest)*)?);
    };
    ($(#[$doc:meta])* $vis:vis struct $table:ident { $($body:tt)+ }) => {
        $crate::fields!(@munch [$(#[$doc])* $vis struct $table] [] $($body)+);
    };
}
