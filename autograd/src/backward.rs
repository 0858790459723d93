//! The backward pass.

use puyu_tensor::{DType, Error, Grad, Node, Result, SparseRows, Spec, Tensor, no_grad};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// The gradients of trainable tensors.
#[derive(Debug, Default)]
pub struct Grads {
    by_id: HashMap<u64, Tensor>,
}

impl Grads {
    /// The gradient of `x`, which has its shape; `None` if none reached it.
    pub fn get(&self, x: &Tensor) -> Option<&Tensor> {
        self.by_id.get(&x.id())
    }

    /// Takes the gradient of `x` out.
    pub fn take(&mut self, x: &Tensor) -> Option<Tensor> {
        self.by_id.remove(&x.id())
    }

    fn add(&mut self, id: u64, dy: Tensor) {
        let sum = match self.by_id.remove(&id) {
            Some(old) => &old + &dy,
            None => dy,
        };
        self.by_id.insert(id, sum);
    }
}

/// The gradients of the scalar `loss` with respect to every trainable tensor it was computed from.
/// A loss that is given away is taken apart on the way: an activation's memory is free again as soon
/// as its gradient is known. Of a borrowed one everything stays.
///
/// # Errors
/// If a trainable tensor took part but no gradient reaches it.
///
/// # Panics
/// If `loss` has more than one element.
#[track_caller]
pub fn backward(loss: impl Into<Tensor>) -> Result<Grads> {
    let mut grads = Grads::default();
    backward_into(loss, &mut |id, dx| grads.add(id, dx.whole()))?;
    Ok(grads)
}

/// The gradients of [`backward`], handed out in pieces as the walk reaches them: `sink(id, dx)` is called once or
/// more for each trainable tensor, whose gradient is the sum. Nothing is held that `sink` does not
/// keep, so a step needs the memory of its gradients once.
///
/// # Errors
/// If a trainable tensor took part but no gradient reaches it.
///
/// # Panics
/// If `loss` has more than one element.
#[track_caller]
pub fn backward_into(loss: impl Into<Tensor>, sink: &mut Sink) -> Result<()> {
    let loss = loss.into();
    assert!(loss.spec().numel() == 1, "backward: the loss has shape {:?}", loss.shape());
    let one = Tensor::full(loss.spec().shape, 1.0).to_device(&loss.device());
    walk(vec![(loss, one)], sink)
}

/// Takes a piece of the gradient of the tensor with this id.
pub type Sink<'a> = dyn FnMut(u64, Piece) + 'a;

/// A piece of a gradient.
pub enum Piece {
    /// Of the tensor's shape.
    Whole(Tensor),
    /// Zero but for these rows.
    Sparse(SparseRows),
}

impl Piece {
    /// In the tensor's shape.
    pub fn whole(self) -> Tensor {
        match self {
            Self::Whole(dx) => dx,
            Self::Sparse(rows) => no_grad(|| rows.whole()),
        }
    }
}

/// The gradients that follow from those of several outputs: pairs of output and its gradient. Outputs
/// that are given away are taken apart as by [`backward`].
///
/// # Errors
/// If a trainable tensor took part but no gradient reaches it.
///
/// # Panics
/// If a gradient does not have the shape of its output.
#[track_caller]
pub fn backward_from(outputs: impl Into<Vec<(Tensor, Tensor)>>) -> Result<Grads> {
    let mut grads = Grads::default();
    walk(outputs.into(), &mut |id, dx| grads.add(id, dx.whole()))?;
    Ok(grads)
}

#[track_caller]
fn walk(outputs: Vec<(Tensor, Tensor)>, sink: &mut Sink) -> Result<()> {
    let mut reached = HashSet::new();
    let sink: &mut Sink = &mut |id, dx| {
        reached.insert(id);
        sink(id, dx);
    };
    let mut pending = Pending::default();
    let roots: Vec<_> = outputs.iter().map(|(y, _)| y).collect();
    let mut order = topological(&roots);
    let leaves = order.iter().flat_map(|n| &n.inputs).filter(|x| x.is_trainable());
    let leaves: HashMap<u64, Spec> = leaves.map(|x| (x.id(), *x.spec())).collect();
    for (y, dy) in outputs {
        assert!(y.shape() == dy.shape(), "backward: {y:?} has a gradient {dy:?}");
        pending.add(&y, dy, sink);
    }
    // A node's users come after it in the order, so the last one holds the only way to its inputs:
    // they are freed with it.
    while let Some(node) = order.pop() {
        let Some(dy) = pending.by_node.remove(&Arc::as_ptr(&node)) else { continue };
        let inputs = node.restored();
        match no_grad(|| node.op.grad(&inputs, &node.saved, &dy)) {
            Grad::Inputs(dx) => {
                // A gradient that the node kept is now its receiver's alone.
                drop(node);
                for (x, dx) in inputs.iter().zip(dx) {
                    if let Some(dx) = dx.filter(|_| x.requires_grad()) {
                        pending.add(x, dx, sink);
                    }
                }
            }
            Grad::Sparse(rows) => match &inputs[0] {
                x if x.is_trainable() => sink(x.id(), Piece::Sparse(rows)),
                x if x.requires_grad() => pending.add(x, no_grad(|| rows.whole()), sink),
                _ => (),
            },
            Grad::Compose => through_compose(&node, &inputs, &dy, &mut pending, sink)?,
        }
    }
    if let Some((_, spec)) = leaves.iter().find(|(id, _)| !reached.contains(id)) {
        return Err(Error::invalid(format!(
            "backward: a trainable tensor {spec} took part in the loss, but no gradient reaches it"
        )));
    }
    Ok(())
}

/// Differentiates the composition of a fused op. Trainable tensors that it captures (a checkpointed
/// block's parameters) get their gradients too.
fn through_compose(
    node: &Node,
    inputs: &[Tensor],
    dy: &[Option<Tensor>],
    pending: &mut Pending,
    sink: &mut Sink,
) -> Result<()> {
    let x: Vec<_> = inputs.iter().map(leaf_of).collect();
    let name = node.op.name();
    let y = node.op.compose(&x).ok_or_else(|| {
        Error::unsupported(format!("{name} has neither a gradient nor a composition"))
    })?;
    let outputs: Vec<_> =
        y.into_iter().zip(dy).filter_map(|(y, dy)| Some((y, dy.clone()?))).collect();
    let mut inner = Grads::default();
    let own: HashSet<u64> = x.iter().filter(|x| x.requires_grad()).map(Tensor::id).collect();
    walk(outputs, &mut |id, dx| match own.contains(&id) {
        true => inner.add(id, dx.whole()),
        false => sink(id, dx),
    })?;
    for (leaf, x) in x.iter().zip(inputs).filter(|(_, x)| x.requires_grad()) {
        if let Some(dx) = inner.take(leaf) {
            pending.add(x, dx, sink);
        }
    }
    Ok(())
}

fn leaf_of(x: &Tensor) -> Tensor {
    if x.requires_grad() { x.trainable() } else { x.clone() }
}

/// Gradients of outputs of ops that were not yet visited.
#[derive(Default)]
struct Pending {
    by_node: HashMap<*const Node, Vec<Option<Tensor>>>,
}

impl Pending {
    /// Adds `dx` to the gradient of `x`, which is F32, or BF16 as it is.
    fn add(&mut self, x: &Tensor, dx: Tensor, sink: &mut Sink) {
        if x.is_trainable() {
            sink(x.id(), Piece::Whole(dx));
        } else if let Some(origin) = x.origin() {
            let slots = self
                .by_node
                .entry(Arc::as_ptr(&origin.node))
                .or_insert_with(|| vec![None; origin.node.outputs.len()]);
            let slot = &mut slots[origin.index];
            let dtype = if x.dtype() == DType::BF16 { DType::BF16 } else { DType::F32 };
            *slot = Some(no_grad(|| match slot.take() {
                Some(old) => {
                    let [old, dx] = [old, dx].map(|dx| dx.to_dtype(DType::F32));
                    (&old + &dx).to_dtype(dtype)
                }
                None => dx.to_dtype(dtype),
            }));
        }
    }
}

/// The op runs behind `roots`, inputs before their users.
fn topological(roots: &[&Tensor]) -> Vec<Arc<Node>> {
    let mut order = Vec::new();
    let mut seen = HashSet::new();
    // (node, inputs already followed): an explicit stack, since graphs are deep.
    let mut stack: Vec<(Arc<Node>, usize)> = Vec::new();
    for root in roots {
        let Some(origin) = root.origin() else { continue };
        if seen.insert(Arc::as_ptr(&origin.node)) {
            stack.push((origin.node.clone(), 0));
        }
        while let Some((node, next)) = stack.last_mut() {
            let Some(x) = node.inputs.get(*next) else {
                order.extend(stack.pop().map(|(node, _)| node));
                continue;
            };
            *next += 1;
            let fresh = x.origin().filter(|o| seen.insert(Arc::as_ptr(&o.node)));
            let fresh = fresh.map(|o| o.node.clone());
            stack.extend(fresh.map(|node| (node, 0)));
        }
    }
    order
}
