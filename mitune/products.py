"""Float32 products of compiled code on a CPU by oneDNN.

torch gives a float32 product to MKL where it is built with it. On an AMD Zen 5 MKL multiplies at
half the rate of oneDNN (``docs/measured.md``), which torch has for convolutions anyway.
"""

from typing import Any

import torch
from torch import Tensor, fx
from torch._inductor.custom_graph_pass import CustomGraphPass, get_hash_for_files
from torch._inductor.ir import TensorBox
from torch._inductor.lowering import register_lowering
from torch._inductor.mkldnn_ir import LinearUnary

_aten = torch.ops.aten


@torch.library.custom_op("mitune::product", mutates_args=())
def product(x: Tensor, weight: Tensor) -> Tensor:
    """x ``[n, in]`` by weight ``[out, in]`` to ``[n, out]``, float32 on a CPU."""
    made: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, None, "none", [], "")
    return made


@product.register_fake
def _(x: Tensor, weight: Tensor) -> Tensor:
    return x.new_empty(len(x), len(weight))


# inductor's own lowering of _linear_pointwise takes nothing but constants for a weight.
@register_lowering(torch.ops.mitune.product, type_promotion_kind=None)
def _(x: Any, weight: Any) -> Any:
    return TensorBox.create(LinearUnary.create(x, weight, None, "none", [], ""))


class ProductsByOneDNN(CustomGraphPass):
    """Of a graph's float32 products on a CPU, all whose first operand is contiguous: a layer's
    output, and the gradient of its input. For
    its weight's the first operand would be copied first."""

    def __call__(self, graph: fx.Graph) -> None:
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

    def uuid(self) -> Any:
        """For the cache of what was compiled."""
        return get_hash_for_files((__file__,))


def _apt(x: Tensor) -> bool:
    return x.dtype == torch.float32 and x.device.type == "cpu" and x.is_contiguous()


def _call(graph: fx.Graph, target: Any, *args: Any) -> fx.Node:
    """A new node, with what the passes behind it read of its value."""
    node = graph.call_function(target, args)
    values = fx.map_arg(args, lambda given: given.meta["val"])
    node.meta["val"] = target(*values)
    return node
