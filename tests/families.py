"""Every family of text models, small and with random weights, and the way of any network to an int8 graph."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from tlcompile import optimize, registry
from tlcompile.artifacts import Feed, Graph, ImageSpec, read_json, write_json
from tlcompile.export.golden import against_torch
from tlcompile.export.graph import assemble, save, signature_of, torch_outputs
from tlcompile.export.network import to_onnx
from tlcompile.models._network import Network
from tlcompile.optimize import Context
from tlcompile.recipe.tables import Plugin
from tlcompile.runtime import golden

WORDS = ("good", "bad", "a", "film", "very", "not", "the", "plot", "was", "dull", "bright", "slow", "but", "moving")
SPECIAL = ("[BOS]", "[PAD]", "[EOS]", "[UNK]")
LIMIT = 64
"""Tokens that the models take. Those of RoBERTa's kind have two more position embeddings."""

_PLAIN = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
_TWO_MORE = {**_PLAIN, "max_position_embeddings": LIMIT + 2}
_NARROW = {**_PLAIN, "embedding_size": 16}
_RELATIVE = {**_PLAIN, "relative_attention": True, "pos_att_type": ["c2p", "p2c"], "type_vocab_size": 0}
TEXT: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("BertConfig", _PLAIN),
    "roberta": ("RobertaConfig", _TWO_MORE),
    "xlm-roberta": ("XLMRobertaConfig", _TWO_MORE),
    "distilbert": ("DistilBertConfig", {"dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 64}),
    "deberta": ("DebertaConfig", _RELATIVE),
    "deberta-v2": (
        "DebertaV2Config",
        {
            **_RELATIVE,
            "position_buckets": 16,
            "norm_rel_ebd": "layer_norm",
            "share_att_key": True,
            "position_biased_input": False,
        },
    ),
    "albert": ("AlbertConfig", _NARROW),
    "electra": ("ElectraConfig", _NARROW),
    "mpnet": ("MPNetConfig", _TWO_MORE),
    "modernbert": ("ModernBertConfig", {**_PLAIN, "cls_token_id": 0, "sep_token_id": 2}),
    "gpt2": ("GPT2Config", {"n_embd": 32, "n_layer": 2, "n_head": 2}),
}
DECODERS = ("gpt2",)


def text_folder(root: Path, family: str, **changed: Any) -> Path:
    """A model of `family` with random weights and its tokenizer, as transformers saves them.

    Weights are wider than transformers draws them, so that every token moves the logits. A decoder gets a tokenizer
    without a pad token, as GPT-2 has.
    """
    import torch
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    kind, size = TEXT[family]
    ids = {"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2}
    values = {"vocab_size": 64, "max_position_embeddings": LIMIT, "initializer_range": 0.3, **ids, **size, **changed}
    decoder = family in DECODERS
    if decoder:
        del values["pad_token_id"]
    torch.manual_seed(0)
    config = getattr(transformers, kind)(**values)
    transformers.AutoModelForSequenceClassification.from_config(config).save_pretrained(root)
    vocabulary = {w: i for i, w in enumerate([*SPECIAL, *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    if not decoder:
        tokenizer.post_processor = processors.TemplateProcessing(
            "[BOS] $A [EOS]", special_tokens=[("[BOS]", 0), ("[EOS]", 2)]
        )
    names = {"unk_token": "[UNK]", "eos_token": "[EOS]"} | ({} if decoder else {"pad_token": "[PAD]"})
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(root)
    return root


def feeds_of(network: Network, vocabulary: int = 18, side: int = 48) -> list[Feed]:
    """A few batches: images of two sizes, or texts of different lengths, some padded."""
    rng = np.random.default_rng(0)
    if isinstance(network.spec, ImageSpec):
        return [{"image": rng.integers(0, 256, (4, side, side + 16 * i, 3), dtype=np.uint8)} for i in range(2)]
    found = []
    for count, length in ((1, 3), (4, 20), (3, min(network.spec.max_length, 40))):
        ids = rng.integers(4, vocabulary, (count, length))
        mask = np.ones_like(ids)
        for row in range(1, count):
            ids[row, length - row :], mask[row, length - row :] = network.spec.pad_id, 0
        found.append({"input_ids": ids, "attention_mask": mask})
    return found


def exported(network: Network, feeds: list[Feed], folder: Path, exporter: str = "torchscript") -> Graph:
    """The graph of `network` after the export, as the stage leaves it; ParityError where it is not that of torch."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "model.onnx"
    network.module.eval()
    model = assemble(to_onnx(network, exporter, 18, file), network, 18)
    save(model, file)
    width = model.graph.output[0].type.tensor_type.shape.dim[1].dim_value
    name = "image-classification" if isinstance(network.spec, ImageSpec) else "text-classification"
    checkpoint: Any = SimpleNamespace(network={"task": name, "classes": [str(i) for i in range(width)]})
    signature = signature_of(model, network, checkpoint, registry.load("tasks", name))
    write_json(folder / "signature.json", signature.to_json())
    examples = [image for feed in feeds for image in feed.get("image", ())]
    expected = torch_outputs(network, examples, feeds)
    rung = against_torch(network, file, examples, feeds, expected, signature)
    golden.save(folder / "golden.npz", feeds, expected)
    write_json(folder / "parity.json", [rung.to_json()])
    return Graph(folder, "")


def passed(name: str, graph: Graph, folder: Path, dialect: str = "", **options: Any) -> Graph:
    """The graph after the pass `name`; ParityError where that moved its answers too far."""
    module = registry.load("optimize", name)
    feeds, _ = golden.load(graph.folder / "golden.npz")

    def calibration() -> Iterator[Feed]:
        yield from feeds

    folder.mkdir(parents=True, exist_ok=True)
    optimize.run(Plugin("optimize", name, module.Options(**options)), graph, Context(dialect, calibration), folder)
    return Graph(folder, "")


def rungs(graph: Graph) -> list[str]:
    return [rung["rung"] for rung in read_json(graph.folder / "parity.json")]
