"""Comparing an operator with PyTorch's composition in the same precision, both against float64."""

import torch

# The error's root mean square may be twice that of the composition; the worst of a few hundred elements,
# which is a matter of luck, three times. Half a unit in the last place of the largest number is always
# allowed: a composition may happen to be exact.
MEASURES = {
    "root mean square": (lambda x: x.square().mean().sqrt(), 2.0),
    "worst element": (lambda x: x.abs().max(), 3.0),
}


def run(function, inputs, settings, grads):
    """The outputs of `function` and the gradients of the inputs that need one."""
    outputs = function(*inputs, **settings)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    wanted = [x for x in inputs if x is not None and x.requires_grad]
    gradients = torch.autograd.grad(outputs, wanted, grads)
    return [x.detach() for x in (*outputs, *gradients)]


def converted(inputs, dtype):
    """The inputs in another precision, as leaves."""
    return [
        x if x is None or not x.is_floating_point() else x.detach().to(dtype).requires_grad_(x.requires_grad)
        for x in inputs
    ]


def assert_as_accurate(ours, theirs, exact):
    """None of `ours` errs much more than its counterpart of `theirs`; see `MEASURES`."""
    for index, (our, their, expected) in enumerate(zip(ours, theirs, exact, strict=True)):
        assert our.dtype == their.dtype
        assert our.shape == expected.shape
        if not our.numel():
            continue
        rounding = torch.finfo(our.dtype).eps * expected.abs().max()
        for name, (measure, factor) in MEASURES.items():
            our_error, their_error = measure(our.double() - expected), measure(their.double() - expected)
            allowed = factor * max(their_error, rounding / 2)
            assert our_error <= allowed, f"{name} of {index}: {our_error:.2e}, composed {their_error:.2e}"
