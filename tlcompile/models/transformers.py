"""Text encoders with a classification head by hub id or local folder, through transformers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tlcompile.artifacts import TextSpec
from tlcompile.errors import Problem, RecipeError
from tlcompile.models._network import Network
from tlcompile.options import Field, ModelName, PathText
from tlcompile.options import Options as Base

if TYPE_CHECKING:
    from torch import Tensor, nn

PACKAGES = ("transformers", "tokenizers", "torch")
KINDS = ("text",)


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

    place = str(options.name.absolute) if isinstance(options.name, PathText) else options.name
    try:
        config = AutoConfig.from_pretrained(place, num_labels=classes)
        for key in ("hidden_dropout_prob", "attention_probs_dropout_prob", "dropout", "attention_dropout"):
            if hasattr(config, key):
                setattr(config, key, options.dropout)
        if pretrained:
            model = AutoModelForSequenceClassification.from_pretrained(place, config=config, attn_implementation="eager")
        else:
            model = AutoModelForSequenceClassification.from_config(config, attn_implementation="eager")
        tokenizer = AutoTokenizer.from_pretrained(place)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0][:300]
        raise RecipeError(Problem("model.name", f"'{options.name}' can't be loaded: {reason}")) from error
    if pretrained and not isinstance(options.name, PathText) and tokenizer.is_fast is False:
        raise RecipeError(Problem("model.name", f"'{options.name}' has no fast tokenizer, so no tokenizer.json"))
    model.config.pad_token_id = pad_id = tokenizer.pad_token_id or 0
    return Network(
        module=_logits_only(model.float()),
        spec=TextSpec(min(options.max_length, tokenizer.model_max_length), pad_id),
        head=tuple(f"model.{n}" for n, _ in model.named_children() if n in ("classifier", "score", "pre_classifier")),
        tokenizer=_tokenizer_file(tokenizer),
    )


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
