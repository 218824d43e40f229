//! Words both sides speak. Everything here is compiled twice: into the BPF objects (`no_std`, no panics, no floats)
//! and into the agent, so a layout can never differ between them.
#![cfg_attr(not(test), no_std)]

pub mod event;
pub mod field;
pub mod histogram;
pub mod loss;
pub mod owner;
pub mod scope;
pub mod task;
