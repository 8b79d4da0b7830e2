"""What the page says of pruning, sparsity and the search for layers in fp32."""

from __future__ import annotations

from tlcompile.report.compression import compression

PRUNED = {
    "engine": "openvino/int8",
    "ms_before": 5.756,
    "ms_after": 3.958,
    "speedup_asked": 1.32,
    "speedup_reached": 1.454,
    "parameters": [3377413, 1373933],
    "steps": [{"products": [383913952, 186148176], "curve": [{"share_asked": 0.5, "ms": 4.0}]}],
}
SPARSE = {
    "density": {"fc": 0.5},
    "dense": {"stem": "3 inputs"},
    "compressed_bytes": {"before": 2000000, "after": 900000},
}
SEARCHED = {
    "examples": 256,
    "margin": 0.01,
    "layers": [{"nodes": ["/a/Conv"], "divergence": 0.25}, {"nodes": ["/b/Conv"], "divergence": None}],
    "curve": [{"in_fp32": 0, "divergence": 0.3, "drop": 0.02, "upper": 0.03}],
    "chosen": {"in_fp32": ["/a/Conv"], "divergence": 0.1, "drop": 0.001, "upper": 0.008, "acceptable": True},
}


def page(**found: object) -> str:
    return "\n".join(compression(found))  # type: ignore[arg-type]


def test_pruning_tells_time_products_parameters_and_what_was_tried() -> None:
    told = page(**{"compress/prune": PRUNED})
    assert "5.76 → 3.96 ms on openvino/int8: 1.45 times faster, 1.32 asked for." in told
    assert "384 → 186 million multiply-adds, 3.38 → 1.37 million parameters" in told
    assert "| 50.0% | 4.00 |" in told


def test_sparsity_tells_layers_and_bytes() -> None:
    assert "1 layers with zeros, 1 dense; weights compressed: 2.00 → 0.90 MB." in page(**{"compress/sparsity": SPARSE})


def test_a_search_tells_what_stays_in_fp32_its_order_and_its_curve() -> None:
    told = page(**{"optimize/int8-x86": SEARCHED})
    assert "1 nodes stay in fp32 (`/a/Conv`): drop +0.0010, at most 0.0080, 0.01 allowed, on 256" in told
    assert "| /a/Conv | 0.25 |" in told
    assert "| 0 | +0.0200 | 0.0300 |" in told


def test_nothing_is_said_where_nothing_was_compressed() -> None:
    assert page() == ""


def test_a_search_that_found_nothing_to_keep_says_so() -> None:
    every = {**SEARCHED, "chosen": {**SEARCHED["chosen"], "in_fp32": []}}  # type: ignore[dict-item]
    assert "Every layer is quantized: drop +0.0010" in page(**{"optimize/int8-x86": every})
