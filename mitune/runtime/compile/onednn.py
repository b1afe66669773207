"""Float32 products of compiled code on a CPU by oneDNN.

torch gives a float32 product to MKL where it is built with it. On an AMD Zen 5 MKL multiplies at
half the rate of oneDNN (``docs/log.md``), which torch has for convolutions anyway.
"""

import functools
from typing import Any

import torch
from torch import Tensor, fx

_aten = torch.ops.aten


@torch.library.custom_op("mitune::product", mutates_args=())
def product(x: Tensor, weight: Tensor) -> Tensor:
    """x ``[n, in]`` by weight ``[out, in]`` to ``[n, out]``, float32 on a CPU."""
    made: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, None, "none", [], "")
    return made


@product.register_fake
def _(x: Tensor, weight: Tensor) -> Tensor:
    return x.new_empty(len(x), len(weight))


def replace_products(graph: fx.Graph) -> None:
    """Of a graph's float32 products on a CPU, all whose first operand is contiguous: a layer's
    output, and the gradient of its input. For its weight's the first operand would be copied
    first."""
    for target in (_aten.mm.default, _aten.addmm.default):
        for node in graph.find_nodes(op="call_function", target=target):
            *added, x, right = node.args
            if node.kwargs or not _apt(x.meta["val"]):  # alpha, beta or a dtype
                continue
            with graph.inserting_before(node):
                made = _call(graph, _aten.permute.default, right, [1, 0])
                made = _call(graph, torch.ops.mitune.product.default, x, made)
                for each in added:
                    made = _call(graph, _aten.add.Tensor, made, each)
            node.replace_all_uses_with(made)
            graph.erase_node(node)


@functools.cache
def why_not() -> str | None:
    """Why compiled products stay torch's own on this machine; None where oneDNN takes them.

    inductor's lowerings and passes are private to torch and move between its versions: they are
    imported here, when something is compiled, and what is missing costs speed alone.
    """
    if not torch.backends.mkldnn.is_available():  # oneDNN, by its former name
        return "this torch is built without oneDNN"
    try:
        _register()
    except (ImportError, AttributeError, TypeError) as error:
        return f"torch {torch.__version__} has another inductor than expected: {error}"
    return None


def _register() -> None:
    from torch._inductor.custom_graph_pass import CustomGraphPass, get_hash_for_files  # noqa: F401
    from torch._inductor.ir import TensorBox
    from torch._inductor.lowering import register_lowering
    from torch._inductor.mkldnn_ir import LinearUnary

    create: Any = LinearUnary.create  # where there is none: fail now

    # inductor's own lowering of _linear_pointwise takes nothing but constants for a weight.
    @register_lowering(torch.ops.mitune.product, type_promotion_kind=None)
    def _(x: Any, weight: Any) -> Any:
        return TensorBox.create(create(x, weight, None, "none", [], ""))


def by_onednn() -> Any:
    """A pass for inductor's ``post_grad_custom_post_pass``; only where ``why_not`` is None."""
    from torch._inductor.custom_graph_pass import CustomGraphPass, get_hash_for_files

    class ProductsByOneDNN(CustomGraphPass):
        def __call__(self, graph: fx.Graph) -> None:
            replace_products(graph)

        def uuid(self) -> Any:
            """For the cache of what was compiled."""
            return get_hash_for_files((__file__,))

    return ProductsByOneDNN()


def _apt(x: Tensor) -> bool:
    return x.dtype == torch.float32 and x.device.type == "cpu" and x.is_contiguous()


def _call(graph: fx.Graph, target: Any, *args: Any) -> fx.Node:
    """A new node, with what the passes behind it read of its value."""
    node = graph.call_function(target, args)
    values = fx.map_arg(args, lambda given: given.meta["val"])
    node.meta["val"] = target(*values)
    return node
