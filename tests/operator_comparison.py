"""Comparing an operator with PyTorch's composition in the same precision, both against float64."""

import torch

# Each measure of the error, and how many units in the last place of the largest number are always allowed: a
# composition may happen to be exact, and the worst of few elements is a matter of luck.
MEASURES = {
    "root mean square": (lambda x: x.square().mean().sqrt(), 0.5),
    "worst element": (lambda x: x.abs().max(), 2.0),
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


def assert_as_accurate(ours, theirs, exact, *, factor=2.0):
    """Each of `ours` errs at most `factor` times as much as its counterpart of `theirs`, by each measure."""
    for index, (our, their, expected) in enumerate(zip(ours, theirs, exact, strict=True)):
        assert our.dtype == their.dtype
        assert our.shape == expected.shape
        if not our.numel():
            continue
        rounding = torch.finfo(our.dtype).eps * expected.abs().max()
        our_error, their_error = our.double() - expected, their.double() - expected
        for name, (measure, units) in MEASURES.items():
            our, their = measure(our_error), measure(their_error)
            assert our <= factor * max(their, units * rounding), (
                f"{name} of {index}: {our:.2e}, composed {their:.2e}"
            )
