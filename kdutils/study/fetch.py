"""What an experiment needs from elsewhere: named with size and licence, fetched beforehand, checked.

>>> for kind, address in needed(settings):          # ("data set", "hub:stanfordnlp/sst2"), ("model", "bert-base-cased")
...     print(address, fetch(kind, address))        # 'up to 5.1 MB, licence: unknown'
>>> checked(experiment, settings)
'train 67,349, validation 872, test 872 rows of text, label'
"""

from __future__ import annotations

from pathlib import Path

from kdutils.core.errors import UserError
from kdutils.core.settings import Settings
from kdutils.data.corpora import ORDER
from kdutils.data.readers import hub_address, load_from_hub
from kdutils.models.build import loading
from kdutils.study.experiment import FOLDERS, Experiment

MODEL_FILES = (".safetensors", ".json", ".txt", ".model")  # of all that a model's page may offer, what is read


def needed(settings: Settings) -> list[tuple[str, str]]:
    """("data set" | "model" | "folder", its address) of all that does not come with this package."""
    found = [(name, value) for name, value in settings.items() if name in FOLDERS or str(value).startswith("hub:")]
    pairs = ["-".join(sorted((one, settings.pivot))) for one in settings.get("languages", ())] or [""]
    kinds = {}
    for name, value in found:
        for one in (str(each).removeprefix(ORDER) for each in (value if isinstance(value, list) else [value])):
            local = not one.startswith("hub:") and name in ("data", "downstream") or Path(one).is_dir()
            kind = "folder" if local or one.startswith(("hub:/", "hub:.")) else "model"
            kind = "data set" if kind == "model" and one.startswith("hub:") else kind
            kinds |= {one.replace("{pair}", pair): kind for pair in pairs if one and not one.startswith("demo")}
    return [(kind, address) for address, kind in kinds.items()]


def fetch(kind: str, address: str) -> str:
    """Brings it into the cache of the hub; its size and licence, as the hub tells them now.

    Raises UserError, one sentence, when it is not in the cache and cannot be fetched.
    """
    from huggingface_hub import HfApi, snapshot_download

    model = kind == "model"
    name, config, revision = (address, None, None) if model else hub_address(address.removeprefix("hub:"))
    if model:
        with loading("model", address):
            snapshot_download(name, allow_patterns=[f"*{one}" for one in MODEL_FILES], ignore_patterns="*/*")
    else:
        load_from_hub(name, config, revision)
    ask = HfApi().model_info if model else HfApi().dataset_info
    try:
        files, card = ask(name, revision=revision, files_metadata=True).siblings, ask(name).card_data
    except Exception:  # of the network, from whatever library is below
        return "size and licence unknown, for the hub cannot be asked"
    own = [one for one in files if one.rfilename.startswith(f"{config}/")] or files
    if model:
        own = [one for one in files if Path(one.rfilename).suffix in MODEL_FILES and "/" not in one.rfilename]
    size = sum(one.size or 0 for one in own) / 1e6
    return f"up to {size:,.1f} MB, licence: {getattr(card, 'license', None) or 'not named on its card'}"


def checked(experiment: Experiment, settings: Settings) -> str:
    """Rows and columns of the data, after all that a run checks before it trains. Raises UserError."""
    task = experiment.task(settings)
    task.check(seed=1)
    splits, most = task.corpus.splits, settings.train_rows
    if isinstance(most, int) and len(splits["train"]) < most:
        rows = f"{len(splits['train']):,} training rows, where {most:,} are asked for"
        raise UserError(f"{settings.data} has {rows}: set train_rows to fewer, or to 0 for all.")
    sizes = ", ".join(f"{split} {len(rows):,}" for split, rows in splits.items())
    return f"{sizes} rows of {', '.join(splits['train'][0])}"
