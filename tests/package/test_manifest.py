from __future__ import annotations

import json
from pathlib import Path

import pytest
import toy_bundle
from hypothesis import given
from hypothesis import strategies as st

from tlcompile.errors import BundleError
from tlcompile.package import manifest


def test_a_manifest_reads_back_as_it_was_written(bundle: Path) -> None:
    read = manifest.read(bundle)
    assert read.to_text() == (bundle / "manifest.json").read_text()
    assert read.chosen == read.engines[0].name == "openvino"
    assert read.engines[0].tolerance.max_abs == 1e-3


def test_a_manifest_has_every_key_that_the_figures_ask_for(bundle: Path) -> None:
    raw = toy_bundle.read_manifest(bundle)
    assert raw.keys() >= {"name", "task", "classes", "files", "variants", "chosen", "gates", "versions", "recipe"}
    variant = raw["variants"][0]
    assert variant.keys() >= {"backend", "precision", "executed", "accuracy", "accuracy_low", "accuracy_high", "n"}
    assert variant.keys() >= {"latency_p50_ms", "latency_p99_ms", "size_mb"}
    assert variant["n"] == 20
    assert raw["gates"][0].keys() >= {"name", "limit", "value", "verdict"}
    assert all(len(digest) == 64 for digest in raw["files"].values())


def test_a_newer_format_is_refused_with_the_version_that_it_needs(bundle: Path) -> None:
    toy_bundle.rewrite_manifest(bundle, format=2, tlcompile="7.1.0", engines="told in another way")
    with pytest.raises(BundleError, match=r"bundle format 2.* it needs tlcompile 7\.1\.0 or newer"):
        manifest.read(bundle)


def test_keys_of_a_later_version_in_the_same_format_are_left_alone(bundle: Path) -> None:
    toy_bundle.rewrite_manifest(bundle, signed_by="somebody")
    assert manifest.read(bundle).name == "toy"


def test_a_manifest_that_was_cut_off_is_said_to_be(bundle: Path) -> None:
    whole = (bundle / "manifest.json").read_bytes()
    (bundle / "manifest.json").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(BundleError, match=r"manifest\.json: not whole JSON, the file is cut off or damaged"):
        manifest.read(bundle)


@pytest.mark.parametrize("text", ["[]", "{}", '{"format": "1"}', '{"format": true}', "null"])
def test_json_that_is_no_manifest_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(BundleError, match="not a manifest of tlcompile"):
        manifest.read(tmp_path)


def test_every_mistake_of_a_manifest_is_named_with_its_key(bundle: Path) -> None:
    engines = toy_bundle.read_manifest(bundle)["engines"]
    engines[1]["folder"] = "../elsewhere"
    toy_bundle.rewrite_manifest(bundle, name=3, classes="ant", engines=engines)
    with pytest.raises(BundleError) as caught:
        manifest.read(bundle)
    places = [problem.where.split(": ")[1] for problem in caught.value.problems]
    assert places == ["name", "classes", "engines.1.folder"]


@pytest.mark.parametrize(
    "path", ["/etc/passwd", "../up", "a/../../up", "a//b", "", ".", "C:/x", "a\\..\\b", "a\0b", "a/"]
)
def test_a_file_outside_of_the_bundle_is_refused(bundle: Path, path: str) -> None:
    raw = toy_bundle.read_manifest(bundle)
    toy_bundle.rewrite_manifest(bundle, files={**raw["files"], path: "0" * 64}, sizes={**raw["sizes"], path: 1})
    with pytest.raises(BundleError, match="must be a relative path inside the bundle"):
        manifest.read(bundle)


@given(st.lists(st.sampled_from(["a", "..", ".", "", "/", "\\", "..a", "c:", "b c"]), max_size=5).map("/".join))
def test_no_accepted_path_leaves_its_folder(path: str) -> None:
    try:
        manifest.inside(path)
    except ValueError:
        return
    assert Path("/bundle", path).resolve().is_relative_to("/bundle")
    assert Path("/bundle", path).resolve() != Path("/bundle")


def test_files_without_sizes_and_two_engines_of_one_name_are_refused(bundle: Path) -> None:
    raw = toy_bundle.read_manifest(bundle)
    toy_bundle.rewrite_manifest(bundle, sizes={})
    with pytest.raises(BundleError, match="name different files"):
        manifest.read(bundle)
    toy_bundle.rewrite_manifest(bundle, sizes=raw["sizes"], engines=[raw["engines"][0]] * 2)
    with pytest.raises(BundleError, match="two engines have one name"):
        manifest.read(bundle)


@pytest.mark.parametrize("signature", [{}, {"inputs": 3}, {"task": "x", "inputs": [], "outputs": []}])
def test_a_signature_that_is_none_is_refused(bundle: Path, signature: dict[str, object]) -> None:
    toy_bundle.rewrite_manifest(bundle, signature=signature)
    with pytest.raises(BundleError, match="`signature` is not one"):
        manifest.read(bundle)


def test_a_missing_bundle_is_told_apart_from_a_folder_and_a_file(bundle: Path) -> None:
    with pytest.raises(BundleError, match=r"no such bundle; did you mean '.*toy'"):
        manifest.read(bundle.with_name("toi"))
    with pytest.raises(BundleError, match="found a folder without a manifest"):
        manifest.read(bundle / "engines")
    with pytest.raises(BundleError, match="found a file"):
        manifest.read(bundle / "README.md")


def test_json_that_is_nested_without_end_is_refused(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text("[" * 200_000)
    with pytest.raises(BundleError, match="cut off or damaged"):
        manifest.read(tmp_path)


def test_bytes_that_are_not_text_are_refused(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_bytes(b"\xff\xfe{}")
    with pytest.raises(BundleError, match="can't be read as UTF-8"):
        manifest.read(tmp_path)


@given(st.recursive(st.none() | st.integers() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)))
def test_any_other_json_gets_a_sentence(value: object) -> None:
    with pytest.raises(BundleError):
        manifest.parse(json.dumps(value), "manifest.json")
    with pytest.raises(BundleError):
        manifest.parse(json.dumps({"format": 1, "engines": value, "files": value, "signature": value}), "manifest.json")
