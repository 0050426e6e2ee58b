"""Self-distillation's experiment: an encoder fine-tuned on little data; settings, sources, arms, ensembles."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor
from transformers import PreTrainedModel

from kdutils.core.errors import UserError
from kdutils.core.settings import Setting, Settings
from kdutils.data.corpora import Corpus
from kdutils.losses.divergences import label_smoothed_nll
from kdutils.models.forward import counted_logits, mode
from kdutils.papers.self_distillation.method import EMA, SDA, SDV, Itself, SelfEnsemble
from kdutils.papers.self_distillation.objective import average_parameters, vote
from kdutils.study import kept
from kdutils.study.experiment import Arm, Experiment, Trial, plain
from kdutils.tasks.base import Task
from kdutils.tasks.classification import Classification
from kdutils.training.loop import evaluation_context

SETUP = "Section 4.2"

SETTINGS = Classification.settings_table.extended(
    Setting("mse_weight", 0.1, 1.0, 1.0, "lambda: weight of the MSE beside the cross-entropy",
            "Section 4.4: 1; best from 1.0 to 1.5 on IMDb's test set"),
    Setting("teacher_size", 5, 5, 5, "K: how many earlier selves teach, of the arms that have no K of their own",
            "Table 2: the best on IMDb's test set, of AG's News T - 1", bounds=(1, 64)),
    Setting("ema_decay", 0.995, 0.995, 0.995, "largest decay of the arm with an exponential average",
            "not in the paper; public code that bears its name: 0.995"),
    Setting("members", 4, 4, 4, "models of the arm of several seeds, which vote and are averaged", "Table 3: 4",
            bounds=(2, 64)),
    Setting("head_learning_rate", 0.0, 1e-3, 1e-3, "peak learning rate of the classifier; 0: as the encoder",
            f"{SETUP}: 1e-3 for the softmax layer", bounds=(0.0, 1e6), small=1e-3),
    Setting("start_seed", 1, 1, 1, "seed of the new head: one start for all seeds, which differ in the order of the "
            "data and in dropout", "Section 4.6: the same initialisation, ten data orders"),
    Setting("label_noise", 0.2, 0.0, 0.0, "share of the training labels that are replaced by a wrong one",
            "none", bounds=(0.0, 1.0), small=0.0),
    data={"demo": "demo:acceptability", "small": "hub:RobZamp/sick@refs/convert/parquet",
          "study": "hub:stanfordnlp/snli", "paper": "hub:stanfordnlp/imdb",
          "source": "Table 1: seven sets; IMDb is that of most figures"},
    model={"demo": "demo", "grammar": "demo", "paper": "bert-base-uncased",
           "source": f"{SETUP}: BERT-base; which of the two is not said"},
    **{name: {"source": "given by the model"} for name in ("width", "layers", "heads", "feedforward")},
    train_rows={"demo": 400, "small": 1500, "study": 1500, "source": "all; of Figure 4: 1,500 of SNLI"},
    validation_rows={"demo": 300, "grammar": 500, "small": 0, "study": 1000,
                     "source": "IMDb has none: carved from the training rows"},
    test_rows={"demo": 600, "grammar": 2000, "small": 2000, "source": "Table 1: all"},
    test_split={"source": "Table 1"},
    vocab_size={"source": "given by the model"},
    label_smoothing={"source": "paper silent; as official BERT: none"},
    patience={"source": "paper silent"},
    precision={"source": "paper silent"},
    select_by={"source": "paper silent; the best epoch or the last"},
    max_length={"paper": 512, "source": f"{SETUP}: the first 512 tokens"},
    batch_size={"demo": 16, "study": 16, "paper": 4, "source": f"{SETUP}: 4"},
    accumulation={"paper": 4, "source": f"{SETUP}: 4; an update is 16 rows"},
    learning_rate={"demo": 1e-3, "small": 2e-4, "study": 2e-5, "paper": 2e-5, "source": f"{SETUP}: 2e-5"},
    schedule={"demo": "linear", "study": "linear", "paper": "linear", "source": "as official BERT: linear"},
    weight_decay={"demo": 0.01, "study": 0.01, "paper": 0.01, "source": "as official BERT: 0.01"},
    clip={"demo": 1.0, "study": 1.0, "paper": 1.0, "source": "as official BERT: 1"},
    dropout={"source": f"{SETUP}: 0.1"},
    updates={"demo": 150, "grammar": 400, "small": 376, "study": 564, "paper": 9375,
             "source": "Figure 5, IMDb: 6 epochs"},
    warmup={"demo": 15, "grammar": 40, "small": 38, "study": 56, "paper": 938, "source": f"{SETUP}: a tenth"},
    eval_every={"demo": 25, "grammar": 50, "small": 94, "study": 94, "paper": 0, "source": "Figure 5: once an epoch"},
    log_every={"demo": 5, "grammar": 10, "study": 20},
)  # fmt: skip


class FineTuning(Classification):
    """Classification from a pretrained encoder: one start for all seeds, training labels that may be wrong."""

    settings_table = SETTINGS

    def check(self, seed: int) -> None:
        """Also refuses a start from scratch: there is nothing to fine-tune."""
        if not self.settings.model:
            raise UserError('model is empty: name an encoder to fine-tune, such as "demo" or bert-base-uncased.')
        super().check(seed)

    def model(self, seed: int) -> PreTrainedModel:
        """The same for every seed but the data order's: `start_seed` decides the new head."""
        return super().model(self.settings.start_seed)

    def member(self, number: int) -> PreTrainedModel:
        """The start of an ensemble's member, whose head is another."""
        return super().model(number)

    def _load(self) -> Corpus:
        return noisy(super()._load(), self.settings.label_noise, self.settings.data_seed)


def noisy(corpus: Corpus, share: float, seed: int) -> Corpus:
    """The corpus with a share of its training labels replaced by another label; validation and test stay right."""
    if not share:
        return corpus
    rng, rows = random.Random(seed), [dict(row) for row in corpus.splits["train"]]
    chosen = rng.sample(range(len(rows)), round(share * len(rows)))
    for number in chosen:
        right = rows[number]["label"]
        rows[number]["label"] = rng.choice([label for label in range(len(corpus.labels)) if label != right])
    note = f"{len(chosen):,} of {len(rows):,} training labels were replaced by a wrong one (label_noise {share})."
    return replace(corpus, splits={**corpus.splits, "train": rows}, notes=(*corpus.notes, note))


def sda(size: int | None = None) -> Callable[[Settings], SDA]:
    """Makes SDA from the settings, with so many teachers, or theirs; 0: all."""
    return lambda s: SDA(s.teacher_size if size is None else size, s.mse_weight, *_labels(s))


def _labels(s: Settings) -> tuple[float, str]:
    return s.label_smoothing, s.smoothing_convention


def frozen(trial: Trial) -> PreTrainedModel:
    """The start with an encoder that stays as it is: the pooler and the classifier are trained."""
    model = trial.task.model(trial.seed)
    for name, parameter in model.base_model.named_parameters():
        parameter.requires_grad_(name.startswith("pooler"))
    return model


ARMS = (
    Arm("baseline", "fine-tuning", lambda s: SelfEnsemble(*_labels(s))),
    Arm("sda_1", "self-distillation, K = 1", sda(1)),
    Arm("sda", "SDA", sda()),
    Arm("sda_all", "SDA, K = T - 1", sda(0)),
    Arm("sdv", "SDV", lambda s: SDV(s.teacher_size, s.mse_weight, *_labels(s))),
    Arm("ema", "exponential average", lambda s: EMA(s.ema_decay, s.mse_weight, *_labels(s)), optional=True),
    Arm("itself", "the present self as teacher", lambda s: Itself(s.mse_weight, *_labels(s)), optional=True),
    Arm("members", "several seeds", plain, start=lambda trial: trial.task.member(_member_seed(trial, 0)), optional=True,
        besides=lambda s: {"updates": (s.members - 1) * s.updates}),
    Arm("frozen", "frozen encoder", plain, start=frozen, optional=True),
)  # fmt: skip
SCORED_ROWS = 100  # training rows


def extra_scores(task: Task, model: PreTrainedModel) -> dict[str, float]:
    """What the model makes of the first training rows, dropout off: loss and accuracy by their labels, right or wrong.

    train_logit_spread: the standard deviation of a row's logits over the classes, mean over the rows: how sure it is.
    """
    logits, targets = logits_of(task, [model], "train", SCORED_ROWS)
    return {
        "train_loss": float(label_smoothed_nll(logits[0], targets)),
        "train_accuracy": float(logits[0].argmax(-1).eq(targets).double().mean()),
        "train_logit_spread": float(logits[0].std(-1, correction=0).mean()),
    }


def exam(trial: Trial, model: PreTrainedModel) -> dict[str, float]:
    """Of the arm of several seeds: the accuracy of the members, of their vote, and of their average (Eq. 2 and 3).

    The first member is the arm's own model; the others are trained here, each with a head, an order of the data and a
    dropout of its own. The weights of each are those that the validation chose.
    """
    if trial.arm != "members":
        return {}
    others = (_member(trial, number) for number in range(1, trial.settings.members))
    models = [model, *(one.to(model.device) for one in others)]
    mean = trial.task.member(0)
    mean.load_state_dict(average_parameters([one.state_dict() for one in models]))
    with evaluation_context(trial.settings.precision, model):
        logits, targets = logits_of(trial.task, [*models, mean], "test")
    right = {"member": logits[:-1].argmax(-1), "vote": vote(logits[:-1]).argmax(-1), "average": logits[-1].argmax(-1)}
    return {f"test_{name}_accuracy": float(best.eq(targets).double().mean()) for name, best in right.items()}


def _member_seed(trial: Trial, number: int) -> int:
    """A seed that no other member of any seed has."""
    return 1000 * trial.seed + number


def _member(trial: Trial, number: int) -> PreTrainedModel:
    task, seed, folder = trial.task, _member_seed(trial, number), trial.folder / "members" / str(number)
    if kept.result(folder) is None:
        model = task.member(seed)
        kept.train(
            model, plain(task.settings), task.training_batches(seed), task.recipe(), folder, seed=seed,
            cores=task.settings.threads, evaluate=task.validate, identity=f"{task.settings.digest}-{seed}",
            until=trial.until, description=f"member {number + 1}, seed {trial.seed}",
        )  # fmt: skip
        kept.export(folder, model, task.tokenizer)
        kept.keep(folder, {})
    return kept.load(folder, "classification")


@torch.no_grad()
def logits_of(
    task: Task, models: Sequence[PreTrainedModel], split: str, rows: int | None = None
) -> tuple[Tensor, Tensor]:
    """The logits (K, N, C) of K models for the rows of a split, dropout off, and their labels (N,)."""
    logits, targets = [], []
    for batch in task.fixed_batches(split, rows):
        batch = {name: one.to(models[0].device) if torch.is_tensor(one) else one for name, one in batch.items()}
        found = []
        for model in models:
            with mode(model.to(models[0].device), training=False):
                found.append(counted_logits(model, batch).float())
        logits.append(torch.stack(found))
        targets.append(batch["targets"])
    return torch.cat(logits, 1), torch.cat(targets)


EXPERIMENTS = (Experiment("self_distillation", FineTuning, SETTINGS, ARMS, extra_scores, exam),)
