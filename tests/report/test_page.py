from __future__ import annotations

from typing import Any

from tlcompile.report.page import page

ALL = {"variants", "curves", "confusion"}


def test_a_passed_report_says_so_first(facts: dict[str, Any]) -> None:
    lines = page(facts, ALL).splitlines()
    assert lines[:5] == [
        "# insects",
        "",
        "**Passed: 2 of 2 gates.**",
        "",
        "Ships `openvino-int8`: accuracy 0.9300 (0.9100 to 0.9400), median latency 6.30 ms at batch 1, 3.70 MB. "
        "Chosen because: The fastest within the gates.",
    ]


def test_a_failed_gate_stands_at_the_top_with_its_reason(facts: dict[str, Any]) -> None:
    facts["gates"][1] |= {"passed": False, "why": "6.3 ms at the median, at most 5 are allowed"}
    lines = page(facts, ALL).splitlines()
    assert lines[2] == "**FAILED: 1 of 2 gates did not pass. It is not good enough to ship.**"
    assert lines[4] == "- `max_latency_p50_ms` = 10: 6.3 ms at the median, at most 5 are allowed"
    assert lines[6].startswith("Would ship `openvino-int8`")


def test_a_gate_for_another_device_is_neither_passed_nor_failed(facts: dict[str, Any]) -> None:
    facts["gates"][1] |= {"target": "rtx", "value": None, "deferred": True, "why": "no GPU is here"}
    text = page(facts, ALL)
    assert "**Passed: 1 of 2 gates. 1 gate can be shown on the engine's device only.**" in text
    assert "| rtx | `max_latency_p50_ms` | 10 |  | deferred | no GPU is here |" in text


def test_without_gates_nothing_is_called_passed(facts: dict[str, Any]) -> None:
    facts["gates"] = []
    assert "**No gates were asked for: nothing was judged.**" in page(facts, ALL)
    assert "assed" not in page(facts, ALL)


def test_what_was_explored_is_one_table_with_a_verdict_for_each(facts: dict[str, Any]) -> None:
    for row in facts["variants"]:
        row |= {"threads": 2, "frontier": row["variant"] == "int8"}
    left_out = [{"line": "pruned-3x", "verdict": "rejected", "why": "the best is 1.70"}]
    facts["explored"] = {"speedups": [1.5, 3.0], "threads": [1, 0], "budget_minutes": 30.0, "left_out": left_out}
    lines = page(facts, ALL).splitlines()
    rows = [line for line in lines if line.startswith(("| **`openvino-int8`", "| `onnxruntime-fp32`", "| `pruned-3x`"))]
    assert rows[0].endswith("| 3.70 | 2 | yes | The fastest within the gates. |")
    assert rows[1].endswith("| 3.70 | 2 |  | slower |")
    assert rows[2].endswith("| rejected: the best is 1.70 |")
    assert "Why the others were not chosen:" not in lines
    assert any(line.startswith("Explored: networks pruned to be 1.5, 3 times faster, each") for line in lines)


def test_the_sections_stand_in_the_order_of_interest(facts: dict[str, Any]) -> None:
    heads = [line[3:] for line in page(facts, ALL).splitlines() if line.startswith("## ")]
    assert heads == [
        *("Gates", "Variants", "Parity", "Training", "Classes", "Data", "Hyper-parameters as applied", "Stages"),
        *("Environment", "Recipe, with every default"),
    ]


def test_only_pictures_that_were_drawn_are_shown(facts: dict[str, Any]) -> None:
    assert page(facts, {"curves"}).count("](pictures/") == 1


def test_an_engine_that_did_not_run_has_no_latency_and_says_whose_accuracy_it_shows(facts: dict[str, Any]) -> None:
    text = page(facts, ALL)
    assert "| `tensorrt_rtx-int8` | tensorrt_rtx | int8 | 0.9300 (0.9100 to 0.9400) | +0.0100 (+0.0140) |  |  |" in text
    assert "- `tensorrt_rtx-int8`: in onnxruntime: no GPU is here" in text
    assert "- `openvino-int8`: in" not in text


def test_the_worst_confusions_are_named_first(facts: dict[str, Any]) -> None:
    rows = [line for line in page(facts, ALL).splitlines() if line.startswith(("| `cat` | `ant`", "| `ant` | `bee`"))]
    assert rows == ["| `cat` | `ant` | 3 | 30.0% |", "| `ant` | `bee` | 1 | 10.0% |"]


def test_no_confusion_is_said_too(facts: dict[str, Any]) -> None:
    facts["confusion"] = [[10, 0, 0], [0, 10, 0], [0, 0, 0]]
    assert "No test example was taken for another class." in page(facts, ALL)


def test_names_cannot_break_the_page(facts: dict[str, Any]) -> None:
    facts["classes"] = facts["data"]["classes"] = ["a|b", "`c`", "<script>"]
    facts["data"]["counts"] = {"test": {"a|b": 1, "`c`": 2, "<script>": 3}}
    facts["notes"] = []
    text = page(facts, ALL)
    assert r"| `a\|b` | 1 |" in text
    assert "| `'c'` | 2 |" in text
    assert "<script>" not in text


def test_a_long_training_is_thinned_and_keeps_its_last_epoch(facts: dict[str, Any]) -> None:
    facts["history"] = [{"epoch": e, "val_loss": 1.0} for e in range(1, 101)]
    text = page(facts, ALL)
    assert "| 100 | 1.0000 |" in text
    assert "One row in 4 of 100 epochs" in text


def test_many_classes_and_skipped_files_are_cut_with_a_word(facts: dict[str, Any]) -> None:
    facts["data"]["skipped"] = [{"id": str(i), "why": "is empty"} for i in range(40)]
    facts["classes"] = [f"c{i}" for i in range(500)]
    facts["data"]["counts"] = {"test": dict.fromkeys(facts["classes"], 1)}
    text = page(facts, ALL)
    assert "Skipped, 40:" in text
    assert "… and 10 more in report.json." in text
    assert len(text) < 20_000


def test_the_headline_figure_has_the_name_of_its_task_everywhere(facts: dict[str, Any]) -> None:
    text = page({**facts, "metric": "R²", "metrics": {"headline": "R²", "mae": 3.25}}, set())
    assert "R² 0." in text
    assert "| R² |" in text
    assert "val R²" in text
    assert "The engine that ships, on the same examples: mae 3.25." in text
    shown = text.split("## Recipe")[0].lower().replace("min_accuracy", "").replace("max_accuracy_drop", "")
    assert "accuracy" not in shown


def test_a_number_is_described_by_its_target_and_its_splits_by_their_sizes(facts: dict[str, Any]) -> None:
    target = {"name": "price", "mean": 12.5, "std": 3.0}
    data = {"target": target, "sizes": {"train": 70, "test": 10}, "counts": {"train": {}, "test": {}}}
    text = page({**facts, "classes": [], "data": data, "confusion": [], "per_class": []}, {"predictions"})
    assert "The target is `price`: mean 12.5 and standard deviation 3 over train." in text
    assert "| **all** | 70 | 10 |" in text
    assert "pictures/predictions.png" in text
    assert "## Classes" not in text
