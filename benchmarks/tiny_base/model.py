"""The tiny base as a network: a Qwen2 model that copies from the start, and how well it copies."""

from __future__ import annotations

import argparse

import torch

from .tokenizer import SPECIAL


def make_model(vocab_size: int, eos: int, pad: int, args: argparse.Namespace):
    """A Qwen2 model whose first two layers copy from the start; all other weights are random."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    heads = args.hidden // 64
    config = Qwen2Config(
        vocab_size=vocab_size,
        hidden_size=args.hidden,
        intermediate_size=args.intermediate,
        num_hidden_layers=args.layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        tie_word_embeddings=True,
        max_position_embeddings=1024,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},
        eos_token_id=eos,
        pad_token_id=pad,
        bos_token_id=None,
    )
    torch.manual_seed(args.seed)
    model = Qwen2ForCausalLM(config).float()
    build_copying(model)
    return model


@torch.no_grad()
def build_copying(model) -> None:
    """Write an induction circuit into layers 0 and 1 (ours; what training finds by itself, given time).

    Layer 0, head 0 looks at the previous position: constant query and key, in the biases, whose rotary angles differ by
    one step. It adds a projection P of the previous token to the residual, in a subspace Q beside P. Layer 1 matches
    P(this token) with Q(previous token of an earlier position), in the rotary dimensions that hardly turn, and copies
    what stands at that position.
    """
    hidden, size = model.config.hidden_size, 64
    model.model.embed_tokens.weight.normal_(0, 0.06)
    basis, _ = torch.linalg.qr(torch.randn(hidden, hidden))
    turn = 1e6 ** (-torch.arange(0, size, 2) / size)
    still = [i for i in range(size // 2) if turn[i] < 0.003]
    still += [i + size // 2 for i in still]
    here, before = basis[:, : len(still)], basis[:, len(still) : 2 * len(still)]

    first = model.model.layers[0].self_attn
    for part in (first.q_proj, first.k_proj):
        part.weight[:size] = 0
        part.bias[:size] = 0
    for i in range(9):  # the dimensions that turn quickly tell one step from two
        first.k_proj.bias[i] = 7
        first.q_proj.bias[i] = 7 * torch.cos(turn[i])
        first.q_proj.bias[i + size // 2] = -7 * torch.sin(turn[i])
    first.v_proj.weight[:size] = 0
    first.o_proj.weight[:, :size] = 0
    first.v_proj.weight[: len(still)] = 0.12 * here.T
    first.o_proj.weight[:, : len(still)] = before

    second = model.model.layers[1].self_attn
    for start in range(0, hidden, size):
        second.q_proj.weight[start : start + size] = 0
        second.k_proj.weight[start : start + size] = 0
        second.q_proj.weight[[start + i for i in still]] = 1.6 * here.T
        second.k_proj.weight[[start + i for i in still]] = 1.6 * before.T
        second.v_proj.weight[start : start + size] = 0.24 * basis[:, start : start + size].T
        second.o_proj.weight[:, start : start + size] = basis[:, start : start + size]


def copy_accuracy(model, tokenizer, *, n: int = 64, length: int = 24, seed: int = 0) -> float:
    """Share of tokens of a random sequence that are predicted right when it comes a second time."""
    generator = torch.Generator().manual_seed(seed)
    once = torch.randint(len(SPECIAL), len(tokenizer), (n, length), generator=generator)
    with torch.inference_mode():
        guess = model(input_ids=torch.cat([once, once], 1).to(model.device)).logits[:, length:-1].argmax(-1)
    return (guess.cpu() == once[:, 1:]).float().mean().item()
