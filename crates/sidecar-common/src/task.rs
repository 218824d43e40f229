//! Members of `struct task_struct` and its relatives that tell who a process is. Resolved for every object that uses
//! them, into its `TASK_FIELDS` global.

crate::fields! {
    /// Offsets for finding a task's process, name, parent and cgroup.
    pub struct TaskFields {
        tgid: "task_struct.tgid",
        group_leader: "task_struct.group_leader",
        real_parent: "task_struct.real_parent",
        comm: "task_struct.comm",
        start_boottime: "task_struct.start_boottime" | "task_struct.real_start_time",
        cgroups: "task_struct.cgroups",
        css_set_dfl_cgrp: "css_set.dfl_cgrp",
        cgroup_kn: "cgroup.kn",
        cgroup_level: "cgroup.level",
        optional cgroup_ancestors: "cgroup.ancestors",
        optional cgroup_ancestor_ids: "cgroup.ancestor_ids",
        kernfs_node_id: "kernfs_node.id",
    }
}
