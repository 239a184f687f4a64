"""Take Gemma's GGUF file to a machine without a network in small pieces, and make a base model's folder of it there.

    python -m benchmarks.evidence.gpu_base pack GGUF FOLDER OUT --parts 6   here: OUT/part-0 … and OUT/base, no weights
    python -m benchmarks.evidence.gpu_base unpack PARTS BASE                there: PARTS holds all pieces

FOLDER is what `assl_kit.model.gguf.convert` made of the file. Only the quantised bytes of the weights travel; what they
stand for is computed there by gguf's NumPy code, rounded to bfloat16, which is what a base loaded as bfloat16 has.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import zlib
from pathlib import Path

import numpy as np

NAMES = {
    "token_embd": "embed_tokens", "output_norm": "norm", "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj", "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm", "attn_norm": "input_layernorm", "ffn_norm": "pre_feedforward_layernorm",
    "post_attention_norm": "post_attention_layernorm", "post_ffw_norm": "post_feedforward_layernorm",
    "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
}  # fmt: skip
SETTINGS = (
    "config.json",
    "generation_config.json",
    "converted.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
)


def name_of(name: str) -> str:
    """What transformers calls a weight of Gemma 3 in a GGUF file.

    Examples
    --------
    >>> name_of("blk.3.ffn_up.weight"), name_of("token_embd.weight")
    ('model.layers.3.mlp.up_proj.weight', 'model.embed_tokens.weight')
    """
    parts = name.removesuffix(".weight").split(".")
    where = f"layers.{parts[1]}." if parts[0] == "blk" else ""
    return f"model.{where}{NAMES[parts[-1]]}.weight"


def pack(file: Path, folder: Path, out: Path, parts: int) -> None:
    """Write the pieces and the folder without weights."""
    from gguf import GGUFReader

    index, bodies, start = [], [], 0
    for tensor in GGUFReader(str(file)).tensors:
        body = np.ascontiguousarray(tensor.data).view(np.uint8).reshape(-1)
        shape = [int(n) for n in reversed(tensor.shape)]
        index.append([tensor.name, int(tensor.tensor_type), shape, start, len(body)])
        bodies.append(body)
        start += len(body)
    shutil.rmtree(out, ignore_errors=True)
    (out / "base").mkdir(parents=True)
    for name in SETTINGS:
        if (folder / name).is_file():
            shutil.copy(folder / name, out / "base")
    (out / "base" / "index.json").write_text(json.dumps(index), encoding="utf-8")
    for number, part in enumerate(np.array_split(np.concatenate(bodies), parts)):
        (out / f"part-{number}").mkdir()
        (out / f"part-{number}" / f"weights-{number:02d}.z").write_bytes(zlib.compress(part.tobytes(), 6))


def unpack(pieces: Path, base: Path) -> None:
    """Join the pieces, compute the weights in bfloat16 and write them as safetensors."""
    import torch
    from gguf.constants import GGMLQuantizationType
    from gguf.quants import dequantize
    from safetensors.torch import save_file

    index = json.loads((base / "index.json").read_text(encoding="utf-8"))
    whole = b"".join(zlib.decompress(file.read_bytes()) for file in sorted(pieces.rglob("weights-*.z")))
    if len(whole) != index[-1][3] + index[-1][4]:
        raise SystemExit(f"the pieces hold {len(whole):,} bytes, not {index[-1][3] + index[-1][4]:,}: one is missing")
    raw, tensors = np.frombuffer(whole, np.uint8), {}
    for name, kind, shape, start, size in index:
        kind = GGMLQuantizationType(kind)
        body = raw[start : start + size]
        body = body.view(np.float32) if kind == GGMLQuantizationType.F32 else body.reshape(shape[0], -1)
        values = np.asarray(dequantize(body, kind), dtype=np.float32).reshape(shape)
        if name.endswith("norm.weight"):  # Gemma's norms multiply by 1 + weight, the file holds the sum
            values = values - 1
        tensors[name_of(name)] = torch.from_numpy(np.array(values)).to(torch.bfloat16)
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})
    record = json.loads((base / "converted.json").read_text(encoding="utf-8"))
    record["files"] = {"model.safetensors": (base / "model.safetensors").stat().st_size}
    (base / "converted.json").write_text(json.dumps(record), encoding="utf-8")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    steps = parser.add_subparsers(dest="step", required=True)
    one = steps.add_parser("pack")
    for name in ("gguf", "folder", "out"):
        one.add_argument(name, type=Path)
    one.add_argument("--parts", type=int, default=6)
    two = steps.add_parser("unpack")
    for name in ("pieces", "base"):
        two.add_argument(name, type=Path)
    options = parser.parse_args(arguments)
    if options.step == "pack":
        pack(options.gguf, options.folder, options.out, options.parts)
    else:
        unpack(options.pieces, options.base)
    return 0


if __name__ == "__main__":
    sys.exit(main())
