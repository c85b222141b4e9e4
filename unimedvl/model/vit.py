"""SigLIP over packed patches: images of any size in one sequence, each attending to itself alone.

Shape letters: V patches of all images, W vision width, H heads, d head size. Module names are those of the
released checkpoint; the patch embedding is a linear layer over flattened patches.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from unimedvl.config import VitConfig
from unimedvl.model.attention import AttentionPlan
from unimedvl.model.recompute import Checkpointing, layer_runner


class VitSelfAttention(nn.Module):
    """Multi-head attention with biases."""

    def __init__(self, config: VitConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.num_heads = config.num_attention_heads
        self.k_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.q_proj = nn.Linear(width, width)
        self.out_proj = nn.Linear(width, width)

    def forward(self, x_VW: Tensor, plan: AttentionPlan) -> Tensor:
        """(V, W) to (V, W)."""
        q_VHd, k_VHd, v_VHd = (
            projection(x_VW).unflatten(-1, (self.num_heads, -1))
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        return self.out_proj(plan(q_VHd, k_VHd, v_VHd).flatten(1))


class VitMLP(nn.Module):
    """Two linear layers around a tanh-approximated GELU."""

    def __init__(self, config: VitConfig) -> None:
        super().__init__()
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, x_VW: Tensor) -> Tensor:
        """(V, W) to (V, W)."""
        return self.fc2(F.gelu(self.fc1(x_VW), approximate="tanh"))


class VitLayer(nn.Module):
    """Pre-norm encoder layer."""

    def __init__(self, config: VitConfig) -> None:
        super().__init__()
        self.layer_norm1 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.self_attn = VitSelfAttention(config)
        self.layer_norm2 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = VitMLP(config)

    def forward(self, x_VW: Tensor, plan: AttentionPlan) -> Tensor:
        """(V, W) to (V, W)."""
        x_VW = x_VW + self.self_attn(self.layer_norm1(x_VW), plan)
        return x_VW + self.mlp(self.layer_norm2(x_VW))


class VitEmbeddings(nn.Module):
    """Flattened patches plus learned positions."""

    def __init__(self, config: VitConfig) -> None:
        super().__init__()
        self.patch_embedding = nn.Linear(config.patch_dim, config.hidden_size)
        self.position_embedding = nn.Embedding(config.max_side**2, config.hidden_size)

    def forward(self, patches: Tensor, position_ids: Tensor) -> Tensor:
        """(V, p*p*3) and int64 (V,) to (V, W)."""
        return self.patch_embedding(patches) + self.position_embedding(position_ids)


class VitEncoder(nn.Module):
    """The layers, under the released checkpoint's name."""

    def __init__(self, config: VitConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(VitLayer(config) for _ in range(config.num_hidden_layers))


class VitTransformer(nn.Module):
    """Embeddings, layers, post layer norm."""

    def __init__(self, config: VitConfig) -> None:
        super().__init__()
        self.embeddings = VitEmbeddings(config)
        self.encoder = VitEncoder(config)
        self.post_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(
        self, patches: Tensor, position_ids: Tensor, plan: AttentionPlan, checkpointing: Checkpointing = "none"
    ) -> Tensor:
        """(V, p*p*3) and int64 (V,) to (V, W)."""
        x_VW = self.embeddings(patches, position_ids)
        run = layer_runner(checkpointing if x_VW.requires_grad else "none")  # frozen, it has no backward
        for layer in self.encoder.layers:
            x_VW = run(layer, x_VW, plan)
        return self.post_layernorm(x_VW)


class VisionEncoder(nn.Module):
    """SigLIP under the released checkpoint's names."""

    def __init__(self, config: VitConfig) -> None:
        super().__init__()
        self.vision_model = VitTransformer(config)

    def forward(
        self, patches: Tensor, position_ids: Tensor, plan: AttentionPlan, checkpointing: Checkpointing = "none"
    ) -> Tensor:
        """Encode packed patches.

        Args:
            patches: (V, p*p*3) in the model's dtype; ``position_ids`` int64 (V,), rows of the learned table.
            plan: attention that keeps images apart.
            checkpointing: what the backward recomputes of the layers.

        Returns:
            (V, W)
        """
        return self.vision_model(patches, position_ids, plan, checkpointing)


class Connector(nn.Module):
    """Vision width to the decoder's: linear, GELU, linear."""

    def __init__(self, vision_width: int, hidden_size: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(vision_width, hidden_size)
        self.fc2 = nn.Linear(hidden_size, hidden_size)

    def forward(self, x_VW: Tensor) -> Tensor:
        """(V, W) to (V, D)."""
        return self.fc2(F.gelu(self.fc1(x_VW), approximate="tanh"))
