//! Every shader is valid WGSL that needs no extension, and takes the buffers and params that its op
//! passes; checked by naga, on machines without a GPU.

use puyu_shaders::{Shader, all};
use puyu_tensor::op::{Bind, Dispatch, Param};
use puyu_tensor::ops::CATALOG;
use puyu_tensor::{Spec, Tensor};
use puyu_tests::{Run, SIZES};
use std::collections::BTreeSet;
use wgpu::naga::valid::{Capabilities, ValidationFlags, Validator};
use wgpu::naga::{
    AddressSpace, Handle, Module, Scalar, ScalarKind, StorageAccess, Type, TypeInner, front::wgsl,
};

fn module(shader: &Shader) -> Module {
    let text = shader.parts.concat();
    let module = wgsl::parse_str(&text)
        .unwrap_or_else(|e| panic!("{}.wgsl: {}", shader.name, e.emit_to_string(&text)));
    // What plain WebGPU can do: unpack2x16float, but no f16 type, subgroups or 64-bit numbers.
    let plain = Capabilities::SHADER_FLOAT16_IN_FLOAT32;
    let checked = Validator::new(ValidationFlags::all(), plain).validate(&module);
    checked.unwrap_or_else(|e| panic!("{}.wgsl: {}", shader.name, e.emit_to_string(&text)));
    module
}

#[test]
fn every_shader_is_valid() {
    let mut names = BTreeSet::new();
    for shader in all() {
        assert!(names.insert(shader.name), "two kernels are called {}", shader.name);
        let module = module(shader);
        let [entry] = &module.entry_points[..] else { panic!("{}: one entry point", shader.name) };
        assert_eq!(entry.name, "main", "{}", shader.name);
        let size: u32 = entry.workgroup_size.iter().product();
        assert!(size <= 256, "{}: {size} invocations per workgroup", shader.name);
    }
}

#[test]
fn every_file_is_part_of_a_kernel() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../shaders");
    for file in std::fs::read_dir(folder).expect("the shaders lie beside the tests") {
        let path = file.expect("a file of the folder").path();
        if path.extension().is_some_and(|e| e == "wgsl") {
            let text = std::fs::read_to_string(&path).expect("a text file");
            let used = all().any(|s| s.parts.contains(&&*text));
            assert!(used, "{} is part of no kernel in shaders/src/lib.rs", path.display());
        }
    }
}

/// The 32-bit fields of a params struct, in order; fails if there is a gap between two.
fn fields(module: &Module, ty: Handle<Type>, at: u32, out: &mut Vec<ScalarKind>) {
    let scalar = |s: Scalar, at: u32, out: &mut Vec<ScalarKind>| {
        assert_eq!((s.width, at), (4, 4 * out.len() as u32), "a field of 4 bytes without a gap");
        out.push(s.kind);
    };
    match &module.types[ty].inner {
        TypeInner::Scalar(s) => scalar(*s, at, out),
        TypeInner::Vector { size, scalar: s } => {
            (0..*size as u32).for_each(|i| scalar(*s, at + 4 * i, out));
        }
        TypeInner::Array { base, size: wgpu::naga::ArraySize::Constant(n), stride } => {
            (0..n.get()).for_each(|i| fields(module, *base, at + stride * i, out));
        }
        TypeInner::Struct { members, .. } => {
            members.iter().for_each(|m| fields(module, m.ty, at + m.offset, out));
        }
        other => panic!("a params struct with a field of type {other:?}"),
    }
}

fn check(dispatch: &Dispatch, what: &str) {
    let module = module(dispatch.shader);
    let mut globals: Vec<_> =
        module.global_variables.iter().filter_map(|(_, v)| Some((v.binding?, v))).collect();
    globals.sort_by_key(|(binding, _)| binding.binding);
    let bindings: Vec<u32> = globals.iter().map(|(b, _)| b.binding).collect();
    assert_eq!(bindings, (0..=dispatch.bind.len() as u32).collect::<Vec<_>>(), "{what}: bindings");
    for (bind, (_, variable)) in dispatch.bind.iter().zip(&globals) {
        let AddressSpace::Storage { access } = variable.space else {
            panic!("{what}: {bind:?} is no storage buffer");
        };
        let writes = access.contains(StorageAccess::STORE);
        match bind {
            Bind::X(_) => assert!(!writes, "{what}: writes its input {bind:?}"),
            Bind::Y(_) => assert!(writes, "{what}: only reads its output {bind:?}"),
            Bind::Scratch(_) => {}
        }
        let offset = dispatch.params.contains(&Param::Offset(*bind));
        assert!(offset || !matches!(bind, Bind::X(_)), "{what}: {bind:?} may be a view");
    }
    let (_, params) = globals.last().expect("the bindings were counted");
    assert_eq!(params.space, AddressSpace::Uniform, "{what}: the last binding holds the params");
    let mut found = Vec::new();
    fields(&module, params.ty, 0, &mut found);
    let passed: Vec<ScalarKind> = dispatch
        .params
        .iter()
        .map(|p| match p {
            Param::F32(_) => ScalarKind::Float,
            Param::U32(_) | Param::Offset(_) => ScalarKind::Uint,
        })
        .collect();
    assert_eq!(passed, found, "{what}: the fields of Params");
    assert!(dispatch.groups.iter().all(|g| (1..=65_535).contains(g)), "{what}: the grid");
}

#[test]
fn every_op_passes_what_its_shader_takes() {
    let mut checked = BTreeSet::new();
    for entry in CATALOG {
        for case in (entry.cases)(SIZES[0]) {
            let run = Run::new(case, 1);
            let specs = |t: &[Tensor]| t.iter().map(|t| *t.spec()).collect::<Vec<Spec>>();
            let (x, mut y) = (specs(&run.x), specs(&run.y));
            if y.is_empty() {
                let outs = run.op.infer(&x);
                y = outs.outputs.into_iter().chain(outs.saved).collect();
            }
            for dispatch in run.op.gpu(&x, &y).iter().flat_map(|k| &k.dispatches) {
                check(dispatch, &format!("{run:?} with {}.wgsl", dispatch.shader.name));
                checked.insert(dispatch.shader.name);
            }
        }
    }
    let idle: Vec<_> = all().map(|s| s.name).filter(|n| !checked.contains(n)).collect();
    assert!(idle.is_empty(), "no case of the catalog runs {idle:?}");
}
