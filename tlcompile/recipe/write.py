"""A resolved recipe as TOML text, for people to read and to keep."""

from __future__ import annotations

import json
from typing import Any


def toml(resolved: dict[str, Any]) -> str:
    """Plain JSON values (`Recipe.resolved()`) as TOML; keys without a value (null) become comments."""
    lines = [f"{key} = {_value(value)}" for key, value in resolved.items() if not isinstance(value, dict | list)]
    for key, value in resolved.items():
        if isinstance(value, dict):
            lines += _table(key, value)
        elif isinstance(value, list):
            for element in value:
                lines += ["", f"[[{key}]]", *_pairs(element)]
    return "\n".join(lines) + "\n"


def _table(name: str, table: dict[str, Any]) -> list[str]:
    pairs = _pairs({k: v for k, v in table.items() if not isinstance(v, dict)})
    lines = ["", f"[{name}]", *pairs] if pairs or not table else []
    for key, value in table.items():
        if isinstance(value, dict):
            lines += _table(f"{name}.{key}", value)
    return lines


def _pairs(table: dict[str, Any]) -> list[str]:
    return [f"# {k} is not set" if v is None else f"{k} = {_value(v)}" for k, v in table.items()]


def _value(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(_value(v) for v in value)}]"
    if isinstance(value, dict):
        return f"{{ {', '.join(f'{k} = {_value(v)}' for k, v in value.items())} }}" if value else "{}"
    text = json.dumps(value, ensure_ascii=False)
    return text.replace("\x7f", "\\u007f")  # the one character that JSON allows and TOML does not
