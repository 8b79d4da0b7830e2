"""Text encoders with a classification head by hub id or local folder, through transformers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from tlcompile.artifacts import TextSpec
from tlcompile.errors import Problem, RecipeError
from tlcompile.models._network import Network
from tlcompile.options import Field, ModelName, PathText
from tlcompile.options import Options as Base

if TYPE_CHECKING:
    from torch import Tensor, nn

PACKAGES = ("transformers", "tokenizers", "torch")
KINDS = ("text",)
HEADS = ("classifier", "pre_classifier", "score")
"""What transformers calls the parts behind the encoder: they are new, or may be of another shape than in the file."""


class Options(Base):
    name: ModelName = Field(description="a hub id, a local folder, or 'package:NAME' of an installed package")
    max_length: int = Field(128, ge=4, description="tokens; longer texts are cut")
    dropout: float = Field(0.1, ge=0, lt=1, description="in the encoder and before the classifier")


def check(options: Options) -> list[Problem]:
    """Whether the folder or the cached hub model is there."""
    if isinstance(options.name, PathText):
        folder = options.name.absolute
        missing = [f for f in ("config.json", "tokenizer.json") if not (folder / f).is_file()]
        return [Problem("model.name", f"'{options.name}' lacks {f}") for f in missing]
    return []


def build(options: Options, classes: int, pretrained: bool = True) -> Network:
    """The encoder with a new head for `classes`; RecipeError where its files can't be had."""
    from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    place = str(options.name.absolute) if isinstance(options.name, PathText) else options.name
    try:
        config = AutoConfig.from_pretrained(place, num_labels=classes)
        for key in ("hidden_dropout_prob", "attention_probs_dropout_prob", "dropout", "attention_dropout"):
            if hasattr(config, key):
                setattr(config, key, options.dropout)
        if pretrained:
            model = _pretrained(place, config)
        else:
            model = AutoModelForSequenceClassification.from_config(config, attn_implementation="eager")
        tokenizer = AutoTokenizer.from_pretrained(place)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0][:300]
        raise RecipeError(Problem("model.name", f"'{options.name}' can't be loaded: {reason}")) from error
    if not tokenizer.is_fast:
        raise RecipeError(Problem("model.name", f"'{options.name}' has no fast tokenizer, so no tokenizer.json"))
    model.config.pad_token_id = pad_id = tokenizer.pad_token_id or 0
    return Network(
        module=_logits_only(model.float()),
        spec=TextSpec(min(options.max_length, tokenizer.model_max_length), pad_id),
        head=tuple(f"model.{name}" for name, _ in model.named_children() if name in HEADS),
        tokenizer=_tokenizer_file(tokenizer),
    )


def _pretrained(place: str, config: Any) -> Any:
    """The model with the weights at `place`. Only the head may be absent or of another shape there."""
    from transformers import AutoModelForSequenceClassification

    model, found = AutoModelForSequenceClassification.from_pretrained(
        place, config=config, attn_implementation="eager", ignore_mismatched_sizes=True, output_loading_info=True
    )
    wrong = {key if isinstance(key, str) else key[0] for key in (*found["mismatched_keys"], *found["missing_keys"])}
    body = sorted(key for key in wrong if not key.startswith(HEADS) and "pooler" not in key)
    if body:
        shown = ", ".join(body[:5]) + (f" and {len(body) - 5} more" if len(body) > 5 else "")
        raise RecipeError(Problem("model.name", f"weights of another network: absent or of another shape are {shown}"))
    return model


def _logits_only(model: nn.Module) -> nn.Module:
    """`model` behind the calling convention of `Network`."""
    from torch import nn

    class Classifier(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
            logits: Tensor = self.model(input_ids=input_ids, attention_mask=attention_mask).logits
            return logits

    return Classifier()


def _tokenizer_file(tokenizer: object) -> Path:
    """The tokenizer as one `tokenizer.json` in a temporary folder."""
    import tempfile

    path = Path(tempfile.mkdtemp(prefix="tlcompile-")) / "tokenizer.json"
    tokenizer.backend_tokenizer.save(str(path))  # type: ignore[attr-defined]
    return path
