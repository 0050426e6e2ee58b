"""python -m kdutils list | plan | fetch | run | train | report | doctor | refresh | new | colab

Every command explains itself with --help. Errors are one sentence and a non-zero exit status.
"""

from __future__ import annotations

import argparse
import itertools
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from kdutils import __version__
from kdutils.core.errors import Paused, UserError, unknown
from kdutils.core.settings import PRESETS, parse_assignments

EXIT_ERROR, EXIT_PAUSED = 1, 75  # 75: try again later, as in sysexits.h

EPILOG = """\
examples
  python -m kdutils list
      the papers and their notebooks
  python -m kdutils list r_drop
      its experiments, arms and claims
  python -m kdutils plan r_drop --preset study
      what that would take: updates, memory, minutes on several machines
  python -m kdutils run r_drop --preset study --seeds 1 2 3 --set alpha=1
      the notebook by papermill, one process a seed, then one that puts them together
  python -m kdutils run r_drop cbbgca --preset small --seeds 1 2 3 --sweep alpha=1,2 --jobs 4 --dry-run
      what would run, what of it is finished, the minutes of the rest; without --dry-run: four at a time
  python -m kdutils run --all
      every notebook at the demo preset
  python -m kdutils fetch r_drop --preset study
      the data and models that it needs: fetched and checked beforehand
  python -m kdutils train r_drop --tasks translation --set data=/data/multi30k test_split=test_2016_flickr
      the same experiment without a notebook, on your own corpus
  accelerate launch -m kdutils train r_drop --preset study
      the same on several GPUs
  python -m kdutils report
      the results board, runs/report.html
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command; returns the exit status."""
    given = sys.argv[1:] if arguments is None else [*arguments]
    options = parser().parse_args(given, argparse.Namespace(given=given))
    try:
        options.command(options)
        sys.stdout.flush()
    except Paused as pause:
        print(pause, file=sys.stderr)
        return EXIT_PAUSED
    except UserError as error:
        print(f"kdutils: {' '.join(str(error).split())}", file=sys.stderr)
        return EXIT_ERROR
    except KeyboardInterrupt:
        print("Stopped. The same command goes on from the last checkpoint.", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python complains when it flushes
        return 141  # as a shell tells it of a program whose reader, such as head, has seen enough
    return 0


# --- commands ----------------------------------------------------------------------------------------------------


def list_papers(options: argparse.Namespace) -> None:
    from kdutils import runner

    for name in options.paper or runner.names():
        paper, notebook = runner.load(name), runner.notebook_of(name)
        print(f"{name}\n  {paper.TITLE}\n  {paper.CITATION}")
        print(f"  notebook    {notebook.relative_to(runner.HOME) if notebook else 'not beside this installation'}")
        for experiment in paper.EXPERIMENTS if options.paper else ():  # imports torch, which takes its time
            arms = (f"{arm.name}{' (where it is named)' if arm.optional else ''}" for arm in experiment.arms)
            print(f"  experiment  {experiment.name}: {', '.join(arms)}")
        for claim in paper.CLAIMS if options.paper else ():
            print(f"  claim {claim.id:5} {claim.statement}")
    if not options.paper:
        print("'list PAPER' tells a paper's experiments, arms and claims.")


def plan(options: argparse.Namespace) -> None:
    from kdutils import runner
    from kdutils.study.experiment import checked_seeds, resolve
    from kdutils.study.plan import planned, totals

    paper, seeds, plans = runner.load(options.paper), checked_seeds(options.seeds or [1, 2, 3]), []
    wanted = resolve(paper.EXPERIMENTS, options.preset, parse_assignments(options.set), options.tasks)
    for experiment in (one for one in paper.EXPERIMENTS if one.name in wanted):
        plans.append(planned(experiment, wanted[experiment.name], len(seeds), options.arms))
        print(plans[-1].text(), end="\n\n", flush=True)
    if len(plans) > 1:
        print("all experiments", *totals(plans), "", sep="\n")
    said = dict.fromkeys(words for one in plans for words in one.assumptions)
    print("What is taken for granted:", *said, sep="\n- ")


def run(options: argparse.Namespace) -> None:
    from kdutils import launch, runner

    if bool(options.paper) == options.all:
        raise UserError("Say which papers to run, for example 'run r_drop', or use --all, but not both.")
    runs = launch.chosen(options, runner.names() if options.all else options.paper)
    left = runner.countdown(options.max_minutes)

    def work(run: Any) -> None:
        named = run.paper, run.preset, options.seeds, run.changes, options.tasks, options.runs
        runner.execute(*named, left())

    _each(options, runs, left, work)
    if options.all and not options.dry_run:
        owned = {runner.notebook_of(name) for name in runner.names()}
        for notebook in runner.all_notebooks():
            if notebook not in owned:  # 00, last: it draws the board of what the others have left
                output = Path(options.runs) / notebook.stem / notebook.name
                runner.run_notebook(notebook, {"runs": str(Path(options.runs).resolve())}, output)


def train(options: argparse.Namespace) -> None:
    from kdutils import launch, runner
    from kdutils.core.processes import main_process
    from kdutils.study import results, running

    runs = launch.chosen(options, options.paper)
    left = runner.countdown(options.max_minutes)
    for run in runs if options.record else ():  # all that can be refused, before the first of them trains for days
        for (one, own), seed in itertools.product(run.experiments, run.seeds):
            key = {"paper": one.paper, "task": one.name, "preset": own.preset, "seed": seed}
            results.free_path({**key, "overrides": own.overrides}, options.results)

    def work(run: Any) -> None:
        for one, own in run.experiments:
            records = running.run(one, own, run.seeds, options.runs, options.arms, left())
            if main_process():
                _print_metrics(records, one.task.headline)
                for record in records if options.record else []:
                    print(f"recorded in {results.keep(record, options.results)}")

    _each(options, runs, left, work)


def fetch(options: argparse.Namespace) -> None:
    from kdutils import runner
    from kdutils.study import fetch as hub
    from kdutils.study.experiment import resolve

    changes, fetched = parse_assignments(options.set), False
    for paper in options.paper:
        experiments = {one.name: one for one in runner.load(paper).EXPERIMENTS}
        for task, settings in resolve(experiments.values(), options.preset, changes, options.tasks).items():
            needed = hub.needed(settings)
            print(f"{paper}, {task}, preset {settings.preset}", "" if needed else "needs nothing that is not here")
            for kind, address in needed:
                print(f"  {kind} {address}", end="", flush=True)
                print("" if kind == "folder" else f": {hub.fetch(kind, address)}", flush=True)
            print(f"  {hub.checked(experiments[task], settings)}" if needed else "", flush=True)
            fetched = fetched or any(kind != "folder" for kind, _ in needed)
    if fetched and "HF_HUB_OFFLINE" not in os.environ:
        command, offline = [sys.executable, "-m", "kdutils", *options.given], {**os.environ, "HF_HUB_OFFLINE": "1"}
        if subprocess.run(command, env=offline, stdout=subprocess.DEVNULL).returncode:
            raise UserError("What was fetched cannot be used without a network, for the reason that stands above.")
        print("All of it can be used without a network")


def report(options: argparse.Namespace) -> None:
    from kdutils import runner
    from kdutils.notebook import report as board

    claims = {name: runner.load(name).CLAIMS for name in runner.names()}
    print(f"The results board is {board.write_report(options.runs, options.results, claims)}")


def doctor(options: argparse.Namespace) -> None:
    from kdutils.core import machine

    if not machine.examine(options.runs):
        raise UserError("Something that is needed is missing: see the lines marked 'missing' above.")


def refresh(options: argparse.Namespace) -> None:
    from kdutils import runner

    notebooks = {notebook.stem[3:]: notebook for notebook in runner.all_notebooks()}  # by name, without the number
    for name in options.paper:
        if name not in notebooks:
            raise unknown("notebook", name, notebooks)
    for name in options.paper or notebooks:
        print(f"{notebooks[name].name}: executing", flush=True)
        runner.refresh(notebooks[name])


def new(options: argparse.Namespace) -> None:
    from kdutils.core.files import HOME
    from kdutils.core.scaffold import new_paper

    for file in new_paper(HOME, options.name, options.title):
        print(f"written: {file.relative_to(HOME)}")
    print(f"Try it: python -m kdutils train {options.name} --seeds 1 --runs runs/tiny --set updates=12 eval_every=4")
    print("Then make it the paper's own: README.md, 'A ninth paper', names the steps.")


def colab(options: argparse.Namespace) -> None:
    from kdutils.core.files import HOME
    from kdutils.core.setup import readdress

    changed = readdress(HOME, options.repository, options.revision)
    print("\n".join(f"written: {file.relative_to(HOME)}" for file in changed) or "Nothing had to be changed.")


def _each(
    options: argparse.Namespace, runs: Sequence[Any], left: Callable[[], float], work: Callable[[Any], None]
) -> None:
    """Shows several runs and does the work of each, after their seeds side by side where --jobs asks for it.

    One that fails does not keep the others; what failed is raised at the end.
    """
    from kdutils import launch
    from kdutils.core.processes import main_process

    if (options.dry_run or len(runs) > 1) and main_process():
        _show(runs, options.runs, options.dry_run)
    if options.dry_run:
        return
    units = {
        f"{run.name}, seed {seed}": run.command(options.command.__name__, [seed], options.runs)
        for run in runs
        if options.jobs > 1
        for *_, seed in run.left(options.runs)
    }
    codes = launch.side_by_side(units, options.jobs, left) if len(units) > 1 else {}
    failed = [name for name, code in codes.items() if code not in (0, EXIT_PAUSED)]
    paused = [name for name, code in codes.items() if code == EXIT_PAUSED]
    for run in runs:
        try:
            if not any(codes.get(f"{run.name}, seed {seed}") for seed in run.seeds):
                work(run)
        except UserError as error:
            if len(runs) == 1 or isinstance(error, Paused):
                raise
            print(f"[{run.name}] kdutils: {' '.join(str(error).split())}", file=sys.stderr, flush=True)
            failed.append(run.name)
    if failed:
        raise UserError(
            f"{len(failed)} failed ({'; '.join(failed)}): what was wrong stands above behind that name, and the same "
            "command goes on with what is left."
        )
    if paused:
        raise Paused(f"The time is over before {'; '.join(paused)}: the same command goes on.")


def _show(runs: Sequence[Any], folder: str, count: bool) -> None:
    """What will run, what of it is finished and, if they are counted, the minutes of the rest."""
    for run in runs:
        every, seeds = len(run.experiments) * len(run.seeds), " ".join(map(str, run.seeds))
        done = f"{every - len(run.left(folder))} of {every} finished"
        print(f"{run.name:{max(len(one.name) for one in runs)}}  seeds {seeds}, {done}", end="", flush=True)
        minutes = (f", {machine} {one:.1f}" for machine, one in run.minutes(folder).items()) if count else ()
        print("; minutes left:"[: 15 * count] + "".join(minutes).removeprefix(","), flush=True)


def _print_metrics(records: list[dict[str, Any]], headline: str) -> None:
    for record in records:
        for name, arm in record["arms"].items():
            found = arm["metrics"]
            wanted = [headline, *(key for key in found if key.startswith("test_") and key != headline), "minutes"]
            scores = {key: found[key] for key in wanted if key in found}
            shown = ", ".join(f"{key} {value:.4g}" for key, value in scores.items())
            print(f"{record['task']}, seed {record['seed']}, {name}: {shown}")


# --- arguments ---------------------------------------------------------------------------------------------------


def parser() -> argparse.ArgumentParser:
    """The parser of the command line, with its commands and their options."""
    parser = argparse.ArgumentParser(
        prog="python -m kdutils",
        description="Knowledge distillation in NLP: run the notebooks, train without them, report the results.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"kdutils {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    one = _command(
        commands, "list", list_papers, "the papers and their notebooks, or one paper's experiments and claims"
    )
    one.add_argument("paper", nargs="*", help="tell more of these")

    one = _command(commands, "plan", plan, "count what an experiment takes, and train nothing")
    one.add_argument("paper", help="the name of a paper, as 'list' shows it")
    _setting_options(one)
    one.add_argument("--preset", default="demo", help=f"{', '.join(PRESETS)} (default: demo)")
    one.add_argument("--arms", nargs="+", metavar="ARM", help="only these; by default all but ablations")

    one = _command(commands, "run", run, "execute notebooks with papermill")
    one.add_argument("paper", nargs="*", help="names of papers, as 'list' shows them")
    one.add_argument("--all", action="store_true", help="every notebook of the suite")
    _experiment_options(one)

    one = _command(commands, "train", train, "run the experiments of papers without a notebook")
    one.add_argument("paper", nargs="+", help="names of papers, as 'list' shows them")
    _experiment_options(one)
    one.add_argument("--arms", nargs="+", metavar="ARM", help="train only these; by default all but ablations")
    one.add_argument("--record", action="store_true", help="keep the results under --results, to be committed")
    one.add_argument("--results", default="results", metavar="FOLDER", help="recorded results (default: results)")

    one = _command(commands, "fetch", fetch, "fetch and check beforehand what experiments need from elsewhere")
    one.add_argument("paper", nargs="+", help="names of papers, as 'list' shows them")
    one.add_argument("--preset", default="demo", help=f"{', '.join(PRESETS)} (default: demo)")
    _setting_options(one)

    one = _command(commands, "report", report, "draw the results board from runs/ and results/")
    _runs_option(one)
    one.add_argument("--results", default="results", metavar="FOLDER", help="recorded results (default: results)")

    one = _command(commands, "doctor", doctor, "say what this machine can run, and what is missing")
    _runs_option(one)

    one = _command(commands, "refresh", refresh, "execute the committed notebooks again, in place")
    one.add_argument("paper", nargs="*", help="only these, by the names that 'list' shows")

    one = _command(commands, "new", new, "write a new paper that works at once: folder, tests, notebook")
    one.add_argument("name", help="of its module: small letters, digits and _, such as my_paper")
    one.add_argument("title", help="of the paper, in quotation marks")

    one = _command(commands, "colab", colab, "write another address and revision of the suite into every file")
    one.add_argument("repository", help="owner/name on GitHub")
    one.add_argument("--revision", default="main", help="a branch or a tag (default: main)")
    return parser


def _command(commands: Any, name: str, function: Any, text: str) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    parser.set_defaults(command=function)
    return parser


def _setting_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--tasks", nargs="+", metavar="TASK", help="only these experiments of the paper")
    parser.add_argument("--seeds", nargs="+", type=int, metavar="N", help="one run of every arm for each")
    parser.add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="NAME=VALUE",
        help="change settings: alpha=1, or classification.alpha=1 for one task",
    )  # fmt: skip


def _experiment_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--preset", action="append", help=f"{', '.join(PRESETS)} (default: demo); may be repeated")
    _setting_options(parser)
    parser.add_argument(
        "--sweep", action="append", default=[], metavar="NAME=VALUE,...",
        help="one run for each value, such as alpha=0.5,1,2; where it is repeated, for each combination",
    )  # fmt: skip
    parser.add_argument(
        "--dry-run", action="store_true",
        help="show what would run, what is finished and the minutes of the rest; counting takes up to a minute a line",
    )  # fmt: skip
    parser.add_argument(
        "--max-minutes", type=float, default=0.0, metavar="M",
        help="stop cleanly after so long (exit status 75); the same command then goes on",
    )  # fmt: skip
    parser.add_argument(
        "--jobs", type=int, default=1, metavar="N",
        help="train N seeds at a time, each in a process of its own and, where there are several, on a GPU of its own",
    )  # fmt: skip
    _runs_option(parser)


def _runs_option(parser: argparse.ArgumentParser) -> None:
    default = os.environ.get("KDUTILS_RUNS", "runs")
    parser.add_argument("--runs", default=default, metavar="FOLDER", help=f"where runs lie (default: {default})")


if __name__ == "__main__":
    sys.exit(main())
