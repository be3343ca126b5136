"""Tiny random models of each architecture as sentence-transformers folders: the vectors mean nothing, the arithmetic is real."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

DIM = 32
VOCABULARY = 300
MAX_LENGTH = 48

CORPUS = [
    "what is the first question", "a passage about cats and dogs", "the weather in the north of norway",
    "who wrote hamlet", "numbers 1 2 3 4 5 and words", "query passage search instruct retrieve answer",
]  # fmt: skip


def tokenizer(folder: Path, *, pads_left: bool = False, ends_only: bool = False, roberta: bool = False) -> None:
    """A word-piece tokenizer: [CLS] text [SEP], or text [SEP] where `ends_only`; padding is 0, or 1 as in RoBERTa."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    core.normalizer = normalizers.BertNormalizer(lowercase=True)
    core.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[CLS]", "[PAD]", "[SEP]", "[UNK]"] if roberta else ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    core.train_from_iterator(
        CORPUS, trainers.WordPieceTrainer(vocab_size=VOCABULARY, special_tokens=special, show_progress=False)
    )
    ids = {name: core.token_to_id(name) for name in special}
    core.post_processor = processors.TemplateProcessing(
        single="$A [SEP]" if ends_only else "[CLS] $A [SEP]", special_tokens=list(ids.items())
    )
    PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        padding_side="left" if pads_left else "right",
        model_max_length=MAX_LENGTH,
        model_input_names=["input_ids", "attention_mask"]
        if roberta or ends_only
        else ["input_ids", "token_type_ids", "attention_mask"],
    ).save_pretrained(folder)


_SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": DIM,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
}


def _sentence_model(folder: Path, pooling: str, normalize: bool, prompts: dict[str, str] | None = None) -> None:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer

    modules: list[Any] = [Transformer(str(folder / "raw")), Pooling(DIM, pooling_mode=pooling)]
    if normalize:
        modules.append(Normalize())
    SentenceTransformer(modules=modules, device="cpu", prompts=prompts).save(str(folder / "model"), create_model_card=False)


def _bert(folder: Path) -> None:
    """With biases, norms and an attention that matter, which a fresh model has not."""
    from transformers import BertConfig, BertModel

    model, generator = BertModel(BertConfig(**_SIZES)), torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(1.0 if name.endswith("LayerNorm.weight") else 0.0, 0.3, generator=generator)
    model.save_pretrained(folder / "raw")


def bert(folder: Path) -> None:
    """As all-MiniLM, gte-base, e5-base: mean pooling."""
    _bert(folder)
    tokenizer(folder / "raw")
    _sentence_model(folder, "mean", normalize=True)


def bert_cls(folder: Path) -> None:
    """As bge: the first token, prompts in the configuration."""
    _bert(folder)
    tokenizer(folder / "raw")
    _sentence_model(folder, "cls", normalize=True, prompts={"query": "query: ", "document": "passage: "})


def xlm_roberta(folder: Path) -> None:
    """As multilingual-e5: positions counted from the padding id, no Normalize module."""
    from transformers import XLMRobertaConfig, XLMRobertaModel

    XLMRobertaModel(XLMRobertaConfig(**_SIZES, pad_token_id=1, type_vocab_size=1)).save_pretrained(folder / "raw")
    tokenizer(folder / "raw", roberta=True)
    _sentence_model(folder, "mean", normalize=False)


def mpnet(folder: Path) -> None:
    """As all-mpnet-base: relative positions."""
    from transformers import MPNetConfig, MPNetModel

    MPNetModel(MPNetConfig(**_SIZES, pad_token_id=1)).save_pretrained(folder / "raw")
    tokenizer(folder / "raw", roberta=True)
    _sentence_model(folder, "mean", normalize=True)


def distilbert(folder: Path) -> None:
    from transformers import DistilBertConfig, DistilBertModel

    config = DistilBertConfig(vocab_size=VOCABULARY, dim=DIM, n_layers=2, n_heads=4, hidden_dim=64, max_position_embeddings=64)
    DistilBertModel(config).save_pretrained(folder / "raw")
    tokenizer(folder / "raw", roberta=True)
    _sentence_model(folder, "max", normalize=True)


def modernbert(folder: Path) -> None:
    """As gte-modernbert: rotary positions, alternating local attention."""
    from transformers import ModernBertConfig, ModernBertModel

    config = ModernBertConfig(
        **_SIZES, pad_token_id=0, bos_token_id=2, eos_token_id=3, cls_token_id=2, sep_token_id=3,
        global_attn_every_n_layers=2, local_attention=8,
    )  # fmt: skip
    ModernBertModel(config).save_pretrained(folder / "raw")
    tokenizer(folder / "raw", ends_only=False, roberta=False)
    _sentence_model(folder, "cls", normalize=True)


def qwen3(folder: Path) -> None:
    """As Qwen3-Embedding: causal, padded on the left, the last token, an instruction before queries."""
    from transformers import Qwen3Config, Qwen3Model

    sizes = {**_SIZES, "max_position_embeddings": 128}
    config = Qwen3Config(**sizes, num_key_value_heads=2, head_dim=8, pad_token_id=0, bos_token_id=2, eos_token_id=3)
    Qwen3Model(config).save_pretrained(folder / "raw")
    tokenizer(folder / "raw", pads_left=True, ends_only=True)
    prompts = {"query": "Instruct: retrieve the passage\nQuery:", "document": ""}
    _sentence_model(folder, "lasttoken", normalize=True, prompts=prompts)


def static(folder: Path) -> None:
    """As model2vec: a table of token vectors."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding
    from tokenizers import Tokenizer

    tokenizer(folder / "raw")
    module = StaticEmbedding(Tokenizer.from_file(str(folder / "raw" / "tokenizer.json")), embedding_dim=DIM)
    SentenceTransformer(modules=[module], device="cpu").save(str(folder / "model"), create_model_card=False)


ARCHITECTURES: dict[str, Callable[[Path], None]] = {
    make.__name__: make for make in (bert, bert_cls, xlm_roberta, mpnet, distilbert, modernbert, qwen3, static)
}


def make(architecture: str, folder: Path) -> Path:
    """The model's folder, made now with fixed random weights."""
    torch.manual_seed(7)
    level = logging.getLogger("sentence_transformers").level
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ARCHITECTURES[architecture](folder)
    logging.getLogger("sentence_transformers").setLevel(level)
    return folder / "model"
