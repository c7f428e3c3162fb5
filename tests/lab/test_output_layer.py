import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from recdrop.backends import native
from recdrop.lab import output_layer
from recdrop.lab.output_layer import cross_entropies, cross_entropy_sum


def layer(n: int = 23, h: int = 5, v: int = 11, dtype: torch.dtype = torch.float64):
    """Leaves hidden, weight, bias, and targets."""
    generator = torch.Generator().manual_seed(1)
    leaves = [
        torch.randn(size, generator=generator, dtype=dtype).requires_grad_()
        for size in ((n, h), (v, h), (v,))
    ]
    return leaves, torch.randint(v, (n,), generator=generator)


def plain(hidden: Tensor, weight: Tensor, bias: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(F.linear(hidden, weight, bias), targets, reduction="sum")


OWN = native.instruction_sets() if native.missing() is None else []


@pytest.fixture(autouse=True, params=[*OWN, "torch"])
def kernel(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch):
    """Each of our own kernels, and torch's operators where there is none."""
    if request.param == "torch":
        monkeypatch.setattr(native, "missing", lambda: "not here")
        yield
        return
    before = native.instruction_set()
    native.instruction_set(request.param)
    yield
    native.instruction_set(before)


@pytest.fixture(params=[1, 4, 7, 1_000], ids=lambda rows: f"{rows} rows a chunk")
def chunk(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output_layer, "_CHUNK", 11 * request.param)


@pytest.mark.usefixtures("chunk")
@pytest.mark.parametrize(("dtype", "most"), [(torch.float64, 1e-13), (torch.float32, 2e-6)])
def test_value_and_gradients_are_the_plain_ones(dtype: torch.dtype, most: float):
    leaves, targets = layer(dtype=dtype)
    value, true = cross_entropy_sum(*leaves, targets), plain(*leaves, targets)
    torch.testing.assert_close(value, true, rtol=most, atol=0)
    upstream = torch.tensor(-0.3, dtype=dtype)
    ours, theirs = (torch.autograd.grad(x, leaves, upstream) for x in (value, true))
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=most, atol=10 * most)


@pytest.mark.usefixtures("chunk")
def test_gradients_are_the_slopes():
    leaves, targets = layer(n=6, h=3, v=11)
    assert torch.autograd.gradcheck(lambda *x: cross_entropy_sum(*x, targets), leaves)


@pytest.mark.usefixtures("chunk")
@pytest.mark.parametrize("wanted", range(1, 8))
def test_only_what_is_wanted_gets_a_gradient(wanted: int):
    leaves, targets = layer()
    for place, leaf in enumerate(leaves):
        leaf.requires_grad_(bool(wanted >> place & 1))
    some = [leaf for leaf in leaves if leaf.requires_grad]
    ours = torch.autograd.grad(cross_entropy_sum(*leaves, targets), some)
    theirs = torch.autograd.grad(plain(*leaves, targets), some)
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other)


@pytest.mark.usefixtures("chunk")
@pytest.mark.parametrize("upstream", [1.0, -0.3])
def test_scale_is_of_value_and_gradients(upstream: float):
    leaves, targets = layer()
    value, true = cross_entropy_sum(*leaves, targets, 0.125), plain(*leaves, targets) / 8
    torch.testing.assert_close(value, true, rtol=1e-13, atol=0)
    ours, theirs = (torch.autograd.grad(x * upstream, leaves) for x in (value, true))
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-13, atol=1e-12)
    with torch.no_grad():
        torch.testing.assert_close(cross_entropy_sum(*leaves, targets, 0.125), true)


def test_gradients_that_are_kept_are_added_up_and_stay():
    leaves, targets = layer()
    value = cross_entropy_sum(*leaves, targets)
    true = torch.autograd.grad(plain(*leaves, targets), leaves)
    for times in (1, 2, 3):
        value.backward(retain_graph=times < 3)
        for leaf, once in zip(leaves, true, strict=True):
            torch.testing.assert_close(leaf.grad, times * once)


@pytest.mark.usefixtures("chunk")
def test_calls_between_forward_and_backward_change_nothing():
    leaves, targets = layer()
    value = cross_entropy_sum(*leaves, targets)
    cross_entropy_sum(*(2 * leaf for leaf in leaves), targets).backward(inputs=leaves)
    for leaf in leaves:
        leaf.grad = None
    value.backward()
    true = torch.autograd.grad(plain(*leaves, targets), leaves)
    for leaf, other in zip(leaves, true, strict=True):
        torch.testing.assert_close(leaf.grad, other)


def test_memory_is_used_again_for_any_size_and_type():
    for dtype in (torch.float32, torch.float64):
        for n, v in ((23, 11), (5, 7), (40, 11), (23, 11)):
            leaves, targets = layer(n=n, v=v, dtype=dtype)
            true = F.cross_entropy(F.linear(*leaves), targets, reduction="none")
            torch.testing.assert_close(cross_entropies(*leaves, targets), true.detach())


def test_it_is_differentiated_once():
    leaves, targets = layer()
    squared = cross_entropy_sum(*leaves, targets) ** 2
    (grad,) = torch.autograd.grad(squared, leaves[0], create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()


@pytest.mark.usefixtures("chunk")
def test_without_a_graph():
    leaves, targets = layer()
    each = cross_entropies(*leaves, targets)
    assert not each.requires_grad
    true = F.cross_entropy(F.linear(*leaves), targets, reduction="none")
    torch.testing.assert_close(each, true.detach())
    with torch.no_grad():
        value = cross_entropy_sum(*leaves, targets)
    assert not value.requires_grad
    torch.testing.assert_close(value, true.sum().detach())
    nothing = cross_entropies(leaves[0][:0], leaves[1], leaves[2], targets[:0])
    assert nothing.shape == (0,)


def test_huge_logits_are_exact():
    hidden = torch.tensor([[1e4], [-1e4]], requires_grad=True)
    weight, bias = torch.tensor([[1.0], [-1.0]]), torch.zeros(2)
    value = cross_entropy_sum(hidden, weight, bias, torch.tensor([1, 1]))
    assert value.item() == 2e4
    value.backward()
    assert hidden.grad is not None
    assert hidden.grad.tolist() == [[2.0], [0.0]]
