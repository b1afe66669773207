"""torch.compile as this package uses it, and the cores that call what it makes."""

from concurrent.futures import ThreadPoolExecutor
from unittest import mock

import torch

from mitune import compiling
from mitune.cores import undisturbed


def test_threads_share_what_was_compiled_once_for_each_shape():
    """And weights that change in place are seen."""
    layer = torch.nn.Linear(6, 6).requires_grad_(False)

    def run(z, t, text):
        return layer(z) * t[:, None] + text

    compiled = compiling.compile_unet(run, torch.device("cpu"))
    given = [tuple(torch.randn(n, *rest) for rest in ((6,), (), (6,))) for n in (2, 3)]
    with mock.patch.object(compiling, "compile_fx", wraps=compiling.compile_fx) as compiler:
        for factor in (1.0, -2.0):
            layer.weight.mul_(factor)
            with ThreadPoolExecutor(2) as pool:
                made = list(pool.map(lambda i: compiled(*given[i % 2]), range(200)))
            for i, prediction in enumerate(made):
                torch.testing.assert_close(prediction, run(*given[i % 2]))
    assert compiler.call_count == 2


def test_a_thread_gets_its_cores_back():
    threads = torch.get_num_threads()
    try:
        with undisturbed():
            assert torch.get_num_threads() == 1
            raise KeyboardInterrupt
    except KeyboardInterrupt:
        pass
    assert torch.get_num_threads() == threads
