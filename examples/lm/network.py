"""A language model over tokens: the codes of a step are embedded and summed, a Llama reads the steps, and a linear layer for
each codebook tells what comes next. In the delay pattern, codebook k of a frame is read k steps after the first, so each code
is told by all of its frame before it, and by all frames before."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import DynamicCache, LlamaConfig, LlamaModel

from codec.lm.patterns import Pattern


class TokenLM(nn.Module):
    """Steps (B, K, S), ids 0 to size - 1 or `size` for no code, to logits (B, K, S, size) of the step after each."""

    def __init__(self, codebooks: int, size: int, layers: int = 4, width: int = 128):
        super().__init__()
        self.size = size
        self.register_buffer("first", torch.arange(codebooks)[:, None] * (size + 1), persistent=False)
        self.embed = nn.Embedding(codebooks * (size + 1), width)
        self.trunk = LlamaModel(LlamaConfig(
            vocab_size=1, hidden_size=width, intermediate_size=3 * width, num_hidden_layers=layers,
            num_attention_heads=max(1, width // 64), bos_token_id=None, eos_token_id=None,
        ))
        self.head = nn.Linear(width, codebooks * size, bias=False)
        nn.init.normal_(self.embed.weight, std=codebooks**-0.5)  # a step's sum has variance 1
        nn.init.normal_(self.head.weight, std=0.02)

    def groups(self, rate: float) -> list[dict]:
        """Parameters for an optimizer: tables of codes learn four times as fast as the trunk, for they see each code rarely."""
        tables = [self.embed.weight, self.head.weight]
        return [{"params": list(self.trunk.parameters()), "top": rate}, {"params": tables, "top": 4 * rate}]

    def forward(self, steps: Tensor, past: DynamicCache | None = None) -> Tensor:
        read = self.embed(steps + self.first).sum(1)  # (B, S, width)
        read = self.trunk(inputs_embeds=read, past_key_values=past, use_cache=past is not None).last_hidden_state
        return self.head(read).unflatten(-1, (-1, self.size)).transpose(1, 2)

    def losses(self, steps: Tensor) -> Tensor:
        """Nats of every code after the first step, (B, K, S - 1); 0 where there is none."""
        logits, target = self(steps[..., :-1]), steps[..., 1:]
        losses = F.cross_entropy(
            logits.flatten(0, 2).float(), target.flatten(), ignore_index=self.size, reduction="none",
        )
        return losses.view_as(target)

    @torch.no_grad()
    def continued(self, prompt: Tensor, frames: int, pattern: Pattern, temperature: float, top: int) -> Tensor:
        """Codes (K, P) of a prompt and `frames` more that are drawn from the `top` likeliest, (K, P + frames)."""
        codes = F.pad(prompt, (0, frames), value=pattern.special + 1)  # to be written
        steps = torch.full((1, len(prompt), 1 + pattern.steps(codes.shape[1])), pattern.special)
        for row, places, values in zip(steps[0], pattern.places(codes.shape[1]), codes):
            row[1 + places] = values
        past, read = DynamicCache(config=self.trunk.config), 0
        while (steps > pattern.special).any():
            now = int((steps > pattern.special).any(1)[0].nonzero()[0])  # the first step that lacks codes
            logits = self(steps[..., read:now], past)[0, :, -1].float() / temperature  # (K, size)
            best, ids = logits.topk(min(top, self.size))
            drawn = ids.gather(1, best.softmax(1).multinomial(1))[:, 0]
            steps[0, :, now] = torch.where(steps[0, :, now] > pattern.special, drawn, steps[0, :, now])
            read = now
        return pattern.revert(steps[..., 1:])[0]
