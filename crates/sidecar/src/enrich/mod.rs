//! Names for the numbers the kernel speaks in. Sits between collecting and storing.

mod cgroup;

pub(crate) use cgroup::CgroupNames;
