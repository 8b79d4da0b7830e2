"""Text encoders and decoders with a classification head by hub id or local folder, through transformers.

Padding changes no logits: an encoder's mask sees to that, and of a decoder (GPT-2) the last token that the mask keeps
is read, counted from the mask and not, as transformers does, from the pad token, which a text may contain.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Literal

from tlcompile.artifacts import TextSpec, read_json
from tlcompile.errors import Problem, RecipeError, first_line
from tlcompile.models._network import Network
from tlcompile.options import Field, ModelName, PathText
from tlcompile.options import Options as Base

if TYPE_CHECKING:
    from torch import Tensor, nn

PACKAGES = ("transformers", "tokenizers", "torch")
KINDS = ("text",)
DROPOUT = re.compile(r"\w*(dropout|dropout_prob|dropout_rate|pdrop)")
"""What the families call their dropout: hidden_dropout_prob, seq_classif_dropout, resid_pdrop, …"""


class Options(Base):
    name: ModelName = Field(description="a hub id, a local folder, or 'package:NAME' of an installed package")
    max_length: int = Field(128, ge=4, description="tokens; longer texts are cut")
    dropout: float = Field(0.1, ge=0, lt=1, description="in the encoder and before the classifier")
    pooling: Literal["auto", "mean"] = Field(
        "auto",
        description="what the head reads: as the family does it, or the mean over the tokens, as sentence encoders",
    )


def check(options: Options) -> list[Problem]:
    """Whether the files of a local folder are there and its model takes `max_length` tokens."""
    if not isinstance(options.name, PathText):
        return []
    folder = options.name.absolute
    missing = [f for f in ("config.json", "tokenizer.json") if not (folder / f).is_file()]
    if missing:
        return [Problem("model.name", f"'{options.name}' lacks {f}") for f in missing]
    try:
        config = read_json(folder / "config.json")
        positions = int(config.get("max_position_embeddings") or config.get("n_positions") or 0)
    except (ValueError, AttributeError, TypeError) as error:
        return [Problem("model.name", f"'{options.name}/config.json' is no description of a model: {error}")]
    return _too_long(options, positions)


def _too_long(options: Options, limit: int) -> list[Problem]:
    """`limit`: tokens that the model has positions for; 0 = any number."""
    if not limit or options.max_length <= limit:
        return []
    what = f"expected at most {limit}, the limit of '{options.name}', found {options.max_length}"
    return [Problem("model.max_length", what)]


def build(options: Options, classes: int, pretrained: bool = True) -> Network:
    """The model with a new head for `classes`; RecipeError where its files can't be had."""
    from safetensors import SafetensorError
    from transformers import AutoModelForSequenceClassification, AutoTokenizer
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    place = str(options.name.absolute) if isinstance(options.name, PathText) else options.name
    try:
        config = _config(place, classes, options.dropout)
        if pretrained:
            model = _pretrained(place, config)
        else:
            model = AutoModelForSequenceClassification.from_config(config, attn_implementation="eager")
        tokenizer = AutoTokenizer.from_pretrained(place, trust_remote_code=False)
    except (OSError, ValueError, ImportError, KeyError, RuntimeError, SafetensorError) as error:
        reason = first_line(error)[:300]
        raise RecipeError(Problem("model.name", f"'{options.name}' can't be loaded: {reason}")) from error
    if not tokenizer.is_fast:
        raise RecipeError(Problem("model.name", f"'{options.name}' has no fast tokenizer, so no tokenizer.json"))
    if problems := _too_long(options, _positions(model)):
        raise RecipeError(*problems)
    pad = [tokenizer.pad_token_id, model.config.pad_token_id, tokenizer.eos_token_id, 0]
    mean = options.pooling == "mean"
    return Network(
        module=_mean_pooled(model.float(), classes, options.dropout) if mean else _logits_only(model.float()),
        spec=TextSpec(options.max_length, next(int(p) for p in pad if p is not None)),
        head=("classifier",) if mean else tuple(f"model.{name}" for name in _head(model)),
        tokenizer=tokenizer.backend_tokenizer.to_str(pretty=True),
    )


def _config(place: str, classes: int, dropout: float) -> Any:
    """The model's configuration with every dropout of its family set."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(place, num_labels=classes, trust_remote_code=False)
    for key, value in list(config.to_dict().items()):
        if DROPOUT.fullmatch(key) and (value is None or isinstance(value, float | int)):
            setattr(config, key, dropout)
    return config


def _head(model: Any) -> list[str]:
    """The children beside the body that hold weights: `classifier`, `score`, in DeBERTa `pooler` as well."""
    body = model.base_model_prefix
    return [name for name, child in model.named_children() if name != body and any(True for _ in child.parameters())]


def _positions(model: Any) -> int:
    """Tokens that the model has position embeddings for; RoBERTa and MPNet spend the first ones on padding."""
    positions = int(getattr(model.config, "max_position_embeddings", None) or 0)
    for name, child in model.named_modules():
        if name.endswith("position_embeddings") and getattr(child, "padding_idx", None) is not None:
            return int(child.num_embeddings) - int(child.padding_idx) - 1
    return positions


def _pretrained(place: str, config: Any) -> Any:
    """The model with the weights at `place`. Only the head may be absent or of another shape there."""
    from transformers import AutoModelForSequenceClassification

    model, found = AutoModelForSequenceClassification.from_pretrained(
        place, config=config, ignore_mismatched_sizes=True, output_loading_info=True
    )
    wrong = {key if isinstance(key, str) else key[0] for key in (*found["mismatched_keys"], *found["missing_keys"])}
    head = tuple(f"{name}." for name in _head(model))
    body = sorted(key for key in wrong if not key.startswith(head) and "pooler" not in key)
    if body:
        shown = ", ".join(body[:5]) + (f" and {len(body) - 5} more" if len(body) > 5 else "")
        raise RecipeError(Problem("model.name", f"weights of another network: absent or of another shape are {shown}"))
    return model


def _logits_only(model: Any) -> nn.Module:
    """`model` behind the calling convention of `Network`."""
    import inspect

    from torch import nn

    decoder = hasattr(model, "score")
    counts_itself = decoder and "position_ids" not in inspect.signature(model.base_model.forward).parameters

    class Classifier(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
            if decoder:
                return self.last_kept(input_ids, attention_mask)
            logits: Tensor = self.model(input_ids=input_ids, attention_mask=attention_mask).logits
            return logits

        def last_kept(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
            """The score of the last token of each text, whichever side is padded."""
            seen = attention_mask.cumsum(-1)
            place = {} if counts_itself else {"position_ids": (seen - 1).clamp(min=0)}
            body = self.model.base_model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False, **place)
            last = (seen * attention_mask).argmax(-1)
            states = body.last_hidden_state
            chosen = states.gather(1, last[:, None, None].expand(-1, 1, states.shape[-1]))
            logits: Tensor = self.model.score(chosen[:, 0])
            return logits

    return Classifier()


def _mean_pooled(model: Any, classes: int, dropout: float) -> nn.Module:
    """The body of `model` with a linear head on the mean over the tokens that the mask keeps.

    N. Reimers and I. Gurevych, "Sentence-BERT", EMNLP 2019, section 3: what encoders of sentences were trained for.
    """
    from torch import nn

    body = model.base_model
    if hasattr(body, "pooler"):
        body.pooler = None

    class MeanPooled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model, self.dropout = body, nn.Dropout(dropout)
            self.classifier = nn.Linear(body.config.hidden_size, classes)

        def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
            states = self.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
            kept = attention_mask[..., None].to(states.dtype)
            mean = (states * kept).sum(1) / kept.sum(1).clamp(min=1)
            logits: Tensor = self.classifier(self.dropout(mean))
            return logits

    return MeanPooled()
