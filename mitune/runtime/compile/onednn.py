"""oneDNN for the float32 products of compiled code on a CPU.

torch computes float32 products with MKL if it is built with MKL. On an AMD Zen 5, MKL multiplies at
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
    """Replace the float32 products of a graph on a CPU whose first operand is contiguous: those of
    a layer's output and of the gradient of its input. For the gradient of its weight, the first
    operand would have to be copied first."""
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
    """Why compiled products stay torch's own on this machine; None if oneDNN computes them.

    inductor's lowerings and passes are private to torch and move between its versions. They are
    imported here, when something is compiled; if one is missing, only speed is lost.
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

    create: Any = LinearUnary.create  # fail now if there is none

    # inductor's own lowering of _linear_pointwise accepts only constants as weights.
    @register_lowering(torch.ops.mitune.product, type_promotion_kind=None)
    def _(x: Any, weight: Any) -> Any:
        return TensorBox.create(create(x, weight, None, "none", [], ""))


def by_onednn() -> Any:
    """A pass for inductor's ``post_grad_custom_post_pass``; only use it if ``why_not`` is None."""
    from torch._inductor.custom_graph_pass import CustomGraphPass, get_hash_for_files

    class ProductsByOneDNN(CustomGraphPass):
        def __call__(self, graph: fx.Graph) -> None:
            replace_products(graph)

        def uuid(self) -> Any:
            """Identifies this pass in inductor's code cache."""
            return get_hash_for_files((__file__,))

    return ProductsByOneDNN()


def _apt(x: Tensor) -> bool:
    return x.dtype == torch.float32 and x.device.type == "cpu" and x.is_contiguous()


def _call(graph: fx.Graph, target: Any, *args: Any) -> fx.Node:
    """Create a node, with the metadata of its value that later passes read."""
    node = graph.call_function(target, args)
    values = fx.map_arg(args, lambda given: given.meta["val"])
    node.meta["val"] = target(*values)
    return node
