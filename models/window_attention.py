"""SwinV2's attention and LayerNorm on a GPU in training: the numbers of timm's, up to rounding, in less time.

SwinV2 compares directions: the weights are softmax(s cos(q, k) + bias), where a learnt s per head takes the place of
1 / sqrt(d) (arXiv:2111.09883, section 3.3). With normalised q and k, and s multiplied into q, this is the usual
attention, for which torch has fused kernels; bias and mask are added to its products. timm computes each step as
an operation of its own, in float32 under autocast. LayerNorm too runs in float32 under autocast, so every block
converts its maps to bfloat16 and back; here it reads and writes bfloat16, and computes in float32 inside.

In eval mode, and on CPUs, everything is computed as timm does.

This file imports timm, which takes seconds.
"""
import math
from typing import Any

import torch
from timm.models.swin_transformer_v2 import WindowAttention
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

LARGEST_SCALE = math.log(100)  # of the logarithm of s, as in timm
EPS = 1e-12  # keeps a vector of zeros from 0 / 0
FUSED = True  # set it to False to compute as timm does, and to measure what this module gains


class FusedWindowAttention(WindowAttention):
    """timm's `WindowAttention`, with the same parameters and buffers, and the same results up to rounding."""

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """x: (B W, N, C), the N places of each of the W windows of B images. mask: (W, N, N), added to the products, or
        None. Returns (B W, N, C)."""
        if FUSED and self.training and x.is_cuda and not self.qkv_bias_separate:
            return self.fused(x, mask)
        return super().forward(x, mask)

    def fused(self, x: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """`forward` by torch's fused attention."""
        count, places, channels = x.shape
        q_k_v_bias = None if self.q_bias is None else torch.cat((self.q_bias, self.k_bias, self.v_bias))
        qkv = F.linear(x, self.qkv.weight, q_k_v_bias).view(count, places, 3, self.num_heads, -1)
        with torch.autocast(x.device.type, enabled=False):
            scale = self.logit_scale.clamp(max=LARGEST_SCALE).exp()
            if torch.compiler.is_compiling():  # the compiler joins small operations itself
                q, k, v = (part.transpose(1, 2) for part in qkv.unbind(2))
                q, k = (F.normalize(q, dim=-1) * scale).to(v.dtype), F.normalize(k, dim=-1)
            else:
                q, k, v = (part.transpose(1, 2) for part in Directions.apply(qkv, scale.view(-1, 1)))
        bias = self.bias().to(v.dtype)[None]  # (1, heads, N, N)
        if mask is not None:
            bias = bias + mask[:, None].to(v.dtype)  # (W, heads, N, N)
        # A copy for every window: for an expanded bias that needs a gradient, torch does not use its fused kernels.
        bias = bias.repeat(count // len(bias), 1, 1, 1)
        dropped = self.attn_drop.p if self.training else 0.0
        x = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, dropout_p=dropped, scale=1.0)
        return self.proj_drop(self.proj(x.transpose(1, 2).reshape(count, places, channels)))

    def bias(self) -> torch.Tensor:
        """(heads, N, N): what is added for the relative position of two places in a window, in 0..16."""
        table = self.cpb_mlp(self.relative_coords_table).view(-1, self.num_heads)
        places = self.window_size[0] * self.window_size[1]
        by_pair = table[self.relative_position_index.view(-1)].view(places, places, self.num_heads)
        return 16 * by_pair.permute(2, 0, 1).sigmoid()


class Directions(torch.autograd.Function):
    """`Directions.apply(qkv, scale)`: s q / |q|, k / |k| and v, each (count, N, heads, d), of the type of qkv.

    qkv: (count, N, 3, heads, d). scale: s, (heads, 1), in float32 at least. Lengths and factors are float32; the large
    tensors are read and written in the type of qkv, which autograd alone would copy to float32 and back.
    """

    @staticmethod
    def forward(ctx: Any, qkv: torch.Tensor, scale: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        q, k, v = qkv.unbind(2)
        q_factor, k_factor = scale / length(q), 1 / length(k)
        q, k = rounded(torch.mul, q, q_factor), rounded(torch.mul, k, k_factor)
        ctx.save_for_backward(q, k, q_factor, k_factor, scale)
        return q, k, v

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, q_grad: torch.Tensor, k_grad: torch.Tensor,
                 v_grad: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """For y = s x / |x| with gradient g: that of x is s / |x| (g - y (g.y) / s^2), that of s the sum of g.y / s."""
        q, k, q_factor, k_factor, scale = ctx.saved_tensors
        grad = q.new_empty(*q.shape[:2], 3, *q.shape[2:])
        along_q, along_k = ((one * other).sum(-1, keepdim=True, dtype=scale.dtype)
                            for one, other in ((q_grad, q), (k_grad, k)))
        across = rounded(torch.addcmul, q_grad, q, -along_q / scale.square())
        torch.mul(across, q_factor, out=grad[:, :, 0])
        across = rounded(torch.addcmul, k_grad, k, -along_k)
        torch.mul(across, k_factor, out=grad[:, :, 1])
        grad[:, :, 2] = v_grad
        return grad, along_q.sum((0, 1)) / scale


def length(x: torch.Tensor) -> torch.Tensor:
    """Lengths of vectors along the last axis, (..., 1), in float32 (float64 for float64), at least EPS."""
    dtype = torch.promote_types(x.dtype, torch.float32)
    return torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=dtype).clamp_min_(EPS)


def rounded(operation: Any, x: torch.Tensor, *others: torch.Tensor) -> torch.Tensor:
    """`operation(x, *others)`, computed in the widest type of them and written in that of x."""
    return operation(x, *others, out=torch.empty_like(x, memory_format=torch.contiguous_format))


class AutocastLayerNorm(nn.LayerNorm):
    """LayerNorm that reads and writes autocast's type, on a GPU in training under autocast; else it is torch's. The
    parameters are the same."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., C) -> (..., C)."""
        kind = x.device.type
        if FUSED and self.training and x.is_cuda and torch.is_autocast_enabled(kind):
            return self.in_type(x, torch.get_autocast_dtype(kind))
        return super().forward(x)

    def in_type(self, x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """`forward` in this type."""
        with torch.autocast(x.device.type, enabled=False):
            weight, bias = self.weight.to(dtype), self.bias.to(dtype)
            return F.layer_norm(x.to(dtype), self.normalized_shape, weight, bias, self.eps)


def use_fused_attention(backbone: nn.Module) -> None:
    """Let every `WindowAttention` of a network compute as `FusedWindowAttention`, and every LayerNorm of the network as
    `AutocastLayerNorm`. Parameters stay where they are. A network without `WindowAttention` stays as it
    is."""
    modules = list(backbone.modules())
    if not any(type(module) is WindowAttention for module in modules):
        return
    for module in modules:
        if type(module) is WindowAttention:
            module.__class__ = FusedWindowAttention
        elif type(module) is nn.LayerNorm:
            module.__class__ = AutocastLayerNorm
