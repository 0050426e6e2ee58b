"""Downstream exams: a pre-trained encoder is fine-tuned on tasks of classes or scores, and the points are averaged.

>>> scores = examine("runs/.../student/model", settings, seed=1, folder=Path("runs/.../student"))
>>> scores["exam_macro"]                                       # points, the plain mean over the tasks

The tasks, and how long and how fast they are learnt, are settings (`SETTINGS`), the same for every model. Each
task's weights are chosen on its validation split; its test split is looked at once.
"""

from __future__ import annotations

import functools
import statistics
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from kdutils.core.errors import UserError
from kdutils.core.files import digest
from kdutils.core.settings import Setting, Settings, Table
from kdutils.data.corpora import ORDER, Corpus, list_corpora, load_corpus
from kdutils.models import build
from kdutils.study import kept
from kdutils.study.measures import Record, Values, value
from kdutils.study.running import tested
from kdutils.tasks.classification import Classification
from kdutils.tasks.regression import Regression
from kdutils.training.method import Method, SquaredError

GLUE = [f"hub:nyu-mll/glue/{name}" for name in ("sst2", "mrpc", "cola", "rte")]
ALL_OF_GLUE = [f"hub:nyu-mll/glue/{n}" for n in ("cola", "mnli", "mrpc", "qnli", "qqp", "rte", "sst2", "wnli")]
SETTINGS = (
    Setting("downstream", ["demo:acceptability"], GLUE, ALL_OF_GLUE,
            "classification tasks of the exam, each named as `data` is"),
    Setting("downstream_rows", 400, 3000, 0, "training rows a task; 0: all"),
    Setting("downstream_test_rows", 600, 0, 0, "test rows a task; 0: all"),
    Setting("downstream_epochs", 4, 3, 3, "epochs of a fine-tuning"),
    Setting("downstream_learning_rate", 1e-3, 3e-5, 3e-5, "its peak learning rate; linear warm-up and decay",
            pretrained=5e-5),
    Setting("downstream_batch", 16, 32, 32, "rows a batch"),
    Setting("downstream_max_length", 48, 128, 128, "tokens a text or pair; longer ones are cut"),
    Setting("downstream_dropout", 0.1, 0.1, 0.1, "dropout rate"),
    Setting("downstream_seeds", 1, 1, 5, "fine-tunings a task, of which the median counts"),
)  # fmt: skip
# the score that a task is known by; "" for the others
MEASURES = {"": ("accuracy",), "cola": ("matthews",), "mrpc": ("accuracy", "f1"), "qqp": ("accuracy", "f1")}


# points of always answering the commonest class of the test split, where there are not two classes of equal size; of
# CLINC150's 5500 test rows on the hub ("plus") 1000 are out of scope, which is a class of its own there
CHANCE = {"clinc150": 0.7, "plus": 18.2, "trec": 27.6, "ag_news": 25.0, "mnli": 35.4, "mrpc": 73.2, "cola": 0.0}
SHORTEST = 8  # tokens: less than that is no text
# the scores of a fine-tuning, and what they begin with in its metrics: of the weights that the validation chose, of
# the last ones, and those that settings may be chosen by
VIEWS = {"": "test_", "last_": "last_test_", "validation_": "validation_"}

MethodOf = Callable[[str, int], Method]  # (name of the task, number of the fine-tuning) -> how to fine-tune


class Exam(Classification):
    """A downstream task; of the demo corpus it may take the short sentences only, as the pre-training did."""

    measures: dict[str, tuple[str, ...]] = MEASURES
    method: type[Method] = Method  # of a fine-tuning without a teacher

    settings_table = Table(
        *(replace(setting, pretrained=None) for setting in Classification.settings_table.settings.values()),
        Setting("max_words", 0, 0, 0, "of the demo corpus: longest text in words; 0: any"),
    )  # every exam starts from a pretrained model, and `exam_settings` says how it learns

    def _load(self) -> Corpus:
        s, rows = self.settings, tuple(self._rows().items())
        return _corpus(s.data, self.name, s.language, rows, s.test_split, s.data_seed, s.max_words)


class ScoreExam(Exam, Regression):
    """A downstream task that asks for a score, as STS-B; graded by both correlations, as in GLUE."""

    measures, method = {"": ("pearson", "spearman")}, SquaredError


@functools.lru_cache(maxsize=8)  # every arm and every seed sits the same exam
def _corpus(data: str, task: str, language: str, rows: tuple, test_split: str, seed: int, max_words: int) -> Corpus:
    options = {"language": language, "rows": dict(rows), "test_split": test_split}
    return load_corpus(data, task, **options, seed=seed, max_words=max_words)


def exam_class(source: str) -> type[Exam]:
    """ScoreExam for STS-B, and for a folder with a "score" in place of a "label"; Exam for all else."""
    folder = Path(source).expanduser()
    beside = list_corpora(folder.parent) if folder.is_dir() and source != "demo" else ()
    scored = [entry["name"] for entry in beside if entry["task"] == "regression"]
    return ScoreExam if folder.name in scored or task_name(source) == "stsb" else Exam


def check(settings: Settings) -> None:
    """Raises UserError for an exam that cannot be held: no task, two of one name, a corpus that cannot be read."""
    names = [task_name(source) for source in settings.downstream]
    if not names:
        raise UserError("downstream is empty: name at least one classification task for the exam.")
    if len(set(names)) < len(names):
        raise UserError(f"Two tasks of the exam are called alike ({', '.join(names)}): rename one of the folders.")
    for name in ("downstream_epochs", "downstream_batch", "downstream_seeds"):
        if settings[name] < 1:
            raise UserError(f"{name} is {settings[name]}: it must be at least 1.")
    if not 0 <= settings.downstream_dropout < 1:  # so that NaN is refused too
        raise UserError(f"downstream_dropout is {settings.downstream_dropout}: choose a rate from 0 to below 1.")
    if not settings.downstream_learning_rate >= 0 or settings.downstream_max_length < SHORTEST:
        raise UserError(f"The exam needs a learning rate of at least 0 and a max_length of at least {SHORTEST}.")
    for source in settings.downstream:
        exam_class(source).load(exam_settings("", source, settings))


def examine(
    model: str | Path, settings: Settings, seed: int, folder: Path, prefix: str = "exam_",
    method: MethodOf | None = None, keep: bool = False, until: float | None = None,
) -> dict[str, float]:  # fmt: skip
    """{"<prefix><task>": points, "<prefix>macro": their mean} of the model in the folder `model`, 0 to 100.

    The same with "last_" before it by the last weights of the fine-tunings, and with "validation_" on that split.
    A task's points are its median over `downstream_seeds` fine-tunings; accuracy, or Matthews' correlation (CoLA), or
    the mean of F1 and accuracy (MRPC, QQP), or that of Pearson's and Spearman's correlation (STS-B and other scores),
    times 100. A finished fine-tuning is loaded, an interrupted one goes on. method: how to fine-tune; None: by the
    labels alone. keep: the fine-tuned models stay, for `finetuned`. Raises UserError for data that cannot be used,
    Paused.
    """
    points, numbers = {}, range(settings.downstream_seeds)
    tasks = {task_name(one): functools.partial(exam_task, model, one, settings) for one in settings.downstream}
    for name, task in tasks.items():
        found = [finetune(task, name, settings, seed, one, folder, prefix, method, keep, until) for one in numbers]
        for view in VIEWS:
            points[f"{view}{prefix}{name}"] = statistics.median(points_of(name, metrics, view) for metrics in found)
    means = {view: statistics.fmean(points[f"{view}{prefix}{name}"] for name in tasks) for view in VIEWS}
    return {**points, **{f"{view}{prefix}macro": mean for view, mean in means.items()}}


def finetuned(folder: Path, name: str, number: int, prefix: str = "exam_", kind: str = Exam.kind) -> PreTrainedModel:
    """The model that an exam with `keep` has fine-tuned, in evaluation mode."""
    own = finetuning_folder(folder, prefix, name, number)
    if not (own / "model").exists():
        raise UserError(f"There is no fine-tuned model in {own}: train that arm first, or all arms together.")
    return kept.load(own, kind)


def finetuning_folder(folder: Path, prefix: str, name: str, number: int) -> Path:
    return folder / "downstream" / f"{prefix}{name}-{number}"


def above_chance(records: Sequence[Record], arm: str) -> Values:
    """The `exam_macro` of an arm minus what guessing would get, seed by seed, in points."""
    sources = {record["seed"]: record["settings"]["downstream"] for record in records}
    chance = {seed: statistics.fmean(CHANCE.get(task_name(one), 50.0) for one in s) for seed, s in sources.items()}
    return {seed: score - chance[seed] for seed, score in value(records, arm, "exam_macro").items()}


def _test_split(source: str) -> str:
    """MNLI has two validation splits, and on the hub no labels for its test splits."""
    has_several = source.startswith("hub:") or any(Path(source).glob("validation_matched.*"))
    return "validation_matched" if task_name(source) == "mnli" and has_several else "test"


def task_name(source: str) -> str:
    """What a task is called in results: the last part of its folder, or of its name on the hub; "..._order"."""
    plain = str(source).removeprefix(ORDER)
    name = Path(plain.replace("demo:", "").removeprefix("hub:").partition("@")[0]).name
    return name if plain == str(source) else f"{name}_order"


def exam_task(model: str | Path, source: str, settings: Settings, exam: type[Exam] | None = None) -> Exam:
    """A downstream task with the tokenizer of a model; texts are cut to what the model has positions for."""
    exam = exam or exam_class(source)
    chosen = exam_settings(model, source, settings, exam)
    positions = getattr(build.load_config(str(model)), "max_position_embeddings", chosen.max_length)
    return exam(chosen.changed(max_length=min(chosen.max_length, positions)))


def exam_settings(model: str | Path, source: str, settings: Settings, exam: type[Exam] = Exam) -> Settings:
    """The settings of a downstream task, from those of the experiment."""
    s = settings
    changes: dict[str, Any] = {
        "data": str(source), "model": str(model), "test_split": _test_split(str(source)),
        "language": s.language, "max_words": s.max_words,
        "train_rows": s.downstream_rows,
        "validation_rows": s.downstream_test_rows, "test_rows": s.downstream_test_rows, "data_seed": s.data_seed,
        "max_length": s.downstream_max_length, "dropout": s.downstream_dropout, "label_smoothing": 0.0,
        "batch_size": s.downstream_batch, "accumulation": 1,
        "learning_rate": s.downstream_learning_rate, "schedule": "linear", "threads": s.threads,
        "precision": s.precision,
    }  # fmt: skip
    return exam.settings_table.resolve(s.preset, changes)


def finetune(
    make: Callable[[], Exam], name: str, settings: Settings, seed: int, number: int, folder: Path, prefix: str,
    method: MethodOf | None = None, keep: bool = False, until: float | None = None,
) -> dict[str, float]:  # fmt: skip
    """The metrics of one fine-tuning, in a folder of its own; see `examine` and `VIEWS`. make: its task."""
    folder = finetuning_folder(folder, prefix, name, number)
    if kept.result(folder) is None:
        task = make()
        how = method(name, number) if method else task.method()
        test = functools.partial(tested, task, how)
        updates = max(1, settings.downstream_epochs * len(task.training_batches(seed)))
        recipe = task.recipe(
            updates=updates, warmup=updates // 10, eval_every=max(1, updates // settings.downstream_epochs),
            log_every=max(1, updates // 10), checkpoint_every=max(1, updates // 2), patience=0,
            monitor=task.measures.get(name, task.measures[""])[0],
        )  # fmt: skip
        start = int(digest(seed, number)[:7], 16)
        learner = task.model(start)
        fitted = kept.train(
            learner, how, task.training_batches(start), recipe, folder, seed=start, cores=settings.threads,
            evaluate=task.validate, identity=digest(settings.digest, seed, number), until=until,
            description=f"{name}, seed {seed}", finish=test,
        )  # fmt: skip
        if keep:
            kept.export(folder, learner, task.tokenizer)
        metrics = test(learner)
        metrics |= {f"last_{score}": number for score, number in (fitted.last or metrics).items()}
        metrics |= {f"validation_{score}": number for score, number in fitted.best.items() if score != "file"}
        kept.keep(folder, {"metrics": metrics, "data": task.facts()})
    return kept.result(folder)["metrics"]


def points_of(name: str, metrics: dict[str, float], view: str = "") -> float:
    """A task's score in points, from the metrics of a fine-tuning; view: which of `VIEWS`."""
    measures = (ScoreExam if "test_pearson" in metrics else Exam).measures
    return 100 * statistics.fmean(metrics[f"{VIEWS[view]}{measure}"] for measure in measures.get(name, measures[""]))
