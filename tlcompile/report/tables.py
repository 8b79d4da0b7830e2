"""The tables of the page, each out of one list of facts."""

from __future__ import annotations

from typing import Any

from tlcompile.report.markdown import code, number, table, words

Rows = list[dict[str, Any]]


def gates(rows: Rows) -> list[str]:
    heads = ("target", "gate", "limit", "found", "verdict", "why")
    made = []
    for gate in rows:
        numbers = [number(gate.get(key), ".4g") for key in ("limit", "value")]
        made.append([gate.get("target") or "", code(gate.get("gate")), *numbers, _verdict(gate), gate.get("why") or ""])
    return table(heads, made)


def _verdict(gate: dict[str, Any]) -> str:
    return "deferred" if gate.get("deferred") else "passed" if gate.get("passed") else "**FAILED**"


def metric(facts: dict[str, Any]) -> str:
    """What the headline figure is called."""
    return str(facts.get("metric") or "accuracy")


def variants(rows: Rows, metric: str = "accuracy", judged: bool = False) -> list[str]:
    """One row an engine; one group of columns for each batch size that was measured. `judged`: with its verdict."""
    batches = list(dict.fromkeys(b for row in rows for b in row.get("latency") or {} if b.startswith("batch_")))
    heads = ["engine", "backend", "precision", metric, "drop (upper bound)"]
    against = any("corrected" in row for row in rows)
    heads += ["corrected / corrupted (p)"] if against else []
    for batch in batches:
        heads += [f"{batch.replace('_', ' ')}: {what}" for what in ("p50", "p90", "p99", "per second")]
    made = []
    for row in rows:
        name = code(row.get("engine"))
        line = [f"**{name} ships**" if row.get("chosen") else name, row.get("backend", ""), row.get("variant", "")]
        line += [_accuracy(row), _drop(row), *([_account(row)] if against else [])]
        for batch in batches:
            found = (row.get("latency") or {}).get(batch) or {}
            line += [number(found.get(f"{p}_ms"), ".2f") for p in ("p50", "p90", "p99")]
            line.append(number(found.get("throughput_per_s"), ",.0f"))
        line.append(number(row.get("size_mb"), ".2f"))
        if judged:
            line += [str(row.get("threads") or ""), "yes" if row.get("frontier") else "", row.get("why", "")]
        made.append(line)
    return table([*heads, "MB", *(("threads", "on the frontier", "verdict") if judged else ())], made)


def _accuracy(row: dict[str, Any]) -> str:
    low, high = row.get("accuracy_interval") or (None, None)
    interval = f" ({low:.4f} to {high:.4f})" if low is not None and high is not None else ""
    return number(row.get("accuracy"), ".4f") + interval


def _account(row: dict[str, Any]) -> str:
    """Test examples that the best single network got wrong and this engine right, and the other way round."""
    p = f" ({number(row['p_single'], '.2g')})" if row.get("p_single") is not None else ""
    return f"{number(row.get('corrected'), 'd')} / {number(row.get('corrupted'), 'd')}{p}"


def _drop(row: dict[str, Any]) -> str:
    upper = row.get("drop_upper")
    return number(row.get("drop"), "+.4f") + (f" ({upper:+.4f})" if upper is not None else "")


def parity(rows: Rows) -> list[str]:
    heads = ("step", "against", "logits off by", "largest error", "same answer", "allowed", "verdict")
    return table(
        heads,
        [
            (
                row.get("rung", ""),
                row.get("against", ""),
                number(row.get("logits"), ".2%"),
                number(row.get("max_abs"), ".2g"),
                number(row.get("agreement"), ".1%"),
                _allowed(row.get("tolerance") or {}),
                "ok" if row.get("ok") else "**OUT OF TOLERANCE**",
            )
            for row in rows
        ],
    )


def _allowed(tolerance: dict[str, Any]) -> str:
    """What decides; what any figure would satisfy is left out."""
    logits, error, same = (tolerance.get(key) for key in ("logits", "max_abs", "agreement"))
    parts = [f"logits {logits:.2g}" if logits is not None else "", f"error {error:g}" if error and error != 1 else ""]
    return ", ".join(part for part in (*parts, f"same {same:.0%}" if same else "") if part)


def history(rows: Rows, metric: str = "accuracy") -> list[str]:
    keys = {
        "epoch": "",
        "train_loss": ".4f",
        "train_accuracy": ".4f",
        "val_loss": ".4f",
        "val_accuracy": ".4f",
        "lr": ".2e",
        "seconds": ".1f",
    }
    heads = [key.replace("_", " ").replace("accuracy", metric) for key in keys]
    return table(heads, [[number(row.get(key), form) for key, form in keys.items()] for row in rows])


def per_class(rows: Rows) -> list[str]:
    """Whatever columns the facts have, in their order."""
    keys = list(dict.fromkeys(key for row in rows for key in row))
    heads = [key.replace("_", " ") for key in keys]
    made = []
    for row in rows:
        values = (row.get(key) for key in keys)
        made.append(
            [code(v) if isinstance(v, str) else f"{v:.4f}" if isinstance(v, float) else words(v) for v in values]
        )
    return table(heads, made)


def worst_pairs(matrix: list[list[int]], classes: list[str], count: int) -> list[str]:
    """The confusions that happened most often, by the names of the classes."""
    found = [
        (row[j], row[j] / sum(row), classes[i], classes[j])
        for i, row in enumerate(matrix)
        for j in range(len(row))
        if i != j and row[j] > 0
    ]
    found.sort(key=lambda pair: (-pair[0], -pair[1]))
    heads = ("true", "predicted", "times", "share of the true class")
    return table(
        heads, [(code(true), code(taken), f"{n:g}", f"{share:.1%}") for n, share, true, taken in found[:count]]
    )


def stages(rows: Rows) -> list[str]:
    ran = sum(row.get("seconds") or 0 for row in rows if not row.get("cached"))
    made = [
        (row.get("step", ""), number(row.get("seconds"), ".1f"), "cached" if row.get("cached") else "ran")
        for row in rows
    ]
    return table(("step", "seconds", ""), [*made, ("**ran now, together**", f"{ran:.1f}", "")])
