"""The command line: its commands, its exit statuses, and one sentence for whatever a user gets wrong.

`call` runs it in this process; where it matters what is imported or printed by others, a process of its own does.
"""

from __future__ import annotations

import gzip
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from kdutils import __version__, runner
from kdutils.__main__ import _print_metrics, main
from kdutils.core.errors import Paused, UserError
from kdutils.core.files import read_json
from kdutils.core.settings import PRESETS
from kdutils.papers import r_drop
from kdutils.study import results
from tests.corpus_files import labelled, pairs, write

ROOT = Path(__file__).resolve().parents[1]
TINY = ["train_rows=60", "validation_rows=20", "test_rows=20", "updates=4", "warmup=2", "eval_every=2", "log_every=2",
        "checkpoint_every=3", "width=16", "layers=1", "heads=2", "feedforward=16"]  # fmt: skip
COMMANDS = ("list", "plan", "fetch", "run", "train", "report", "doctor", "refresh")


@pytest.fixture
def call(capsys, monkeypatch, tmp_path):
    """Calls the command line in an empty folder; returns (exit status, standard output, standard error)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("KDUTILS_RUNS", raising=False)

    def called(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        try:
            code = main(arguments)
        except SystemExit as stop:  # argparse
            code = stop.code
        return code, *capsys.readouterr()

    return called


@pytest.fixture
def refused(call):
    """Calls the command line with a mistake; returns the one sentence that it says."""

    def sentence(*arguments: str) -> str:
        code, _, err = call(*arguments)
        assert code == 1 and err.startswith("kdutils: ") and err.endswith(".\n"), err
        assert err.count("\n") == 1 and "Traceback" not in err and "Error:" not in err
        return err

    return sentence


def tiny_train(*changes: str, task: str = "translation", seeds=("1",)) -> list[str]:
    """The arguments of a training that takes a fraction of a second."""
    return ["train", "r_drop", "--tasks", task, "--seeds", *seeds, "--set", *TINY, *changes]


# --- help and usage ----------------------------------------------------------------------------------------------


def test_help_names_every_command_and_shows_examples(call):
    code, out, err = call("--help")
    assert (code, err) == (0, "")
    assert all(f"\n    {command} " in out for command in COMMANDS)
    assert "python -m kdutils run r_drop --preset study --seeds 1 2 3 --set alpha=1" in out
    assert max(map(len, out.splitlines())) < 120


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(call, command):
    code, out, err = call(command, "--help")
    assert (code, err) == (0, "")
    assert f"usage: python -m kdutils {command}" in out
    description = out.split("\n\n")[1]
    assert description.endswith(".") and len(description) > 15


def test_the_options_of_an_experiment_are_explained(call):
    for command in ("plan", "run", "train"):
        out = " ".join(call(command, "--help")[1].split())
        for words in (f"{', '.join(PRESETS)} (default: demo)", "classification.alpha=1 for one task"):
            assert words in out
        assert ("exit status 75" in out) == (command != "plan")
    assert "--record" in out and "--arms" in out


def test_the_default_folder_of_runs_is_shown(call, monkeypatch):
    assert "(default: runs)" in call("doctor", "--help")[1]
    monkeypatch.setenv("KDUTILS_RUNS", "elsewhere")
    assert "(default: elsewhere)" in call("doctor", "--help")[1]


def test_the_version_is_told(call):
    assert call("--version") == (0, f"kdutils {__version__}\n", "")


@pytest.mark.parametrize(
    "arguments",
    [
        [], ["trian"], ["train"], ["doctor", "extra"], ["report", "extra"], ["plan", "r_drop", "x"],
        ["train", "r_drop", "--seeds", "one"], ["train", "r_drop", "--seeds"], ["run", "r_drop", "--max-minutes", "x"],
        ["run", "r_drop", "--bogus"], ["train", "r_drop", "--tasks"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_what_is_no_command_at_all_shows_the_usage(call, arguments):
    code, out, err = call(*arguments)
    assert code == 2 and out == "" and err.startswith("usage: python -m kdutils")
    assert "error: " in err.splitlines()[-1]


def test_help_is_quick_because_nothing_heavy_is_imported():
    code = "import sys, kdutils.__main__ as m; m.parser(); print({'torch', 'transformers'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "set()\n", done.stderr


# --- mistakes ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["train", "run"])
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("r_drpo", "no paper 'r_drpo'. Did you mean 'r_drop'?"),
        ("r_drop --preset dmeo", f"no preset 'dmeo'. Did you mean 'demo'? Known: {', '.join(PRESETS)}."),
        ("r_drop --tasks translatoin", "no task 'translatoin'. Did you mean 'translation'?"),
        ("r_drop --set alpah=1", "no setting 'alpah'. Did you mean 'alpha'?"),
        ("r_drop --set translaton.alpha=1", "no task 'translaton'"),
        ("r_drop --tasks translation --set classification.alpha=1", "no task 'classification'"),
        ("r_drop --set alpha=big", "'alpha' takes a number, such as 1.0, not 'big'."),
        ("r_drop --set alpha=", "'alpha' takes a number"),
        ("r_drop --set updates=1.5", "'updates' takes a whole number"),
        ("r_drop --set updates=null", "'updates' takes a whole number"),
        ("r_drop --set alpha", "--set takes name=value, for example --set alpha=1, not 'alpha'."),
        ("r_drop --set =1", "--set takes name=value"),
        ("r_drop --seeds 1 1", "seeds must be different whole numbers"),
        ("r_drop --seeds -1", "seeds must be different whole numbers"),
        ("r_drop --max-minutes -1", "max_minutes must be 0, which means no limit, or more, not -1.0."),
        ("r_drop --max-minutes nan", "max_minutes must be 0"),
        ("r_drop --preset demo --preset dmeo", "no preset 'dmeo'"),
        ("r_drop x", "no paper 'x'"),
        ("r_drop --jobs 0", "--jobs is 0: it must be at least 1."),
        ("r_drop --sweep alpha", "--sweep takes a name once, with values, as in --sweep alpha=0.5,1,2, not 'alpha'."),
        ("r_drop --sweep =1,2", "not '=1,2'"),
        ("r_drop --sweep alpha=1,,2", "not 'alpha=1,,2'"),
        ("r_drop --sweep alpha=1 --sweep alpha=2", "takes a name once"),
        ("r_drop --set alpha=1 --sweep alpha=1,2", "alpha is both set and swept"),
        ("r_drop --sweep alpha=1,1.0", "'r_drop demo alpha=1.0' and 'r_drop demo alpha=1' are the same"),
        ("r_drop --sweep alpha=1,big", "'alpha' takes a number"),
        ("r_drop cbbgca --tasks translation --sweep alpha=1,-1", "alpha"),
    ],
)
def test_a_mistake_is_one_sentence_before_anything_runs(refused, command, arguments, words, tmp_path):
    assert words in refused(command, *arguments.split())
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_arm_is_refused_before_anything_trains(refused, tmp_path):
    assert "no arm 'rdrop'. Did you mean 'r_drop'?" in refused(*tiny_train(), "--arms", "baseline", "rdrop")
    assert list(tmp_path.iterdir()) == []


def test_run_wants_papers_or_all_of_them(refused):
    assert "or use --all, but not both" in refused("run")
    assert "or use --all, but not both" in refused("run", "r_drop", "--all")


def test_a_mistake_in_the_last_paper_is_found_before_the_first_runs(refused, monkeypatch):
    monkeypatch.setattr(runner, "execute", lambda *arguments: pytest.fail("it ran"))
    assert "no paper 'bogus'" in refused("run", "r_drop", "bogus")


@pytest.mark.parametrize("change", ["alpha=-1", "k=0", "m=1", "updates=0", "learning_rate=-1", "eval_every=-1"])
def test_a_value_that_cannot_be_is_refused_before_the_baseline_trains(refused, change, tmp_path):
    assert change.partition("=")[0] in refused(*tiny_train(change))
    assert not list(tmp_path.rglob("result.json"))


@pytest.mark.parametrize(
    ("change", "words"),
    [("heads=3", "cannot be divided among 3 heads"), ("vocab_size=3", "too small"), ("pair=en-xx", "Known: en, de"),
     ("test_split=foo", "no test split"), ("precision=fp8", "no precision 'fp8'"), ("schedule=x", "no schedule 'x'"),
     ("max_tokens=4", "more than max_tokens=4"), ("beams=0", "must be at least 1")],
)  # fmt: skip
def test_settings_that_do_not_fit_are_one_sentence(refused, change, words):
    assert words in refused(*tiny_train("vocab_size=400", change))


def test_data_that_is_not_there_or_damaged_is_one_sentence(refused, tmp_path):
    assert "There is no folder nowhere" in refused(*tiny_train("data=nowhere"))
    assert "is a file: give the folder" in refused(*tiny_train(f"data={__file__}"))
    whole = gzip.compress("\n".join(map(json.dumps, pairs(400))).encode())
    for split, content in {"train": whole[: len(whole) // 2], "validation": whole, "test": whole}.items():
        (tmp_path / "cut").mkdir(exist_ok=True)
        (tmp_path / f"cut/de-en.{split}.jsonl.gz").write_bytes(content)
    assert "train.jsonl.gz is cut off after line" in refused(*tiny_train("data=cut"))


def test_data_without_the_columns_names_those_it_has(refused, tmp_path):
    for split in ("train", "validation", "test"):
        write(tmp_path / f"other/{split}.jsonl", [{"sentence": "a b", "mood": 1}] * 4)
    assert "has the columns" in refused(*tiny_train("data=other", task="classification"))


def test_the_hub_without_a_network_says_what_to_do(refused):
    assert "the hub cannot be reached" in refused(*tiny_train("data=hub:owner/nothing"))
    assert "must look like hub:owner/name" in refused(*tiny_train("data=hub:nothing"))


def test_a_file_in_the_way_of_the_runs_is_one_sentence(refused, tmp_path):
    (tmp_path / "runs").write_text("")
    assert "a file stands in its way" in refused(*tiny_train("vocab_size=400"))
    (tmp_path / "results").mkdir()
    assert "a file stands in its way" in refused("report")


def test_errors_of_several_lines_become_one(call, monkeypatch):
    def fail():
        raise UserError("First.\n  Second.\n")

    monkeypatch.setattr(runner, "names", fail)
    assert call("list") == (1, "", "kdutils: First. Second.\n")


def test_pauses_and_interruptions_have_their_own_status(call, monkeypatch):
    def stop(error):
        raise error

    monkeypatch.setattr(runner, "names", lambda: stop(Paused("Paused: run the same again.")))
    assert call("list") == (75, "", "Paused: run the same again.\n")
    monkeypatch.setattr(runner, "names", lambda: stop(KeyboardInterrupt()))
    code, _, err = call("list")
    assert code == 130 and err.count("\n") == 1


# --- the commands ------------------------------------------------------------------------------------------------


def test_a_reader_that_has_seen_enough_is_no_error():
    command = [sys.executable, "-m", "kdutils", "list"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        child.stdout.close()
        assert child.stderr.read() == ""
    assert child.returncode == 141


def test_list_shows_papers_notebooks_experiments_and_claims(call):
    code, out, err = call("list")
    assert (code, err) == (0, "")
    assert r_drop.TITLE in out and "notebooks/03_r_drop.ipynb" in out and "baseline" not in out
    code, out, err = call("list", "r_drop")
    assert (code, err) == (0, "") and r_drop.TITLE in out and "notebooks/03_r_drop.ipynb" in out
    assert "translation: baseline, baseline_2x, r_drop" in out
    assert all(f"claim {claim.id} " in out and claim.statement in out for claim in r_drop.CLAIMS)


def test_plan_counts_and_writes_nothing(call, tmp_path):
    code, out, err = call("plan", "r_drop", "--seeds", "1", "2", "--set", *TINY, "vocab_size=400")
    assert (code, err) == (0, "") and list(tmp_path.iterdir()) == []
    for words in ("translation, preset demo", "classification, preset demo", "all experiments", "2 seeds, minutes: T4 ",
                  "here ", "main memory", "\n- Data: demo: counted.", "\n- A GPU reaches 25 %"):  # fmt: skip
        assert words in out
    lines = [line.split() for line in out.splitlines() if line.startswith("baseline_2x ")]
    assert [line[1] for line in lines] == ["8", "8"]  # twice the updates


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("r_drpo", "no paper 'r_drpo'"),
        ("r_drop --preset dmeo", "no preset 'dmeo'"),
        ("r_drop --tasks translatoin", "no task 'translatoin'"),
        ("r_drop --seeds 1 1", "seeds must be different whole numbers"),
        ("r_drop --tasks translation --arms rdrop", "no arm 'rdrop'. Did you mean 'r_drop'?"),
        ("r_drop --tasks translation --set data=hub:owner/unheard", "The size of 'owner/unheard' is not known here"),
    ],
)
def test_a_mistake_in_a_plan_is_one_sentence(refused, arguments, words):
    assert words in refused("plan", *arguments.split())


def test_run_passes_everything_on(call, monkeypatch):
    seen = []
    monkeypatch.setattr(runner, "execute", lambda *arguments: seen.append(arguments))
    command = "run r_drop --preset study --seeds 1 2 --set alpha=1 k=2 --set m=3 --tasks translation --runs there"
    assert call(*command.split(), "--max-minutes", "5") == (0, "", "")
    changes = {"alpha": "1", "k": "2", "m": "3"}
    assert seen == [("r_drop", "study", [1, 2], changes, ["translation"], "there", 5.0)]


@pytest.fixture
def children(monkeypatch):
    """Stands for the processes that --jobs starts: ends with the status that `codes` has for a seed, and counts."""
    started, codes = [], {}

    def side_by_side(commands, jobs, left):
        started.append((jobs, commands, left()))
        return {name: codes.get(name, 0) for name in commands}

    monkeypatch.setattr("kdutils.launch.side_by_side", side_by_side)
    return started, codes


@pytest.mark.parametrize("verb", ["run", "train"])
def test_seeds_of_several_jobs_have_a_process_each_and_are_put_together(call, monkeypatch, children, verb):
    together, (started, _) = [], children
    monkeypatch.setattr(runner, "execute", lambda *arguments: together.append(arguments[2]))
    monkeypatch.setattr("kdutils.study.running.run", lambda *arguments: together.append(arguments[2]) or [])
    options = "--tasks translation --set k=2 --sweep alpha=1,3 --preset study --preset demo --runs there"
    command = (verb, "r_drop", "--seeds", "1", "2", *options.split())
    code, out, err = call(*command, "--jobs", "2", "--max-minutes", "7")
    assert (code, err) == (0, "") and together == [[1, 2]] * 4
    ((jobs, commands, left),) = started
    names = [f"r_drop {preset} alpha={alpha}" for preset in ("study", "demo") for alpha in (1, 3)]
    assert [line.split("  ")[0] for line in out.splitlines()] == names
    assert all(line.endswith("  seeds 1 2, 0 of 2 finished") for line in out.splitlines())
    assert list(commands) == [f"{name}, seed {seed}" for name in names for seed in (1, 2)]
    assert jobs == 2 and 6 < left <= 7
    one = commands["r_drop study alpha=3, seed 2"]
    assert one[:8] == [verb, "r_drop", "--preset", "study", "--seeds", "2", "--runs", "there"]
    assert one[8:10] == ["--tasks", "translation"] and one[-3:] == ["--set", "k=2", "alpha=3"] and "--jobs" not in one
    started.clear()
    assert call(*command)[0] == 0 and started == []


def test_one_that_fails_does_not_keep_the_others_and_is_named_at_the_end(call, monkeypatch, children):
    done, (_, codes) = [], children
    monkeypatch.setattr("kdutils.study.running.run", lambda *arguments: done.append(arguments[1].alpha) or [])
    command = [
        "train",
        "r_drop",
        "--tasks",
        "translation",
        "--seeds",
        "1",
        "2",
        "--sweep",
        "alpha=1,2,3",
        "--jobs",
        "2",
    ]
    codes["r_drop demo alpha=1, seed 2"] = 1
    code, _, err = call(*command)
    assert code == 1 and done == [2.0, 3.0] and err.count("\n") == 1
    assert err.startswith("kdutils: 1 failed (r_drop demo alpha=1, seed 2): what was wrong stands above")
    codes["r_drop demo alpha=1, seed 2"] = 75
    code, _, err = call(*command)
    assert code == 75 and err.startswith("The time is over before r_drop demo alpha=1, seed 2: the same command goes")


def test_one_that_fails_without_jobs_does_not_keep_the_others_either(call, monkeypatch):
    def train(experiment, settings, *rest):
        if settings.alpha == 1:
            raise UserError("This one fails.")
        return done.append(settings.alpha) or []

    done = []
    monkeypatch.setattr("kdutils.study.running.run", train)
    code, _, err = call(*["train", "r_drop", "--tasks", "translation", "--sweep", "alpha=1,2"])
    assert code == 1 and done == [2.0]
    assert err.startswith("[r_drop demo alpha=1] kdutils: This one fails.\nkdutils: 1 failed (r_drop demo alpha=1): ")


def test_a_dry_run_tells_the_minutes_of_what_is_left_and_writes_nothing(call, monkeypatch, tmp_path):
    monkeypatch.setattr("kdutils.study.running.run", lambda *arguments: pytest.fail("it ran"))
    code, out, err = call(*tiny_train(seeds=("1", "2")), "--sweep", "alpha=1,2", "--arms", "baseline", "--dry-run")
    assert (code, err) == (0, "") and list(tmp_path.iterdir()) == []
    first, second = out.splitlines()
    times = "".join(rf", {name} \d+\.\d" for name in ("here", "T4", "L4", "A100", "H100"))
    for line, alpha in ((first, 1), (second, 2)):
        assert re.fullmatch(rf"r_drop demo alpha={alpha}  seeds 1 2, 0 of 2 finished; minutes left:{times[1:]}", line)


def test_what_a_notebook_does_by_itself_is_what_run_shows(call, monkeypatch):
    monkeypatch.setattr(runner, "execute", lambda *arguments: None)
    code, out, err = call("run", "r_drop", "self_distillation", "--preset", "study", "--runs", "there")
    own = [runner.own_parameters(name) for name in ("r_drop", "self_distillation")]
    assert [one["tasks"] for one in own] == [["translation"], ["classification"]]
    assert (code, err) == (0, "") and len(out.splitlines()) == 2
    for line, one in zip(out.splitlines(), own, strict=True):
        assert line.endswith(f"  seeds {' '.join(map(str, one['seeds']))}, 0 of {len(one['seeds'])} finished")


def test_run_all_ends_with_the_map_of_the_suite(call, monkeypatch, tmp_path):
    seen, papers = [], [runner.notebook_of(name).name for name in runner.names()]
    monkeypatch.setattr(runner, "HOME", tmp_path)
    (tmp_path / "notebooks").mkdir()
    for name in ("00_start_here.ipynb", *papers):
        shutil.copy(ROOT / "notebooks" / name, tmp_path / "notebooks")
    monkeypatch.setattr(
        runner, "run_notebook", lambda notebook, parameters, output: seen.append((notebook.name, output))
    )
    assert call("run", "--all")[0] == 0
    assert [name for name, _ in seen] == [*papers, "00_start_here.ipynb"]
    assert seen[-1][1] == Path("runs/00_start_here/00_start_here.ipynb")


def test_refresh_takes_names_and_refuses_others(call, refused, monkeypatch, tmp_path):
    seen = []
    monkeypatch.setattr(runner, "HOME", tmp_path)
    (tmp_path / "notebooks").mkdir()
    for name in ("00_start_here.ipynb", "03_r_drop.ipynb", "07_distillation.ipynb", "08_self_distillation.ipynb"):
        (tmp_path / "notebooks" / name).write_text("")
    monkeypatch.setattr(runner, "refresh", lambda notebook: seen.append(notebook.name))
    assert "no notebook 'drop'. Did you mean 'r_drop'?" in refused("refresh", "distillation", "drop")
    assert seen == []
    assert call("refresh", "distillation", "start_here")[0] == 0
    assert seen == ["07_distillation.ipynb", "00_start_here.ipynb"]
    seen.clear()
    code, out, err = call("refresh")
    assert (code, err) == (0, "") and out.count(": executing\n") == 4
    assert seen == sorted(path.name for path in (tmp_path / "notebooks").iterdir())


def test_doctor_fails_where_something_is_missing(call, tmp_path):
    code, out, err = call("doctor")
    assert code == 0 and err == "" and "runs can be written" in out
    (tmp_path / "file").write_text("")
    code, out, err = call("doctor", "--runs", "file")
    assert code == 1 and "missing  runs folder" in out
    assert err.startswith("kdutils: ") and err.count("\n") == 1


def test_report_without_folders_says_how_to_begin(refused):
    assert "python -m kdutils run r_drop" in refused("report")


# --- what is fetched ---------------------------------------------------------------------------------------------


def test_what_needs_nothing_from_elsewhere_says_so(call):
    code, out, err = call("fetch", "r_drop", "distilbert")
    assert (code, err) == (0, "") and out.split("\n\n")[0] == (
        "r_drop, translation, preset demo needs nothing that is not here"
    )
    assert out.count("needs nothing that is not here") == 3


def test_a_folder_is_checked_for_files_columns_and_rows(call, refused, classification_folder):
    few = ["validation_rows=5", "test_rows=6", "vocab_size=100"]
    command = ["fetch", "r_drop", "--tasks", "classification", "--set", f"data={classification_folder}", *few]
    code, out, err = call(*command, "train_rows=30")
    assert (code, err) == (0, "") and f"  folder {classification_folder}\n" in out
    assert "  train 30, validation 5, test 6 rows of text, label\n" in out
    assert "has 40 training rows, where 50 are asked for: set train_rows to fewer" in refused(*command, "train_rows=50")
    assert "no paper 'x'" in refused("fetch", "r_drop", "x")
    (classification_folder / "train.jsonl").write_text('{"words": "a", "label": 1}\n')
    assert "has the columns words, label" in refused(*command, "train_rows=0")
    (classification_folder / "train.jsonl").unlink()
    assert "has no train split" in refused(*command, "train_rows=0")


def test_without_a_network_the_sentence_says_what_is_missing(refused):
    assert "stanfordnlp/sst2 is not in the cache" in refused(
        "fetch", "r_drop", "--preset", "study", "--tasks", "classification"
    )


def test_what_is_needed_of_the_hub_is_found_in_all_settings():
    from kdutils.study.experiment import resolve
    from kdutils.study.fetch import needed

    def of(paper, preset, changes=None):
        found = resolve(runner.load(paper).EXPERIMENTS, preset, changes)
        return sorted({each for settings in found.values() for each in needed(settings)})

    assert of("r_drop", "demo") == of("tutor_kd", "demo") == of("lssd", "demo") == []
    assert of("r_drop", "study") == [
        ("data set", "hub:bentrevett/multi30k"), ("data set", "hub:stanfordnlp/sst2"), ("model", "bert-base-uncased")
    ]  # fmt: skip
    assert of("distilbert", "small") == [("data set", "hub:clinc/clinc_oos/plus")]  # with its exam about word order
    found = of("distilbert", "paper")
    assert ("data set", "hub:rajpurkar/squad") in found and ("data set", "hub:nyu-mll/glue/cola") in found
    pairs = of("lssd", "small")
    assert pairs and all(kind == "data set" and "{pair}" not in one and "opus-100/" in one for kind, one in pairs)


def test_a_set_of_the_hub_is_fetched_told_and_opened_without_a_network(call, monkeypatch, tmp_path):
    """A pretend hub: what it serves lies in a folder, and goes into the library's own cache."""
    import datasets
    import huggingface_hub

    for split, count in (("train", 40), ("validation", 6), ("test", 6)):
        write(tmp_path / f"mood/{split}.jsonl", labelled(count))
    cache, load = tmp_path / "cache", datasets.load_dataset
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", cache)
    monkeypatch.setenv("HF_DATASETS_CACHE", str(cache))
    monkeypatch.delenv("HF_HUB_OFFLINE")
    asked = []

    def serve(path, config, revision=None):
        asked.append(path)
        if not (cache / "someone___mood").exists():
            load(str(tmp_path / "mood"))
            (cache / "mood").rename(cache / "someone___mood")
        return load(str(tmp_path / "mood"))

    class Api:
        def dataset_info(self, name, **options):
            files = [SimpleNamespace(rfilename="train.jsonl", size=2_500_000)]
            return SimpleNamespace(siblings=files, card_data=SimpleNamespace(license="cc0-1.0"))

    monkeypatch.setattr(datasets, "load_dataset", serve)
    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    changes = ["data=hub:someone/mood", "train_rows=30", "validation_rows=0", "test_rows=0", "vocab_size=100"]
    command = ["fetch", "r_drop", "--tasks", "classification", "--set", *changes]
    code, out, err = call(*command)
    assert code == 0 and "kdutils: " not in err  # where the library draws its bars
    assert out.splitlines() == [
        "r_drop, classification, preset demo ",
        "  data set hub:someone/mood: up to 2.5 MB, licence: cc0-1.0",
        "  train 30, validation 6, test 6 rows of text, label",
        "All of it can be used without a network",
    ]
    (cache / "someone___mood").rename(cache / "lost")
    monkeypatch.setattr("kdutils.study.fetch.load_from_hub", lambda *arguments: None)
    monkeypatch.setattr("kdutils.study.fetch.checked", lambda *arguments: "fine")
    code, out, err = call(*command)  # the process without a network finds nothing
    assert code == 1 and "What was fetched cannot be used without a network" in err


# --- training, for real ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A folder with runs/ and results/ of two seeds of both tasks, recorded by the command line."""
    place = tmp_path_factory.mktemp("trained")
    folders = ["--runs", str(place / "runs"), "--results", str(place / "results")]
    assert main([*tiny_train(seeds=("1", "2")), *folders, "--record"]) == 0
    assert main([*tiny_train(task="classification"), *folders, "--record"]) == 0
    return place


def folders_of(trained: Path) -> list[str]:
    return ["--runs", str(trained / "runs"), "--results", str(trained / "results")]


def test_a_finished_training_is_loaded_and_its_metrics_printed(call, trained):
    code, out, err = call(*tiny_train(seeds=("1", "2")), *folders_of(trained))
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert sum("loaded from" in line for line in lines) == 2
    for seed in (1, 2):
        for arm in ("baseline", "baseline_2x", "r_drop"):
            (line,) = [line for line in lines if line.startswith(f"translation, seed {seed}, {arm}: ")]
            assert re.search(r": test_bleu \d\S*, test_loss \d.*, minutes 0\.\d+$", line)


def test_the_headline_of_every_task_stands_first(capsys):
    for name in runner.names():
        for experiment in runner.load(name).EXPERIMENTS:
            headline = experiment.task.headline
            metrics = {"test_loss": 1.0, "test_chrf": 2.0, "latency_ms": 3.0, "minutes": 0.5, headline: 71.25}
            _print_metrics([{"task": experiment.name, "seed": 1, "arms": {"one": {"metrics": metrics}}}], headline)
            expected = f"{experiment.name}, seed 1, one: {headline} 71.25, test_loss 1, test_chrf 2, minutes 0.5\n"
            assert capsys.readouterr().out == expected


def test_a_pretrained_start_is_printed_with_what_it_changes(call, trained, tmp_path):
    (place,) = (trained / "runs/r_drop").glob("classification-*/seed-1/baseline/model")
    code, out, err = call(*tiny_train(f"model={place}", task="classification"), "--arms", "baseline")
    assert (code, err) == (0, "")
    assert out.count("classification: A pretrained start has values of its own: learning_rate = 5e-05, ") == 1
    code, out, _ = call(*tiny_train(task="classification"), *folders_of(trained))
    assert code == 0 and "pretrained" not in out


def test_what_is_recorded_is_what_was_run(trained):
    store = results.recorded("r_drop", trained / "results")
    assert [(one["task"], one["seed"]) for one in store] == [
        ("classification", 1),
        ("translation", 1),
        ("translation", 2),
    ]
    for one in store:
        (ran,) = (trained / "runs/r_drop").glob(f"{one['task']}-demo-*/seed-{one['seed']}/record.json")
        original = read_json(ran)
        assert one["settings"] == original["settings"] and one["provenance"] == original["provenance"]
        for name, arm in one["arms"].items():
            assert arm["metrics"] == original["arms"][name]["metrics"]
            assert arm["history"] == results.thinned(original["arms"][name]["history"])
    swept = [name.partition("=")[0] for name in TINY]
    assert [one["seed"] for one in results.for_claim(swept, store, "translation", "demo")] == [1, 2]
    assert results.for_claim(["alpha"], store, "translation", "demo") == []


def test_a_record_is_not_replaced_and_that_is_said_before_the_training(refused, trained):
    (before,) = (trained / "results").rglob("classification*.json")
    content = before.read_bytes()
    assert "is recorded already" in refused(*tiny_train(task="classification"), *folders_of(trained), "--record")
    elsewhere = ["--runs", str(trained / "other runs"), "--results", str(trained / "results"), "--record"]
    assert "is recorded already" in refused(*tiny_train(task="classification", seeds=("3", "1")), *elsewhere)
    assert before.read_bytes() == content and not (trained / "other runs").exists()


def test_a_paused_training_goes_on_with_the_same_command(call):
    command = [*tiny_train("updates=12"), "--arms", "baseline", "--max-minutes"]
    code, _, err = call(*command, "0.00001")
    assert code == 75 and err.startswith("Paused baseline, seed 1 after update 1 of 12") and err.count("\n") == 1
    code, out, err = call(*command, "5")
    assert (code, err) == (0, "") and "translation, seed 1, baseline: test_bleu" in out


def test_one_time_limit_holds_for_all_experiments(call, monkeypatch):
    limits, now = [], [0.0]
    monkeypatch.setattr(runner.time, "monotonic", lambda: now[0])

    def train(experiment, settings, seeds, folder, arms, max_minutes):
        limits.append(max_minutes)
        now[0] += 60
        return []

    monkeypatch.setattr("kdutils.study.running.run", train)
    assert call("train", "r_drop", "--max-minutes", "1.5")[0] == 0
    assert limits == [1.5, 0.5]


def test_the_report_shows_what_was_trained_once(call, trained):
    status = {"notebook": "03_r_drop.ipynb", "status": "paused", "minutes": 0.2, "error": "Paused <b>."}
    (trained / "runs/r_drop/demo-1").mkdir(parents=True, exist_ok=True)
    (trained / "runs/r_drop/demo-1/03_r_drop.status.json").write_text(json.dumps(status))
    code, out, err = call("report", *folders_of(trained))
    assert (code, err) == (0, "") and out == f"The results board is {trained / 'runs/report.html'}\n"
    page, text = (trained / "runs/report.html").read_text(), (trained / "runs/report.md").read_text()
    assert "Records: 3, in groups of equal settings: 2." in text  # a run and its record are one
    assert "baseline (2 seeds)" in text and "test BLEU" in text and "test accuracy" in text
    assert all(f"| {claim} |" in text for claim in ("R1", "R1g"))
    assert "| R6a |" not in text  # a sweep that runs with changed settings did not do is no news
    assert "paused" in text and "Paused &lt;b&gt;" in page
    assert "Files that could not be read" not in text and "Traceback" not in page


WITHOUT_JUPYTER = """
import sys
FORBIDDEN = {"IPython", "papermill", "nbformat", "nbclient", "ipykernel", "ipywidgets", "datasets"}

class Forbid:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in FORBIDDEN:
            raise ImportError(f"{name} is not to be imported")

sys.meta_path.insert(0, Forbid())
from kdutils.__main__ import main
codes = [main(arguments) for arguments in __import__("json").loads(sys.argv[1])]
print("codes", codes, sorted(FORBIDDEN & {name.partition(".")[0] for name in sys.modules}))
"""


def test_training_needs_no_jupyter_and_no_datasets(tmp_path, translation_folder, classification_folder):
    few = ["--arms", "r_drop", "--runs", str(tmp_path / "runs"), "--results", str(tmp_path / "results")]
    commands = [
        [*tiny_train(), *few, "--record"],
        [*tiny_train(task="classification"), *few],
        [*tiny_train(f"data={translation_folder}", "pair=de-en"), *few],
        [*tiny_train(f"data={classification_folder}", task="classification"), *few],
        ["report", *few[2:]],
        ["run", "r_drop", *few[2:4]],
    ]
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_JUPYTER, json.dumps(commands)], cwd=ROOT, capture_output=True, text=True
    )
    lines = done.stdout.splitlines()
    assert lines[-1] == "codes [0, 0, 0, 0, 0, 1] []", done.stderr
    assert sum(", r_drop: test_" in line for line in lines) == 4 and "recorded in" in done.stdout
    # 'run' alone wants papermill, and all that was said on the standard error is that
    assert done.stderr.startswith("kdutils: Notebooks are executed by papermill") and done.stderr.count("\n") == 1
