//! Plain loops compiled once for each instruction set.
//!
//! Compilers vectorize simple loops well, but only for the instructions they may use. A function
//! wrapped in `versions!` is compiled for each set, and the one in use is called. Rust never fuses a
//! multiplication with an addition by itself, so all versions give the same bits.

/// Defines a function whose body is compiled for each instruction set, for each type if it has a parameter. What the
/// body calls must be `#[inline(always)]` to be compiled along.
macro_rules! versions {
    (
        $(#[$meta:meta])*
        $vis:vis fn $name:ident $(<$t:ident: $bound:ident>)? ($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? $body:block
    ) => {
        $(#[$meta])*
        $vis fn $name $(<$t: $bound>)? ($($arg: $ty),*) $(-> $ret)? {
            #[inline(always)]
            fn plain $(<$t: $bound>)? ($($arg: $ty),*) $(-> $ret)? $body
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma,f16c")]
            fn avx2 $(<$t: $bound>)? ($($arg: $ty),*) $(-> $ret)? {
                plain($($arg),*)
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c")]
            fn avx512 $(<$t: $bound>)? ($($arg: $ty),*) $(-> $ret)? {
                plain($($arg),*)
            }
            match $crate::cpu::simd::Isa::detect().kind() {
                $crate::cpu::simd::Kind::Portable => plain($($arg),*),
                // SAFETY: an `Isa` exists only if the CPU has the set.
                #[cfg(target_arch = "x86_64")]
                $crate::cpu::simd::Kind::Avx2 => unsafe { avx2($($arg),*) },
                // SAFETY: as above.
                #[cfg(target_arch = "x86_64")]
                $crate::cpu::simd::Kind::Avx512 => unsafe { avx512($($arg),*) },
                // Plain code has all of NEON there.
                #[cfg(target_arch = "aarch64")]
                $crate::cpu::simd::Kind::Neon | $crate::cpu::simd::Kind::I8mm => plain($($arg),*),
            }
        }
    };
}
pub(crate) use versions;
