from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
import toy_graphs
from PIL import Image

from tlcompile.errors import DataError
from tlcompile.runtime.command import main, predict_lines


@pytest.fixture
def photo(tmp_path: Path) -> str:
    Image.fromarray(toy_graphs.images(1)["image"][0]).save(tmp_path / "photo.png")
    return str(tmp_path / "photo.png")


def test_predictions_are_json_lines(built: Path, photo: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(built, [photo, photo, "--top", "2", "--batch-size", "1"]) == 0
    out, err = capsys.readouterr()
    lines = [json.loads(line) for line in out.splitlines()]
    assert [line.keys() for line in lines] == [{"item", "label", "probability", "probabilities"}] * 2
    assert len(lines[0]["probabilities"]) == 2
    assert err == ""


def test_a_dash_reads_items_from_standard_input(
    built: Path, photo: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{photo}\n\n{photo}\r\n"))
    assert main(built, ["-"]) == 0
    assert capsys.readouterr().out.count(photo) == 2


def test_an_engine_that_is_not_the_measured_one_is_said_on_standard_error(
    built: Path, photo: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(built, [photo, "--target", "model.onnx"]) == 0
    assert capsys.readouterr().err.startswith("running the portable model.onnx")


@pytest.mark.parametrize("wrong", [[], ["x.png", "--top", "0"], ["x.png", "--batch-size", "many"], ["--nothing"]])
def test_wrong_usage_is_exit_code_2(built: Path, wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(built, wrong)
    assert caught.value.code == 2
    assert "predict.py: error: " in capsys.readouterr().err


def test_lines_come_as_their_batches_are_done(built: Path, photo: str) -> None:
    lines = predict_lines(built, [photo] * 40 + ["gone.png"], batch_size=2)
    assert json.loads(next(lines))["item"] == photo
    with pytest.raises(DataError, match=r"gone\.png"):
        list(lines)


def test_an_unreadable_item_is_exit_code_3_and_an_unknown_engine_4(
    built: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(built, ["gone.png"]) == 3
    assert capsys.readouterr() == ("", "gone.png: No such file or directory\n")
    assert main(built, ["gone.png", "--target", "x"]) == 4
