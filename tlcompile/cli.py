"""The `tlcompile` command: arguments, exit codes, printing. Heavy work is imported when a command needs it.

Exit codes: 0 done · 2 bad recipe or usage · 3 bad data · 4 a stage failed · 5 a gate failed · 130 interrupted.
Results go to standard output, progress and errors to standard error.
"""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from tlcompile import __version__, progress
from tlcompile.errors import RecipeError, TlcompileError

app = typer.Typer(
    name="tlcompile",
    help="Turn a TOML recipe and labelled data into a deployment artifact that is proven good.",
    epilog="Start with: tlcompile build recipes/quickstart.toml",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

RecipeFile = Annotated[Path, typer.Argument(help="the recipe, a TOML file", show_default=False)]
StoreDir = Annotated[Path, typer.Option("--store", help="where finished stages are kept")]
DataPath = Annotated[Path | None, typer.Option("--data", help="replaces data.path of the recipe", show_default=False)]
BundleDir = Annotated[Path, typer.Argument(help="a bundle", show_default=False)]
AsJson = Annotated[bool, typer.Option("--json", help="print JSON for machines")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="no progress on standard error")]

STORE = Path(".tlcompile")
INTERRUPTED = 130


@app.callback(invoke_without_command=True)
def _version(version: Annotated[bool, typer.Option("--version", help="print the version")] = False) -> None:
    if version:
        print(__version__)
        raise typer.Exit


@app.command(epilog="Example: tlcompile build recipes/quickstart.toml --output dist/digits")
def build(
    recipe: RecipeFile,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="the bundle's folder; dist/NAME where not given", show_default=False),
    ] = None,
    until: Annotated[str, typer.Option(help="stop after this stage")] = "package",
    fresh: Annotated[str, typer.Option(help="a stage to do again although it is in the store, e.g. evaluate")] = "",
    store: StoreDir = STORE,
    data: DataPath = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Build a recipe into a bundle; finished stages are taken from the store."""
    from tlcompile.pipeline.build import build as run
    from tlcompile.pipeline.step import STAGES
    from tlcompile.recipe import load
    from tlcompile.store import Store

    progress.quiet = quiet
    for option, value in (("--until", until), ("--fresh", fresh)):
        if value and value not in STAGES:
            raise _usage(option, value, STAGES)
    loaded = load(recipe, data)
    built = run(loaded, Store(store), output or Path("dist") / loaded.name, until, frozenset(filter(None, [fresh])))
    steps = [{"step": name, "seconds": entry.seconds, "cached": entry.cached} for name, entry in built.steps]
    if as_json:
        bundle = str(built.bundle) if built.bundle else None
        print(
            json.dumps({"bundle": bundle, "seconds": round(built.seconds, 3), "steps": steps, "report": built.report})
        )
        return
    ran = [step["step"] for step in steps if not step["cached"]]
    print(f"{len(steps)} steps, {len(ran)} done now, {len(steps) - len(ran)} from the store, {built.seconds:.1f} s")
    if built.report:
        _print_variants(built.report)
    if built.bundle:
        print(f"bundle: {built.bundle}  (report: {built.bundle / 'report.md'})")


def _print_variants(report: dict[str, Any]) -> None:
    metric = report.get("metric", "accuracy")
    for row in report["variants"]:
        batch_1 = (row["latency"] or {}).get("batch_1")
        speed = f"{batch_1['p50_ms']:8.3g} ms" if batch_1 else "   not run "
        mark = "*" if row["chosen"] else " "
        print(
            f"{mark} {row['target']:<16} {row['variant']:<6} "
            f"{metric} {row['accuracy']:.4f} {speed} {row['size_mb']:7.2f} MB"
        )
    for gate in report["gates"]:
        state = "deferred" if gate.get("deferred") else "passed" if gate["passed"] else "FAILED"
        print(f"  {gate['target']}: {gate['gate']} {gate['limit']:g}  {state}: {gate['why']}")


@app.command(epilog="Example: tlcompile check recipes/quickstart.toml")
def check(recipe: RecipeFile, store: StoreDir = STORE, data: DataPath = None, as_json: AsJson = False) -> None:
    """Validate a recipe; print it with every default, and the plan. Runs nothing."""
    from tlcompile.pipeline.build import check_paths
    from tlcompile.recipe import load
    from tlcompile.store import Store

    loaded = load(recipe, data)
    check_paths(loaded)
    looks = _looks(loaded, Store(store))
    steps = [{"step": look.step.name, "cached": look.entry is not None} for look in looks]
    if as_json:
        print(json.dumps({"recipe": loaded.resolved(), "plan": steps}))
        return
    from tlcompile.recipe.write import toml

    print(toml(loaded.resolved()))
    print("# plan")
    for step in steps:
        print(f"#   {step['step']:<40} {'in the store' if step['cached'] else 'to do'}")


@app.command(epilog="Example: tlcompile why recipes/quickstart.toml")
def why(recipe: RecipeFile, store: StoreDir = STORE, data: DataPath = None, as_json: AsJson = False) -> None:
    """Say of each step whether it would run, and which part of its key changed."""
    from tlcompile.pipeline.build import check_paths
    from tlcompile.recipe import load
    from tlcompile.store import Store

    loaded = load(recipe, data)
    check_paths(loaded)
    looks = _looks(loaded, Store(store))
    if as_json:
        print(json.dumps([{"step": x.step.name, "cached": x.entry is not None, "why": x.reasons} for x in looks]))
        return
    for look in looks:
        print(f"{look.step.name}: {'in the store' if look.entry else 'to do'}")
        for reason in look.reasons:
            print(f"    {reason}")


def _looks(recipe: Any, store: Any) -> list[Any]:
    from tlcompile.pipeline.plan import plan
    from tlcompile.pipeline.step import look

    return list(look(plan(recipe, store), store, recipe.name))


@app.command(epilog="Example: tlcompile predict dist/digits photo.jpg")
def predict(
    bundle: BundleDir,
    items: Annotated[list[str], typer.Argument(help="image files, or texts", show_default=False)],
    target: Annotated[str, typer.Option(help="which engine; the first that runs here where not given")] = "",
) -> None:
    """Classify files or texts with a bundle; one JSON object a line."""
    from tlcompile.runtime.command import predict_lines

    for line in predict_lines(bundle, items, target):
        print(line)


@app.command(epilog="Example: tlcompile verify dist/digits")
def verify(
    bundle: BundleDir, self_test: Annotated[bool, typer.Option(help="also run the golden self-test")] = True
) -> None:
    """Check every file of a bundle against its manifest, then run its self-test."""
    from tlcompile.package.verify import verify as check_files

    for fact in check_files(bundle):
        print(fact)
    if self_test:
        from tlcompile.runtime import load

        with load(bundle) as model:
            result = model.self_test()
        print(result)
        if not result.ok:
            raise TlcompileError(f"{bundle}: the engine does not answer here as it was proven to")


@app.command(epilog="Example: tlcompile finalize dist/flowers --memory-mib 2000")
def finalize(
    bundle: BundleDir,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="a new folder; the bundle itself where not given", show_default=False),
    ] = None,
    target: Annotated[str, typer.Option(help="build this engine anew; where not given, those that wait for it")] = "",
    memory_mib: Annotated[
        int | None,
        typer.Option(min=1, help="memory that a build may take; no limit where not given", show_default=False),
    ] = None,
    runs: Annotated[int, typer.Option(min=20, help="timed calls")] = 200,
    as_json: AsJson = False,
) -> None:
    """Build on this device the engines that wait for it, prove them here, and write that into the manifest."""
    from tlcompile.errors import GateError
    from tlcompile.runtime.finalize import failed, in_words
    from tlcompile.runtime.finalize import finalize as run

    result = run(bundle, output, target, memory_mib, runs)
    print(json.dumps(result) if as_json else "\n".join(in_words(result)))
    if problems := failed(result):
        raise GateError(*problems)


@app.command(epilog="Example: tlcompile evaluate dist/flowers --data new_photos")
def evaluate(
    bundle: BundleDir,
    data: Annotated[Path, typer.Option("--data", help="labelled examples: a folder, csv, jsonl or parquet")],
    target: Annotated[str, typer.Option(help="which engine; the first that runs here where not given")] = "",
    as_json: AsJson = False,
) -> None:
    """Measure a bundle on new labelled data."""
    from tlcompile.pipeline.evaluate import evaluate as run

    result = run(bundle, data, target)
    if as_json:
        print(json.dumps(result))
        return
    low, high = result["accuracy_interval"]
    interval = f"95 % interval {low:.4f} to {high:.4f}, {result['n']} examples"
    print(f"{result['metric']} {result['accuracy']:.4f}  ({interval})")
    for name, value in result["metrics"].items():
        print(f"  {name.replace('_', ' ')} {'not defined' if value is None else f'{value:.4g}'}")
    for row in result["per_class"]:
        print(f"  {row['class']:<24} recall {row['recall']:.4f}  precision {row['precision']:.4f}  n {row['n']}")


@app.command(epilog="Example: tlcompile schema > recipe.schema.json")
def schema() -> None:
    """Print the JSON Schema of recipes, for editors."""
    from tlcompile.recipe.schema import schema as made

    print(json.dumps(made(), indent=1))


@app.command(name="list", epilog="Example: tlcompile list compile")
def list_(
    room: Annotated[str, typer.Argument(help="data, models, tasks, optimize or compile; all where not given")] = "",
) -> None:
    """List the plug-ins: data sources, model libraries, tasks, graph passes, backends."""
    from tlcompile import registry

    if room and room not in registry.ROOMS:
        raise _usage("ROOM", room, registry.ROOMS)
    for name in [room] if room else registry.ROOMS:
        print(f"{name}: {', '.join(sorted({*registry.names(name), *registry.third_party(name)}))}")


def _usage(option: str, value: str, known: tuple[str, ...]) -> RecipeError:
    from tlcompile.errors import Problem, nearest, one_of

    return RecipeError(Problem(option, f"'{value}' is not one of {one_of(known)}", nearest(value, known)))


def main() -> None:
    """Run the command; every error of ours is told in sentences and has its exit code."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a scheduler's end is treated like Ctrl-C
    try:
        app()
    except TlcompileError as error:
        for problem in error.problems:
            print(f"error: {problem}", file=sys.stderr)
        sys.exit(error.exit_code)
    except SystemExit as left:
        if left.code == INTERRUPTED:  # typer has caught the KeyboardInterrupt
            print("interrupted; the same command goes on from here", file=sys.stderr)
        raise
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(0)
