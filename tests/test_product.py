"""`functional.product`: torch's product, whoever computes it."""

import pytest
import torch

from recdrop import functional
from recdrop.backends import native


def matrices(dtype, m=7, k=37, n=45):
    generator = torch.Generator().manual_seed(3)
    make = lambda *size: torch.randn(size, generator=generator, dtype=torch.float64).to(dtype)  # noqa: E731
    return make(m, k), make(k, n), make(n)


@pytest.fixture(params=["own", "torch"])
def kernel(request, monkeypatch):
    if request.param == "torch":
        monkeypatch.setattr(native, "_MISSING", "left out by the test")


@pytest.mark.usefixtures("kernel")
@pytest.mark.parametrize(
    ("dtype", "most"), [(torch.float64, 1e-13), (torch.float32, 1e-5), (torch.bfloat16, 0.1)]
)
@pytest.mark.parametrize("biased", [True, False])
def test_it_is_the_product(dtype, most, biased):
    a, b, bias = matrices(dtype)
    true = a.double() @ b.double() + (bias.double() if biased else 0)
    out = torch.full((7, 45), torch.nan, dtype=dtype)
    assert functional.product(out, a, b, bias if biased else None) is out
    torch.testing.assert_close(out.double(), true, rtol=0, atol=most * true.abs().max().item())


@pytest.mark.usefixtures("kernel")
def test_operands_may_have_any_strides_and_rows_of_a_larger_result():
    a, b, _ = matrices(torch.float64)
    whole = torch.zeros(20, 7, dtype=torch.float64)
    functional.product(whole[5:14], b.T[3:39:4], a.T)
    true = b.T[3:39:4] @ a.T
    torch.testing.assert_close(whole[5:14], true, rtol=1e-12, atol=1e-12)
    assert not whole[:5].any()
    assert not whole[14:].any()


@pytest.mark.usefixtures("kernel")
def test_it_leaves_no_graph_behind():
    a, b, bias = (x.requires_grad_() for x in matrices(torch.float32))
    assert not functional.product(torch.empty(7, 45), a, b, bias).requires_grad


@pytest.mark.usefixtures("kernel")
def test_autograd_is_told_what_is_written_over():
    def squared():
        values = torch.randn(7, 45, requires_grad=True)
        out = values.clone()
        return out, out.square().sum()

    a, b, _ = matrices(torch.float32)
    out, loss = squared()
    functional.product(out.detach(), a, b)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()
    out, loss = squared()
    functional.cross_entropies_(out.detach(), torch.arange(7))
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.usefixtures("kernel")
@pytest.mark.parametrize(
    ("out", "a", "b"), [((7, 45), (7, 36), (37, 45)), ((6, 45), (7, 37), (37, 45))]
)
def test_shapes_that_do_not_fit_are_refused(out, a, b):
    with pytest.raises((RuntimeError, UserWarning)):
        functional.product(torch.empty(out), torch.empty(a), torch.empty(b))
