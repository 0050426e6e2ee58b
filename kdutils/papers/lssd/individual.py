"""Translators of one language each, trained first: the teachers that LSSD is compared with."""

from __future__ import annotations

from torch import nn

from kdutils.papers.lssd.multilingual import tag
from kdutils.study import kept
from kdutils.study.experiment import Trial
from kdutils.training.method import Method


def individual_teachers(trial: Trial, method: Method) -> nn.ModuleDict:
    """By its tag, a translator of each language of a `Multilingual` task alone, kept under `trial.folder` once trained.

    Each gets as many updates as the translator of all, on the pairs of its language, and is taken where its validation
    loss was lowest. They start from the initial weights of the seed, as their
    student does. `method` trains them. Raises Paused when the time is over before they are trained.
    """
    task, s, found = trial.task, trial.settings, {}
    recipe = task.recipe(eval_every=max(1, s.updates // 20), checkpoint_every=max(1, s.updates // 4))
    for language in s.languages:
        name = f"{language}-{task.corpus.fingerprint[:8]}"
        folder = trial.folder / "individual" / name
        if kept.result(folder) is None:
            model = task.model(trial.seed)
            fitted = kept.train(
                model, method, task.only(language, trial.seed), recipe, folder, seed=trial.seed, cores=s.threads,
                evaluate=lambda now, own=language: task.scores(now, "validation", own),
                identity=name, until=trial.until, description=f"{language} alone, seed {trial.seed}",
            )  # fmt: skip
            kept.export(folder, model, task.tokenizer)
            kept.keep(folder, {"history": fitted.history, "seconds": fitted.seconds})
        found[tag(language)] = kept.load(folder, task.kind)
    return nn.ModuleDict(found)
