"""torch.compile as this package uses it, and the cores that call what it makes."""

from concurrent.futures import ThreadPoolExecutor
from unittest import mock

import pytest
import torch

from mitune.runtime.compile import inductor as compiling
from mitune.runtime.compile import onednn as products
from mitune.runtime.cpu_workers import undisturbed


def test_threads_share_what_was_compiled_once_for_each_shape():
    """And weights that change in place are seen."""
    layer = torch.nn.Linear(6, 6).requires_grad_(False)

    def run(z, t, cond):
        return layer(z) * t[:, None] + cond["text"] * cond["scale"]

    compiled = compiling.compile_run(run, torch.device("cpu"))
    given = [
        (torch.randn(n, 6), torch.randn(n), {"text": torch.randn(n, 6), "scale": torch.randn(n, 1)})
        for n in (2, 3)
    ]
    compiler = mock.Mock(wraps=compiling.compiler())
    with mock.patch.object(compiling, "compiler", return_value=compiler):
        for factor in (1.0, -2.0):
            layer.weight.mul_(factor)
            with ThreadPoolExecutor(2) as pool:
                made = list(pool.map(lambda i: compiled(*given[i % 2]), range(200)))
            for i, prediction in enumerate(made):
                torch.testing.assert_close(prediction, run(*given[i % 2]))
    assert compiler.call_count == 2


class Counted:
    """Keeps the products of the graphs it has been through."""

    def __init__(self):
        self.left, self.taken = [], 0
        self._replace = products.replace_products

    def __call__(self, graph):
        self._replace(graph)
        for node in graph.nodes:
            if node.target is torch.ops.mitune.product.default:
                self.taken += 1
            elif node.target in (torch.ops.aten.mm.default, torch.ops.aten.addmm.default):
                self.left.append(tuple(node.meta["val"].shape))


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="torch without oneDNN")
@pytest.mark.parametrize(
    ("dtype", "taken", "left"),
    [
        (torch.float32, 4, [(6, 5), (7, 6)]),  # weight gradients are left
        (torch.bfloat16, 0, [(6, 5), (7, 6), (8, 5), (8, 6), (8, 6), (8, 7)]),
    ],
)
def test_float32_products_are_taken_by_onednn(dtype, taken, left):
    net = torch.nn.Sequential(torch.nn.Linear(5, 6), torch.nn.Tanh(), torch.nn.Linear(6, 7, False))
    net.to(dtype)
    z = torch.randn(4, 2, 5, dtype=dtype, requires_grad=True)

    def run(z, t, cond):
        return net(z)

    counted = Counted()
    fresh = torch._inductor.config.patch(force_disable_caches=True)
    with fresh, mock.patch.object(products, "replace_products", counted):
        made = compiling.compile_run(run, torch.device("cpu"))(z, z, {"text": z})
        wanted = [z, *net.parameters()]
        got = torch.autograd.grad(made.square().sum(), wanted)
    expected = run(z, z, {"text": z})
    torch.testing.assert_close(made, expected)
    torch.testing.assert_close(got, torch.autograd.grad(expected.square().sum(), wanted))
    assert (counted.taken, sorted(counted.left)) == (taken, left)


def test_a_thread_gets_its_cores_back():
    threads = torch.get_num_threads()
    try:
        with undisturbed():
            assert torch.get_num_threads() == 1
            raise KeyboardInterrupt
    except KeyboardInterrupt:
        pass
    assert torch.get_num_threads() == threads
