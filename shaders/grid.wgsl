// Piece: the index of a workgroup, or of an invocation that owns one output, in a grid that is folded
// to two dimensions above 65535 workgroups (fold() in kernels.rs). The last ones may lie past the end.

const WG = 256u;

struct Grid {
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
}

fn workgroup_index(at: Grid) -> u32 {
    return at.group.y * at.groups.x + at.group.x;
}

fn invocation(at: Grid) -> u32 {
    return workgroup_index(at) * WG + at.local;
}
