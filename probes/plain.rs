//! Bytes from the kernel to the `#[repr(C)]` types of a probe's `shared.rs` and back.

use sidecar_common::owner::Owner;

/// A type made of integers only.
///
/// # Safety
/// Every bit pattern is a value, there is no padding, and the layout is `#[repr(C)]`.
pub(crate) unsafe trait Plain: Copy + 'static {}

// SAFETY: integers.
unsafe impl Plain for u32 {}
// SAFETY: integers.
unsafe impl Plain for u64 {}
// SAFETY: integers only, `#[repr(C)]`, and a `reserved` member where there would be padding.
unsafe impl Plain for Owner {}

/// The value in `bytes` where it lies; `None` if the length is not its size or it is not aligned.
pub(crate) fn view<T: Plain>(bytes: &[u8]) -> Option<&T> {
    let fits = bytes.len() == size_of::<T>() && bytes.as_ptr().cast::<T>().is_aligned();
    // SAFETY: as many bytes as `T` has, any of which are a `T`, aligned for it.
    fits.then(|| unsafe { &*bytes.as_ptr().cast::<T>() })
}

/// The bytes of a value.
pub(crate) fn as_bytes<T: Plain>(value: &T) -> &[u8] {
    // SAFETY: a live value without padding.
    unsafe { std::slice::from_raw_parts(std::ptr::from_ref(value).cast(), size_of::<T>()) }
}

/// The bytes of a value, writable.
pub(crate) fn as_bytes_mut<T: Plain>(value: &mut T) -> &mut [u8] {
    // SAFETY: a live value without padding, any bytes of which are a `T`.
    unsafe { std::slice::from_raw_parts_mut(std::ptr::from_mut(value).cast(), size_of::<T>()) }
}
